"""An int8 KV cache on ONNX Runtime: what the kernel does, what the bundle says, and what is refused."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from helium_edge.cli.main import run

from helium_edge.bundle import Bundle, open_bundle
from helium_edge.bundle.kv_scales import read_kv_scales
from helium_edge.errors import BundleError, MissingToolError
from helium_edge.evaluate.scorer import Request, Scorer
from helium_edge.model.kv_cache import round_rows
from helium_edge.runtime.runner import RewindableRunner, RowsRunner
from helium_edge.runtime.versions import check_runtime
from helium_edge.signature import past_name
from helium_edge.targets.loading import open_runner, open_scoring_runner
from tests.helpers.bundles import MODEL, Exported, bundle_recipe, export_bundle
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens
from tests.helpers.genai import genai_ids

torch = pytest.importorskip("torch")
VOCAB = 320


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("kv8") / "checkpoint", **MODEL | {"vocab_size": VOCAB})


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Exported:
    return export_bundle(checkpoint, bundle_recipe("onnx-int4-kv8"), checkpoint.parent / "bundle")


def test_the_manifest_describes_the_cache(exported: Exported) -> None:
    bundle = open_bundle(exported.folder)
    manifest = bundle.manifest
    assert manifest.cache is not None
    assert manifest.cache.scales is not None
    assert manifest.cache.dtype == "int8"
    model = manifest.model
    expected = 2 * model.layers * model.kv_heads * model.head_dim * manifest.cache_len
    assert manifest.cache.total_bytes == manifest.memory.cache_bytes == expected
    assert manifest.runtime_min_version == "1.27"
    assert manifest.cache.scales.tokens > 1000
    assert manifest.cache.scales.held_out_tokens > 200
    for graph in manifest.graphs:
        caches = {spec.dtype for spec in graph.input_specs() if spec.role in ("past_key", "past_value")}
        caches |= {spec.dtype for spec in graph.output_specs() if spec.role in ("present_key", "present_value")}
        assert caches == {"int8"}


def scoring_runner(bundle: Bundle) -> RewindableRunner:
    runner = open_scoring_runner(bundle, threads=1)
    assert isinstance(runner, RowsRunner)
    return runner


def test_choices_are_scored_over_a_rewound_cache(exported: Exported) -> None:
    """Codes are written once for a slot: going back and on gives what a new conversation gives."""
    tokens = random_tokens(30, VOCAB, seed=9)
    choices = [tuple(random_tokens(length, VOCAB, seed=length)[1:]) for length in (2, 4, 7)]
    requests = [Request(tuple(tokens[:length]), choice) for length in (26, 10, 22, 4) for choice in choices]
    bundle = exported.open()
    scorer, plain = (Scorer(scoring_runner(bundle), "last", reuse=each) for each in (True, False))
    found, expected = scorer.score(requests), plain.score(requests)
    off = [abs(one.log_probability - other.log_probability) for one, other in zip(found, expected, strict=True)]
    assert max(off) <= 0.1
    assert scorer.counts.fed < plain.counts.fed / 2


@pytest.mark.parametrize("static", [False, True])
def test_the_kernel_rounds_as_we_say(exported: Exported, static: bool) -> None:
    """Codes of the first layer follow from a float32 product: no activation rounding stands before them there."""
    bundle = exported.open()
    scales = read_kv_scales(bundle)
    assert scales is not None
    runner = open_runner(bundle, threads=1, static=static)
    tokens = random_tokens(20, VOCAB)
    runner.prefill(tokens)
    buffers = runner.cache_buffers  # type: ignore[attr-defined]
    assert {buffer.dtype for buffer in buffers} == {np.dtype(np.int8)}
    for codes, scale in zip(buffers, scales.buffers(), strict=True):
        real = torch.from_numpy(codes[0].astype(np.float32)) * scale
        assert torch.equal(round_rows(real, scale), real)  # exact there and back
        assert codes[0][:, :20].any()
        assert np.abs(codes[0][:, :20].astype(int)).max() > 40  # the scales are of this model's size


def test_the_graph_holds_the_scales_of_the_file(exported: Exported) -> None:
    scales = read_kv_scales(exported.open())
    assert scales is not None
    for file in ("decoder.onnx", "prefill.onnx", "decode.onnx", "genai.onnx"):
        graph = ir.load(exported.folder / file).graph
        nodes = [node for node in graph if node.op_type == "GroupQueryAttention"]
        found = [node.inputs[index] for node in nodes for index in (12, 13)]
        for value, scale in zip(found, scales.buffers(), strict=True):
            assert value is not None
            assert value.const_value is not None
            assert np.array_equal(value.const_value.numpy()[0], scale.numpy())
        assert {value.name for value in graph.inputs} >= {past_name(0, "key"), past_name(2, "value")}


def test_the_same_input_gives_the_same_bytes(exported: Exported, checkpoint: Path, tmp_path: Path) -> None:
    again = export_bundle(checkpoint, bundle_recipe("onnx-int4-kv8"), tmp_path / "again")
    for file in sorted(exported.folder.iterdir()):
        assert (again.folder / file.name).read_bytes() == file.read_bytes(), file.name


def test_onnxruntime_genai_runs_it(exported: Exported) -> None:
    golden = exported.open().manifest.golden
    assert golden is not None
    found = genai_ids(exported.folder, golden.prompt_ids, len(golden.greedy_ids), max_length=48)
    assert found == list(golden.greedy_ids)


# -- what is refused, each in one line


def test_an_older_runtime_is_refused(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: "1.26.0")
    with pytest.raises(
        MissingToolError, match=r"1\.27 or newer is needed for an int8 KV cache; 1\.26\.0"
    ) as caught:
        open_runner(exported.open())
    assert caught.value.hint == "pip install --upgrade 'onnxruntime>=1.27', or a recipe with kv_cache: float32"


def test_another_minimum_is_not_blamed_on_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: "1.26.0")
    with pytest.raises(MissingToolError, match=r"is needed for these graphs; 1\.26\.0 is installed") as caught:
        check_runtime("onnxruntime", "1.27")
    assert caught.value.hint == "pip install --upgrade 'onnxruntime>=1.27'"


@pytest.mark.parametrize(
    ("found", "enough"),
    [("1.27", True), ("1.27.0", True), ("1.32.0", True), ("2.0", True), ("1.27.0.dev3", True), ("1.9.9", False),
     ("1.26.99", False), ("0.30", False)],
)  # fmt: skip
def test_versions_are_compared_as_numbers(found: str, enough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: found)
    check_runtime("onnxruntime", None)
    if enough:
        check_runtime("onnxruntime", "1.27")
        return
    with pytest.raises(MissingToolError, match="or newer is needed"):
        check_runtime("onnxruntime", "1.27")


REFUSED = {
    "portable": ("onnx-int4-portable", "needs the dialect contrib"),
    "coreml": ("coreml-int4", "target coreml has no int8 KV cache"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_targets_without_such_a_cache_say_so(
    what: str, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, message = REFUSED[what]
    recipe = bundle_recipe(name).model_copy(update={"kv_cache": "int8"})
    path = tmp_path / "mine.yaml"
    path.write_text(recipe.canonical_json(), encoding="utf-8")  # JSON is YAML
    code = run(["export", str(checkpoint), "--recipe", str(path), "-o", str(tmp_path / "out"), "--no-parity"])
    assert code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_text_that_nothing_is_calibrated_on_is_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A text of some words. " * 40, encoding="utf-8")
    command = ["export", str(checkpoint), "-o", str(tmp_path / "out"), "--no-parity", "--calibration", str(text)]
    assert run([*command, "--recipe", "onnx-int8", "--prefill-len", "8"]) == 2
    assert "nothing of this export is calibrated" in capsys.readouterr().err
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(bundle_recipe("onnx-int4-kv8").canonical_json(), encoding="utf-8")
    assert run([*command[:-1], str(tmp_path / "none.txt"), "--recipe", str(recipe)]) == 2
    assert "none.txt: the text cannot be read" in capsys.readouterr().err
    assert run([*command, "--recipe", str(recipe), "--json"]) == 0
    found = json.loads((tmp_path / "out" / "helium-edge.json").read_text())["cache"]["scales"]
    assert found["text"] == "text.txt"


@pytest.mark.parametrize("damage", ["cut", "shape", "gone"])
def test_damaged_scales_are_refused_by_name(damage: str, exported: Exported, tmp_path: Path) -> None:
    import shutil

    import safetensors.torch

    folder = Path(shutil.copytree(exported.folder, tmp_path / "b"))
    path = folder / "kv_scales.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:50])
    elif damage == "shape":
        tensors = safetensors.torch.load(path.read_bytes())
        path.write_bytes(safetensors.torch.save(tensors | {"layers.0.key_scale": torch.ones(2, 3)}))
    else:
        path.unlink()
    with pytest.raises(BundleError, match=r"kv_scales\.safetensors"):
        read_kv_scales(open_bundle(folder, unverified=True))
