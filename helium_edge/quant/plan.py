"""The plan: which scheme each matrix gets, and what it will weigh, known from config and recipe alone."""

from __future__ import annotations

from dataclasses import dataclass

from helium_edge.checkpoint.weight_map import expected_tensors
from helium_edge.config import ModelConfig
from helium_edge.errors import RecipeError
from helium_edge.model.weights import EMBEDDING, HEAD, matrix_names
from helium_edge.quant.affine import storage_bytes
from helium_edge.quant.methods import check_method
from helium_edge.recipe import GROUP_SIZES, Quantization, Rule, Scheme


@dataclass(frozen=True)
class PlannedWeight:
    """What happens to one matrix.

    Attributes:
        name: The weight.
        shape: (N, K).
        scheme: Its format; None stays float32, because a rule says skip.
        fallback: Whether `scheme` is the rule's fallback, its own group size not dividing K.
        nbytes: Bytes of packed codes, float32 scales and packed zero points, or of float32 weights.
    """

    name: str
    shape: tuple[int, int]
    scheme: Scheme | None
    fallback: bool
    nbytes: int


def plan_weights(config: ModelConfig, quantization: Quantization) -> list[PlannedWeight]:
    """Apply the rules of a recipe to every matrix of a model, in the order of `matrix_names`.

    Raises:
        RecipeError: A weight has no rule, a rule has no weight, a group size does not divide K, or the method is
            unknown.
    """
    check_method(quantization.method)
    names = matrix_names(config)
    used = {id(quantization.rule_for(name)) for name in names}
    for number, rule in enumerate(quantization.rules, start=1):
        if id(rule) not in used:
            raise _unused_rule(number, rule, names)
    shapes = {name: tensor.shape for name, tensor in expected_tensors(config).items()}
    shapes.setdefault(HEAD, shapes[EMBEDDING])  # tied; not among the names where there is no such head
    return [_plan_weight(name, (shapes[name][0], shapes[name][1]), quantization) for name in names]


def _plan_weight(name: str, shape: tuple[int, int], quantization: Quantization) -> PlannedWeight:
    rule = quantization.rule_for(name)
    if rule.scheme is None or _fits(rule.scheme, shape[1]):
        return PlannedWeight(name, shape, rule.scheme, False, storage_bytes(rule.scheme, shape))
    if rule.fallback is not None and _fits(rule.fallback, shape[1]):
        return PlannedWeight(name, shape, rule.fallback, True, storage_bytes(rule.fallback, shape))
    number = next(index for index, other in enumerate(quantization.rules, start=1) if other is rule)
    sizes = ", ".join(str(size) for size in GROUP_SIZES if shape[1] % size == 0)
    found = (
        f"of the group sizes, {sizes or 'none'} divides" if ", " not in sizes else f"group sizes {sizes} divide"
    )
    asked = f"{rule.scheme}" if rule.fallback is None else f"{rule.scheme} and its fallback {rule.fallback}"
    raise RecipeError(
        f"quantization rule {number} (match {rule.match!r}): {asked} cannot take {name}: {found} K = {shape[1]}",
        hint="use a size that divides, or give the rule a fallback (fallback: int8), or skip: true",
    )


def _fits(scheme: Scheme, columns: int) -> bool:
    return scheme.group_size is None or columns % scheme.group_size == 0


def _unused_rule(number: int, rule: Rule, names: list[str]) -> RecipeError:
    where = f"quantization rule {number} (match {rule.match!r})"
    taken = [name for name in names if rule.matches(name)]
    if taken:
        return RecipeError(
            f"{where} is never used: earlier rules match all its weights, {taken[0]} first of them",
            hint="the first match wins: put special rules before general ones",
        )
    return RecipeError(
        f"{where} matches no weight",
        hint=f"a pattern must match a whole name, as {names[1]} or {names[-1]}; norms and biases have no rules",
    )
