"""Class 5, recipes."""

from __future__ import annotations

import os
from typing import Any

import yaml

from helium_edge.recipe import recipe_text
from tests.hostile.case import CATALOGUE, OK, USAGE, Sandbox

RECIPES = "5. Recipes"
add = CATALOGUE.add


def _recipe(what: str, content: str | bytes, *says: str, code: int = USAGE, named: bool = True) -> None:
    @add(RECIPES, what, *(says if code == OK or not named else ("mine.yaml", *says)), code=code)
    def _(box: Sandbox) -> list[str]:
        box.checkpoint()
        path = box.root / "mine.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return box.export(recipe="mine.yaml")


def _edited(**changes: Any) -> str:
    data = yaml.safe_load(recipe_text("onnx-fp32")) | {"name": "mine"}
    for place, value in changes.items():
        node = data
        *parents, last = place.split("__")
        for part in parents:
            node = node[part]
        node[last] = value
    return yaml.safe_dump(data)


def _pattern(match: str) -> str:
    return _edited(quantization__rules=[{"match": match, "skip": True}, {"match": ".*", "skip": True}])


_recipe("sound", _edited(), code=OK)
_recipe(
    "an alias bomb",
    "a: &a [x,x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)},*{chr(97 + i)}]\n" for i in range(20)),
    "aliases",
)
_recipe("a merge bomb", "a: &a {k: v}\nb: {<<: [*a,*a]}\n", "aliases")
_recipe("a tag that makes an object", "name: !!python/object/apply:os.system ['touch pwned']\n", "not valid YAML")
_recipe("larger than 32 KiB", "#" * 70_000, "too many")
_recipe("3,000 keys", "".join(f"k{i}: 1\n" for i in range(3_000)), "unknown key")
_recipe("20,000 lists deep", "[" * 20_000, "too many")
_recipe("700 lists deep", "[" * 700, "not valid YAML")
_recipe("a zip archive", b"PK\x03\x04" + bytes(100), "not")
_recipe("not UTF-8", b"name: \xff\n", "not readable")
_recipe("empty file", "", "mapping")
_recipe("a list", "- a\n", "mapping")
_recipe("two documents", "name: a\n---\nname: b\n", "not valid YAML")
_recipe("a key given twice", "name: a\nname: b\n", "stands twice")
_recipe("an unknown key", _edited(nmae="x"), "nmae", "name")
_recipe("an unknown key below", _edited(shapes={"prefil_len": 8}), "prefil_len", "prefill_len")
_recipe("a date for a text", "name: 2026-01-01\n")
_recipe("infinity for a gate", _edited(gates={"mean_kld": float("inf")}), "mean_kld")
_recipe("cache_len = 2^40", _edited(shapes={"cache_len": 2**40}), "cache_len")
_recipe("prefill_len = 0", _edited(shapes={"prefill_len": 0}), "prefill_len")
_recipe(
    "a pattern that makes other engines try forever",
    _pattern("(.*)*x"),
    "rule 1",
    "matches no weight",
    named=False,
)
_recipe("a pattern with look-around", _pattern("(?!lm_head).*"), "look-around")
_recipe("a pattern that is no pattern", _pattern("["), "regular expression")
_recipe("a pattern that would need gigabytes", _pattern("((a{999}){999}){999}"), "regular expression")
_recipe("700 rules", "quantization:\n  rules:\n" + "  - {match: a}\n" * 700, "")
_recipe("an unknown target", _edited(targets={"tensorrt": {}}), "tensorrt")


@add(RECIPES, "a FIFO", "mine.yaml", "no such recipe file", code=USAGE)
def _recipe_fifo(box: Sandbox) -> list[str]:
    box.checkpoint()
    os.mkfifo(box.root / "mine.yaml")
    return box.export(recipe="mine.yaml")


@add(RECIPES, "a link to an endless device", "mine.yaml", "no such recipe file", code=USAGE)
def _recipe_device(box: Sandbox) -> list[str]:
    box.checkpoint()
    (box.root / "mine.yaml").symlink_to("/dev/zero")
    return box.export(recipe="mine.yaml")
