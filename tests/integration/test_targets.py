"""One recipe, several targets: the same integers in every file, each bundle within its gates, the same text."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from helium_edge.cli.main import main

from helium_edge import export
from helium_edge.bundle import open_bundle, record_golden
from helium_edge.exporting import ExportRequest, ExportResult, export_all
from helium_edge.generation import language_model
from helium_edge.parity import LevelReport
from helium_edge.quant import METHODS, QuantizedWeight
from helium_edge.quant.packing import read_gather_block, read_matmul_nbits
from helium_edge.recipe import Recipe, Scheme, load_recipe, parse_recipe
from tests.helpers.checkpoints import make_checkpoint

MISSING = [name for name in ("executorch", "coremltools") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (the extra executorch)"
)

NEAR_TIE = 0.5
"""Logits by which the original's best token may lead where two runtimes that round differently part."""


def both() -> Recipe:
    text = """
    name: both
    targets: {onnx: {}, xnnpack: {}}
    shapes: {prefill_len: 32, cache_len: 128}
    quantization:
      rules:
        - {match: 'model\\.embed_tokens\\.weight|lm_head\\.weight', scheme: int8}
        - {match: '.*_proj\\.weight', scheme: int4-g32}
    gates: {mean_kld: 0.06, top1: 0.90, ppl_ratio: 1.05, near_tie: 0.02}
    """
    return parse_recipe(text, where="test")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, ExportResult], Counter[str]]:
    """The bundles by target, compared with the original on the way, and how often each shape was quantized."""
    counts: Counter[str] = Counter()

    class Counting:
        searches = True

        def measure(self, weight: torch.Tensor, scheme: Scheme) -> tuple[QuantizedWeight, float]:
            counts[f"{tuple(weight.shape)}"] += 1
            return METHODS["mse"].measure(weight, scheme)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helium_edge.quant.store.find_method", lambda name: Counting())
        results = export_all(
            ExportRequest("helium-tiny", both(), tmp_path_factory.mktemp("both") / "tiny", threads=2)
        )
    return {result.manifest.target.name: result for result in results}, counts


def test_each_target_is_a_bundle_within_its_gates(
    exports: tuple[dict[str, ExportResult], Counter[str]],
) -> None:
    results, _ = exports
    assert list(results) == ["onnx", "xnnpack"]
    for name, result in results.items():
        assert result.bundle.name == name
        assert result.parity is not None
        assert result.parity.passed
    manifests = [result.manifest for result in results.values()]
    assert manifests[0].quantization.fingerprint == manifests[1].quantization.fingerprint
    assert {path.name for path in results["onnx"].bundle.parent.iterdir()} == {"onnx", "xnnpack"}


def test_the_store_is_computed_once(exports: tuple[dict[str, ExportResult], Counter[str]]) -> None:
    _, counts = exports
    assert counts == {
        "(4096, 256)": 2, "(256, 256)": 12, "(128, 256)": 12, "(640, 256)": 12, "(256, 640)": 6,
    }  # fmt: skip


def test_the_integers_are_the_same_in_every_file(
    exports: tuple[dict[str, ExportResult], Counter[str]],
) -> None:
    from helium_edge.runtime.xnnpack_program import read_xnnpack

    results, _ = exports
    method = read_xnnpack(results["xnnpack"].bundle / "decoder.pte").methods["decode"]
    model = onnx.load(results["onnx"].bundle / "decode.onnx")
    tensors = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    int4, int8 = Scheme(bits=4, group_size=32), Scheme(bits=8)
    parts = [(f"layers.{i}.{part}_proj", int4) for i in range(6) for part in ("qkv", "o", "gate", "up", "down")]
    expected = {
        name: read_matmul_nbits(
            tensors[f"{name}.weight"], tensors[f"{name}.scales"], None, scheme=scheme,
            columns=640 if ".down" in name else 256,
        )
        for name, scheme in [*parts, ("lm_head", int8)]
    }  # fmt: skip
    # XNNPACK's file has gate and up side by side.
    found = iter(product.weight for product in method.products if product.weight is not None)
    for layer in range(6):
        for names in (["qkv"], ["o"], ["gate", "up"], ["down"]):
            weights = [expected[f"layers.{layer}.{name}_proj"] for name in names]
            stored = next(found)
            assert torch.equal(stored.codes, torch.cat([weight.codes for weight in weights])), (layer, names)
            assert torch.equal(stored.scales, torch.cat([weight.scales for weight in weights])), (layer, names)
    stored = next(found)
    assert torch.equal(stored.codes, expected["lm_head"].codes)
    assert torch.equal(stored.scales, expected["lm_head"].scales)
    embedding = read_gather_block(
        tensors["embedding.weight"], tensors["embedding.scales"], None, scheme=int8, columns=256
    )
    assert method.embedding is not None
    assert torch.equal(method.embedding.codes, embedding.codes)


def test_greedy_texts_agree_until_a_near_tie(exports: tuple[dict[str, ExportResult], Counter[str]]) -> None:
    traces = []
    for result in exports[0].values():  # their golden traces may have different prompts
        with language_model(open_bundle(result.bundle)) as model:
            traces.append(record_golden(model.runner, "a", model.ids("a")))
    first, second = traces
    for a, b, margin in zip(first.greedy_ids, second.greedy_ids, first.margins, strict=False):
        if a != b:
            assert margin < NEAR_TIE
            break


@pytest.mark.parametrize(
    ("target", "package", "extra"),
    [
        ("executorch", "executorch", "executorch"),
        ("xnnpack", "executorch", "executorch"),
        ("coreml", "coremltools", "coreml"),
    ],
)
def test_without_the_extra_the_pip_command_is_shown(
    target: str,
    package: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    arguments = [
        "export",
        "helium-tiny",
        "--recipe",
        "onnx-int4",
        "--target",
        target,
        "--no-parity",
        "-o",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", ["helium-edge", *arguments])
    with pytest.raises(SystemExit) as info:
        main()
    assert info.value.code == 5
    assert f"pip install '.[{extra}]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "debug"), [("xnnpack-int4", False), ("coreml-int4", False), ("xnnpack-int4", True)]
)
def test_the_exporters_noise_reaches_the_terminal_only_with_debug(name: str, debug: bool, tmp_path: Path) -> None:
    """torchao, executorch and coremltools warn at import and while lowering; none of it is for our users."""
    source = make_checkpoint(tmp_path / "checkpoint", vocab_size=512)
    command = [
        sys.executable, "-c", "from helium_edge.cli.main import main; main()", *["--debug"] * debug, "export",
        str(source), "--recipe", name, "--prefill-len", "8", "--cache-len", "32", "--no-parity", "-o",
        str(tmp_path / name),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    known = ("read checkpoint", "calibrate weights", "quantize and write", "describe", "run", "publish", "next:")
    noise = [line for line in done.stderr.splitlines() if not line.startswith(known)]
    assert bool(noise) is debug, noise


def test_a_coreml_report_says_what_was_not_run(tmp_path: Path) -> None:
    recipe = load_recipe("coreml-fp16")
    shapes = recipe.shapes.model_copy(update={"prefill_len": 32, "cache_len": 128})
    result = export("helium-tiny", recipe=recipe.model_copy(update={"shapes": shapes}), out=tmp_path / "coreml")
    assert result.parity is not None
    assert result.parity.passed
    level = result.parity.level("L3")
    assert isinstance(level, LevelReport)
    assert "Apple's kernels were not run" in level.caveat
    assert result.manifest.parity is not None
    assert "Apple's kernels were not run" in str(result.manifest.parity["caveat"])
