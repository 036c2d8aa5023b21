"""From one scheme a group to the rules of a recipe, few and readable, and to its text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from helium_edge.mixed_precision.groups import EMBEDDING_GROUP, HEAD_GROUP, Group
from helium_edge.recipe import Recipe, Rule, Scheme

_PATTERNS = {
    EMBEDDING_GROUP: r"model\.embed_tokens\.weight",
    HEAD_GROUP: r"(lm_head|score)\.weight",
    "attention": r"model\.layers\.{}\.self_attn\.[qkv]_proj\.weight",
    "mixed": r"model\.layers\.{}\.self_attn\.o_proj\.weight",
    "mlp": r"model\.layers\.{}\.mlp\.(gate|up)_proj\.weight",
    "gated": r"model\.layers\.{}\.mlp\.down_proj\.weight",
}


def rules_for(schemes: Mapping[Group, Scheme | None]) -> tuple[Rule, ...]:
    """Rules that give each group its scheme: those of single layers first, then what most layers have.

    Args:
        schemes: One a group; None stays float32.
    """
    rules = []
    for kind, pattern in _PATTERNS.items():
        found = {group: scheme for group, scheme in schemes.items() if group.kind == kind}
        if not found:
            continue
        (usual, _), *_ = Counter(found.values()).most_common(1)
        for scheme in sorted({*found.values()} - {usual}, key=str):
            layers = [group.layer for group, taken in found.items() if taken == scheme]
            rules.append(_rule(pattern.format(_any_of(layers)), scheme))
        rules.append(_rule(_with_tied_head(found, pattern).format(r"\d+"), usual))
    return tuple(rules)


def _with_tied_head(found: Mapping[Group, Scheme | None], pattern: str) -> str:
    """The pattern of the embedding takes the head where the two are one."""
    tied = any(group.kind == EMBEDDING_GROUP and len(group.names) > 1 for group in found)
    return f"{pattern}|{_PATTERNS[HEAD_GROUP]}" if tied else pattern


def _any_of(layers: Sequence[int | None]) -> str:
    return f"({'|'.join(map(str, layers))})" if len(layers) > 1 else str(layers[0])


def _rule(match: str, scheme: Scheme | None) -> Rule:
    return Rule(match=match, scheme=scheme, skip=scheme is None)


def recipe_yaml(recipe: Recipe) -> str:
    """A recipe as the shipped ones are written, a line a rule; what is left at its default is left out."""
    data = recipe.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    quantization = data.pop("quantization")
    rules = quantization.pop("rules")
    schemes = [None if rule.scheme is None else str(rule.scheme) for rule in recipe.quantization.rules]
    lines = [_dump({key: value}) for key, value in data.items() if key != "gates"]
    lines += [
        "quantization:\n",
        *(f"  {_dump({key: value})}" for key, value in quantization.items()),
        "  rules:\n",
    ]
    for rule, scheme in zip(rules, schemes, strict=True):
        kind = "skip: true" if scheme is None else f"scheme: {scheme}"
        lines.append(f"    - {{match: '{rule['match']}', {kind}}}\n")
    return "".join([*lines, *([_dump({"gates": data["gates"]})] if "gates" in data else [])])


def _dump(data: Mapping[str, Any]) -> str:
    nested = any(isinstance(value, dict) for value in data.values())
    style = None if nested else False  # innermost mappings in one line, and plain keys on lines of their own
    text: str = yaml.safe_dump(dict(data), sort_keys=False, default_flow_style=style, width=1 << 16)
    return text
