"""Levels L1 and L3 of classifiers and encoders: green on every target with every scheme, red for faults.

A plain run takes each task and each scheme once on each target for helium-tiny, and holds L1. `--all-tasks` takes
every combination, and holds L3 to the gates of the recipe, too. `-rP` shows what each combination measured.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helium_edge.parity.text_graph import TextGraph, compare_graph
from helium_edge.parity.text_report import ReferenceTextModel, TextReport, compare_texts
from helium_edge.quant import QuantizedStore, QuantizedWeight
from helium_edge.runtime.quiet import quiet
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.targets import load_target
from helium_edge.targets.xnnpack.method import last_token
from tests.helpers.text_models import (
    TEXT_CLASSES,
    TOKENS,
    TextExport,
    export_text_model,
    id_rows,
    make_text_model,
    text_recipe,
    tiny_text_model,
)

if importlib.util.find_spec("executorch") is None or importlib.util.find_spec("coremltools") is None:
    pytest.skip("executorch and coremltools are not installed", allow_module_level=True)

TARGETS = {
    "onnx": ("onnx-fp32", "onnx-int8", "onnx-int4"),
    "xnnpack": ("xnnpack-fp32", "xnnpack-int8", "xnnpack-int4"),
    "coreml": ("coreml-fp16", "coreml-int8", "coreml-int4"),
}
RECIPES = [recipe for recipes in TARGETS.values() for recipe in recipes]
LATIN = [  # each task and each scheme once on each target
    (suffix, recipes[(place + shift) % 3])
    for shift, recipes in enumerate(TARGETS.values())
    for place, suffix in enumerate(TEXT_CLASSES)
]

ALL = [(suffix, recipe) for recipe in RECIPES for suffix in TEXT_CLASSES]

_checkpoints: dict[str, Path] = {}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("levels")


def checkpoint(root: Path, suffix: str, make: Callable[..., Path]) -> Path:
    """A checkpoint of a class, written once."""
    key = f"{make.__name__} {suffix}"
    if key not in _checkpoints:
        options = {"seed": 9} if make is make_text_model else {}
        _checkpoints[key] = make(root / key.replace(" ", "-"), f"Helium{suffix}", **options)
    return _checkpoints[key]


def level1(exported: TextExport, texts: Sequence[Sequence[int]]) -> TextGraph:
    (target,) = exported.recipe.targets.names()
    arithmetic = load_target(target).arithmetic(exported.recipe, exported.store.plan)
    return compare_graph(exported.runner(), exported.store, arithmetic, texts)


def level3(exported: TextExport, texts: Sequence[Sequence[int]]) -> TextReport:
    return compare_texts(
        exported.runner(), ReferenceTextModel(exported.checkpoint, TOKENS), texts, exported.recipe.gates
    )


def tell(exported: TextExport, graph: TextGraph, report: TextReport) -> None:
    """A line of the table in docs/parity.md."""
    figures = report.figures
    suffix = exported.checkpoint.config.architecture.removeprefix("Helium")
    found = figures.cosine if figures.label_agreement is None else figures.label_agreement_decided
    print(  # noqa: T201 - shown by -rP
        f"| {exported.recipe.name} | {suffix} | {graph.median_error:.1e} | {graph.worst_error:.1e} "
        f"| {figures.rms_error:.2g} | {found:.4f} | {'; '.join(report.failures) or 'holds'} |"
    )


def random_texts() -> list[list[int]]:
    """Six texts without padding, and those with padding in every place."""
    rng = np.random.default_rng(3)
    return [*rng.integers(4, 160, (6, TOKENS)).tolist(), *id_rows().values()]


def failures(found: TextGraph) -> list[str]:
    return [gate.failure for gate in found.gates if gate.failure is not None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is test_helium_tiny:
        pairs = ALL if metafunc.config.getoption("--all-tasks") else LATIN
        metafunc.parametrize(("suffix", "recipe"), pairs)


@pytest.mark.parametrize(("suffix", "recipe"), ALL)
def test_random_checkpoints(suffix: str, recipe: str, root: Path, tmp_path: Path) -> None:
    """Weights of std 0.3: the graph is right, and without quantization it is the original."""
    exported = export_text_model(checkpoint(root, suffix, make_text_model), text_recipe(recipe), tmp_path / "out")
    graph, report = level1(exported, random_texts()), level3(exported, random_texts())
    tell(exported, graph, report)
    assert failures(graph) == []
    # What quantization costs weights that nobody trained is told and not judged (docs/parity.md).
    assert not recipe.endswith("fp32") or report.failures == []


def test_helium_tiny(suffix: str, recipe: str, root: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    folder = checkpoint(root, suffix, tiny_text_model)
    exported = export_text_model(folder, text_recipe(recipe), tmp_path / "out")
    ids = Tokenizer(folder / "tokenizer.json").encode(
        "Le capteur mesure la température et envoie les données. " * 8
    )
    texts = [ids[start : start + TOKENS] for start in range(0, len(ids) - TOKENS, TOKENS)]
    assert len(texts) >= 5
    graph, report = level1(exported, texts), level3(exported, texts)
    tell(exported, graph, report)
    assert failures(graph) == []
    if pytestconfig.getoption("--all-tasks"):
        assert report.failures == []


def last_row(b: Any, x: Any, tokens: int) -> Any:
    from helium_edge.mlpackage.operators import slice_axis

    return slice_axis(b, x, 0, tokens - 1, tokens)


@pytest.mark.parametrize(
    ("recipe", "place", "last"),
    [
        ("onnx-int4", "onnx.decoder", lambda b, _: b.ints(-1)),
        ("xnnpack-int4", "xnnpack.method", lambda prologue, ids, _: last_token(prologue, ids, None)),
        ("coreml-int4", "coreml.decoder", lambda b, x, signature: last_row(b, x, signature.tokens)),
    ],
)
def test_a_wrong_position_is_red(
    recipe: str, place: str, last: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last token of the input in place of the last one that is no padding."""
    with quiet():  # coremltools warns where it is imported first
        monkeypatch.setattr(f"helium_edge.targets.{place}.last_token", last)
    source = checkpoint(root, "ForSequenceClassification", make_text_model)
    exported = export_text_model(source, text_recipe(recipe), tmp_path / "out")
    found = level1(exported, random_texts())
    assert {line.split()[0] for line in failures(found)} == {"median_error", "worst_error"}


@pytest.mark.parametrize("recipe", ["onnx-int4", "xnnpack-int4"])
def test_one_scale_off_is_red(recipe: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By 5 %, of one group of 32 weights: no whole text is off by more than roundings are."""
    honest = QuantizedStore.get

    def get(store: QuantizedStore, name: str) -> QuantizedWeight | torch.Tensor:
        weight = honest(store, name)
        if name != "model.layers.1.self_attn.o_proj.weight":
            return weight
        assert isinstance(weight, QuantizedWeight)
        scales = weight.scales.clone()
        scales[3, 1] = (scales[3, 1] * 1.05).to(torch.bfloat16)
        assert scales[3, 1] != weight.scales[3, 1]
        return QuantizedWeight(weight.scheme, weight.codes, scales, weight.zero_points)

    source = checkpoint(root, "ForTokenClassification", make_text_model)
    with monkeypatch.context() as patch:
        patch.setattr(QuantizedStore, "get", get)
        exported = export_text_model(source, text_recipe(recipe), tmp_path / "out")
    assert [line.split()[0] for line in failures(level1(exported, random_texts()))] == ["median_error"]
