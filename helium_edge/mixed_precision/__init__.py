"""Mixed precision by a budget of bytes: which matrices deserve more bits.

`fit_recipe` is the entrance: losses (what each group of matrices costs under each scheme) > knapsack (the best
choice within a budget) > rules (the recipe that says so).
"""

from helium_edge.mixed_precision.fit import FitRequest, FittedRecipe, fit_recipe

__all__ = ["FitRequest", "FittedRecipe", "fit_recipe"]
