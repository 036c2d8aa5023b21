"""Recipes by tasks: many bundles of one checkpoint, asked the same questions, on one machine or several."""
