"""A float16 KV cache on ONNX Runtime: what is rounded, what the bundle says, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from helium_edge.cli.main import run

from helium_edge.bundle import open_bundle
from helium_edge.checkpoint.header import read_header
from helium_edge.model.kv_cache import beyond_half_rounding
from helium_edge.parity.localise import localise
from helium_edge.parity.rollout import decode_step, prefill_step
from helium_edge.parity.trace import Tracer, open_tracer
from helium_edge.parity.verdict import NOISE
from helium_edge.parity.yardstick import Yardstick
from helium_edge.recipe import Recipe
from helium_edge.runtime.prompt_cache import load_prompt_cache, save_prompt_cache
from helium_edge.runtime.token_cache import TokenCache
from helium_edge.targets import load_target
from helium_edge.targets.loading import open_runner, target_of
from tests.helpers.bundles import MODEL, Exported, bundle_recipe, export_bundle
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens
from tests.helpers.genai import genai_ids

torch = pytest.importorskip("torch")
VOCAB = 320


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("kv16") / "checkpoint", **MODEL | {"vocab_size": VOCAB})


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Exported:
    return export_bundle(checkpoint, bundle_recipe("onnx-int4-kv16"), checkpoint.parent / "bundle")


def test_the_manifest_describes_the_cache(exported: Exported) -> None:
    manifest = open_bundle(exported.folder).manifest
    assert manifest.cache is not None
    assert manifest.cache.dtype == "float16"
    assert manifest.cache.scales is None
    model = manifest.model
    expected = 2 * model.layers * model.kv_heads * model.head_dim * manifest.cache_len * 2
    assert manifest.cache.total_bytes == manifest.memory.cache_bytes == expected
    for graph in manifest.graphs:
        caches = {spec.dtype for spec in graph.input_specs() if spec.role in ("past_key", "past_value")}
        caches |= {spec.dtype for spec in graph.output_specs() if spec.role in ("present_key", "present_value")}
        assert caches == {"float16"}


@pytest.mark.parametrize("file", ["decoder.onnx", "prefill.onnx", "decode.onnx", "genai.onnx"])
def test_rows_are_rotated_before_they_are_rounded(file: str, exported: Exported) -> None:
    graph = ir.load(exported.folder / file).graph
    nodes = [node for node in graph if node.op_type == "GroupQueryAttention"]
    assert len(nodes) == exported.open().manifest.model.layers
    for node in nodes:
        assert node.attributes["do_rotary"].as_int() == 0
        ops, source = [], node.inputs[0]
        for _ in range(3):
            assert source is not None
            producer = source.producer()
            assert producer is not None
            ops.append(producer.op_type)
            source = producer.inputs[0]
        assert ops == ["Cast", "Concat", "RotaryEmbedding"]


@pytest.mark.parametrize("static", [False, True])
def test_the_cache_holds_the_nearest_numbers(exported: Exported, checkpoint: Path, static: bool) -> None:
    """Of the first layer, where nothing that was rounded stands before: those of a float32 cache, in float16."""
    plain = export_bundle(checkpoint, bundle_recipe("onnx-int4"), checkpoint.parent / f"plain-{static}")
    tokens = random_tokens(20, VOCAB)
    buffers = []
    for each in (exported, plain):
        runner = open_runner(each.open(), threads=1, static=static)
        runner.prefill(tokens[:13])
        for token in tokens[13:]:
            runner.decode(token)
        buffers.append([buffer[0, :, :20] for buffer in runner.cache_buffers[:2]])
    for halves, reals in zip(*buffers, strict=True):
        assert halves.dtype == np.float16
        assert np.abs(halves).min(axis=-1).max() > 0
        off = beyond_half_rounding(halves, reals)
        assert np.abs(off).max() <= 1e-6 * np.abs(reals).max()


# -- parity


def yardstick(exported: Exported, tracer: Tracer | None) -> Yardstick:
    bundle = exported.open()
    recipe = bundle.manifest.quantization.to_recipe()
    arithmetic = target_of(bundle).arithmetic(recipe, exported.store.plan)
    return Yardstick(exported.store, arithmetic, bundle.manifest.cache_len, tracer=tracer)


@pytest.fixture(scope="module", params=[False, True], ids=["any", "static"])
def static(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_graph_is_the_yardstick_but_for_noise(exported: Exported, static: bool) -> None:
    """What float32 noise rounds to the other side, in float16 as in int8, is taken as the runtime took it."""
    bundle = exported.open()
    runner = open_runner(bundle, threads=1, static=static)
    tracer = open_tracer(bundle, exported.store.config, None, static=static)
    traced, blind = yardstick(exported, tracer), yardstick(exported, None)
    tokens = random_tokens(30, VOCAB, seed=3)
    steps = [prefill_step(runner, tokens[:21], 0)]
    found = [traced.compare(steps[0]).worst]
    plain = [blind.compare(steps[0]).worst]
    for index, token in enumerate(tokens[21:], start=21):
        step = decode_step(runner, [token], index)
        found.append(traced.compare(step).worst)
        plain.append(blind.compare(step).worst)
    assert np.concatenate(found).max() <= NOISE / 10
    assert np.concatenate(plain).max() > NOISE / 10  # the trace is what makes it so


@pytest.mark.parametrize("fault", ["rounded down", "one row", "one slot off"])
def test_a_wrong_cache_is_seen(exported: Exported, fault: str) -> None:
    bundle = exported.open()
    runner = open_runner(bundle, threads=1)
    measure = yardstick(exported, open_tracer(bundle, exported.store.config, None, static=False))
    step = prefill_step(runner, random_tokens(21, VOCAB, seed=4), 0)
    assert measure.compare(step).worst.max() <= NOISE
    keys = runner.cache_buffers[2]  # of the second layer
    if fault == "rounded down":
        # Not the nearest number but the one towards zero, as a cut would give: a third of them are off by a step.
        real = keys.view(np.uint16)
        real[:, :, :21] -= (np.arange(keys.shape[-1]) % 3 == 0).astype(np.uint16)
    elif fault == "one row":
        keys[0, 0, 7] *= np.float16(1.01)
    else:
        keys[:, :, 1:21] = keys[:, :, :20].copy()
    assert measure.compare(step).worst.max() > NOISE


def test_localisation_calls_nothing_guilty(exported: Exported) -> None:
    table = localise(exported.open(), exported.store, random_tokens(30, VOCAB, seed=5))
    assert table.guilty is None
    attention = [row.own.worst_row for row in table.rows if row.op in ("key", "value")]
    assert max(attention) <= 1e-6


def test_a_prompt_cache_keeps_float16(exported: Exported, tmp_path: Path) -> None:
    bundle, tokens = exported.open(), random_tokens(12, VOCAB)
    file = tmp_path / "prompt.safetensors"
    first = TokenCache(open_runner(bundle, threads=1))
    first.prefill(tokens)
    save_prompt_cache(file, first, "0" * 64)
    assert {info.dtype for name, info in read_header(file).items() if name != "ids"} == {"F16"}
    other = TokenCache(open_runner(bundle, threads=1))
    assert load_prompt_cache(file, other, "0" * 64) == len(tokens)
    for ours, theirs in zip(first.cache_buffers, other.cache_buffers, strict=True):
        assert theirs.dtype == np.float16
        assert np.array_equal(ours[..., :12, :], theirs[..., :12, :])


def test_onnxruntime_genai_runs_it(exported: Exported) -> None:
    golden = exported.open().manifest.golden
    assert golden is not None
    found = genai_ids(exported.folder, golden.prompt_ids, len(golden.greedy_ids), max_length=48)
    assert found == list(golden.greedy_ids)


# -- what is refused, each in one line


def with_half_cache(name: str) -> Recipe:
    return bundle_recipe(name).model_copy(update={"kv_cache": "float16"})


def test_the_portable_dialect_says_what_is_allowed(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(with_half_cache("onnx-int4-portable").canonical_json(), encoding="utf-8")  # JSON is YAML
    code = run(["export", str(checkpoint), "--recipe", str(path), "-o", str(tmp_path / "out"), "--no-parity"])
    assert code == 2
    said = capsys.readouterr().err
    assert "kv_cache float16 needs the dialect contrib: standard operators would convert the whole cache" in said
    assert "targets.onnx.dialect: contrib, or kv_cache: float32" in said
    assert not (tmp_path / "out").exists()


def test_coreml_has_such_a_cache_already(exported: Exported) -> None:
    target, plain = load_target("coreml"), bundle_recipe("coreml-int4")
    config = exported.store.config
    half = with_half_cache("coreml-int4")
    assert target.cache(config, half) == target.cache(config, plain)
    assert target.cache(config, half).dtype == "float16"
