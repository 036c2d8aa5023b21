"""CoreML programs, read back from the `.pte` and interpreted, agree with our torch decoder.

Apple's kernels are not run. Weights have std 0.1 here, not 0.3: at 0.3 the scores of random layers have std 10,
and rounding them to float16's 11 bits alone costs more than the tolerance.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helium_edge.errors import BundleError, CacheFullError
from helium_edge.model.decoder import HeliumDecoder
from helium_edge.model.weights import matrix_names
from helium_edge.quant import QuantizedStore, QuantizedWeight
from helium_edge.runtime.torch_runner import TorchRunner
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens, roll

if importlib.util.find_spec("coremltools") is None:
    pytest.skip("coremltools is not installed", allow_module_level=True)

from helium_edge.runtime.coreml_program import StoredWeight, stored_weights
from helium_edge.runtime.coreml_runner import CoremlRunner
from helium_edge.runtime.quiet import quiet
from tests.helpers.coreml import CACHE_LEN, CoremlExport, coreml_recipe, export_coreml, rms_error

with quiet():
    import coremltools

TOLERANCE = 5e-3
CHUNKS, STEPS = [8, 8, 5], 16  # three prefill calls with a ragged tail, then decode

# Each scheme with another kind of model.
MODELS: dict[str, dict[str, Any]] = {
    "coreml-fp16": {"tie_word_embeddings": True},
    "coreml-int8": {
        "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "hidden_act": "gelu_pytorch_tanh",
    },
    "coreml-int4": {"hidden_size": 128, "head_dim": 32, "num_key_value_heads": 4, "hidden_act": "gelu"},
}  # fmt: skip
LOGITS = {"coreml-int8": "all"}

_exports: dict[str, CoremlExport] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coreml")


@pytest.fixture(params=MODELS)
def exported(request: pytest.FixtureRequest, folder: Path) -> CoremlExport:
    return export(request.param, folder)


def export(name: str, folder: Path) -> CoremlExport:
    """The export of a recipe, made once for all tests."""
    if name not in _exports:
        checkpoint = make_checkpoint(folder / f"{name}.checkpoint", seed=3, std=0.1, **MODELS[name])
        recipe = coreml_recipe(name, logits=LOGITS.get(name, "last"))
        _exports[name] = export_coreml(checkpoint, recipe, folder / name)
    return _exports[name]


def errors(exported: CoremlExport, reference: Any = None) -> tuple[float, float]:
    """Relative errors of prefill and of decode."""
    tokens = random_tokens(sum(CHUNKS) + STEPS, exported.spec.vocab_size)
    found = roll(exported.runner(), tokens, CHUNKS, STEPS)
    expected = roll(reference or exported.torch_runner(), tokens, CHUNKS, STEPS)
    calls = len(CHUNKS)
    return rms_error(found[:calls], expected[:calls]), rms_error(found[calls:], expected[calls:])


# -- numbers


def test_prefill_and_decode_agree_with_torch(exported: CoremlExport) -> None:
    prefill, decode = errors(exported)
    assert prefill <= TOLERANCE
    assert decode <= TOLERANCE


def test_mixed_and_asymmetric_schemes_agree_with_torch(tmp_path: Path) -> None:
    rules = [
        {"match": r".*v_proj\.weight|lm_head\.weight", "scheme": "int8"},
        {"match": r".*down_proj\.weight", "skip": True},
        {"match": ".*", "scheme": "int4-g32-asym"},
    ]
    checkpoint = make_checkpoint(tmp_path / "c", seed=6, std=0.1)
    exported = export_coreml(checkpoint, coreml_recipe("coreml-int4", rules=rules), tmp_path / "o")
    assert max(errors(exported)) <= TOLERANCE
    embedding = exported.store.get("model.embed_tokens.weight")
    found = stored_weights(exported.methods()["decode"])[0]
    assert np.array_equal(found.codes + 8, embedding.codes.numpy())
    assert found.zero_points is not None
    assert np.array_equal(found.zero_points + 8, embedding.zero_points.numpy())


def test_half_split_rope_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = export("coreml-fp16", folder)
    monkeypatch.setattr("helium_edge.model.weights.reorder_interleaved_rows", lambda weight, _: weight)
    wrong = TorchRunner(HeliumDecoder(exported.checkpoint.config, exported.store, CACHE_LEN), 8)
    prefill, decode = errors(exported, wrong)
    assert min(prefill, decode) > 10 * TOLERANCE


def test_all_logits_are_those_of_every_token(folder: Path) -> None:
    exported = export("coreml-int8", folder)
    tokens = random_tokens(21, exported.spec.vocab_size)
    found, expected = exported.runner().prefill(tokens), exported.torch_runner().prefill(tokens)
    assert found.shape == expected.shape == (21, exported.spec.vocab_size)
    assert rms_error(found, expected) <= TOLERANCE


def large_activations(folder: Path) -> Path:
    """A checkpoint whose residual stream is in the thousands from the first layer on."""
    checkpoint = make_checkpoint(folder, seed=4, std=0.1, hidden_act="relu")
    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    name = "model.embed_tokens.weight"
    weights[name] = (weights[name].float() * 10_000).to(torch.bfloat16)
    save_file(weights, file, metadata={"format": "pt"})
    return checkpoint


def test_large_activations_do_not_overflow(tmp_path: Path) -> None:
    exported = export_coreml(large_activations(tmp_path / "c"), coreml_recipe("coreml-fp16"), tmp_path / "o")
    assert max(errors(exported)) <= TOLERANCE


def test_a_plain_float16_norm_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault that the test above is there for."""

    def plain(b: Any, x: Any, gain: Any, eps: float) -> Any:
        row = (x.shape[0], 1)
        square = b.op("mul", x.shape, x=x, y=x)
        mean = b.op("reduce_mean", row, x=square, axes=[-1], keep_dims=True)
        inverse = b.op("rsqrt", row, x=mean, epsilon=np.float16(eps))
        scaled = b.op("mul", x.shape, x=x, y=inverse)
        return b.op("mul", x.shape, x=scaled, y=b.stored(gain, "gain"))

    monkeypatch.setattr("helium_edge.targets.coreml.decoder.rms_norm", plain)
    exported = export_coreml(large_activations(tmp_path / "c"), coreml_recipe("coreml-fp16"), tmp_path / "o")
    assert not min(errors(exported)) <= 100 * TOLERANCE


# -- the file


def test_each_method_is_one_delegate_and_weights_stand_once(exported: CoremlExport) -> None:
    """`read_coreml` refuses a method that is anything else than one CoreML delegate."""
    methods = exported.methods()
    assert sorted(methods) == ["decode", "prefill"] == sorted(graph.method or "" for graph in exported.graphs)
    old = exported.recipe.name == "coreml-int8"
    assert {method.specification_version for method in methods.values()} == {8 if old else 9}
    packages = {method.package for method in methods.values()}
    assert len(packages) == (2 if old else 1)
    assert stored_copies(exported) == {2 if old else 1}


@pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="executorch is not installed")
def test_executorch_reads_the_program(exported: CoremlExport, tmp_path: Path) -> None:
    """Its runtime answers the methods without inputs; its reader finds our data, and unfolds the package."""
    with quiet():
        from executorch.backends.apple.coreml.executorchcoreml import unflatten_directory_contents
        from executorch.exir._serialize._program import deserialize_pte_binary
        from executorch.extension.pybindings.portable_lib import _load_for_executorch

        program = _load_for_executorch(str(exported.path))
        assert program.run_method("helium_edge_cache_len", []) == [CACHE_LEN]
        assert program.run_method("get_vocab_size", []) == [exported.spec.vocab_size]
        read = deserialize_pte_binary(exported.path.read_bytes())
    plan = next(plan for plan in read.program.execution_plan if plan.name == "decode")
    (delegate,) = plan.delegates
    data = bytes(read.program.backend_delegate_data[delegate.processed.index].data)
    if data.startswith(b"CMJR"):
        reference = json.loads(data[4:])
        assert reference["functionName"] == "decode"
        data = bytes(read.named_data.buffers[read.named_data.pte_data[reference["key"]].buffer_index])
    assert unflatten_directory_contents(data, str(tmp_path))
    (folder,) = tmp_path.iterdir()
    with quiet():
        model = coremltools.models.MLModel(str(folder / "model.mlpackage"), skip_model_load=True)
    assert model.get_spec().WhichOneof("Type") == "mlProgram"
    names = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    names = names.get("methods", {}).get("decode", names)
    assert names["inputNames"][:2] == ["input_ids", "past_length"]
    assert names["outputNames"][0] == "logits"


def stored_copies(exported: CoremlExport) -> set[int]:
    """How often the bytes of a row of each matrix are found in the file."""
    content = exported.path.read_bytes()
    counts = set()
    for name in matrix_names(exported.checkpoint.config):
        weight = exported.store.get(name)
        if isinstance(weight, torch.Tensor):
            row = weight[-1].to(torch.float16).numpy().tobytes()
        else:
            row = packed(weight.codes[-1].numpy(), weight.scheme.bits)
        counts.add(content.count(row))
    return counts


def packed(codes: np.ndarray, bits: int) -> bytes:
    """Codes as CoreML packs them: two's complement, the even index in the low nibble."""
    if bits == 8:
        return codes.tobytes()
    nibbles = codes.astype(np.uint8) & 15
    return (nibbles[0::2] | nibbles[1::2] << 4).tobytes()


def test_estimated_size_is_near(exported: CoremlExport) -> None:
    actual = exported.path.stat().st_size
    assert 0.9 * actual <= exported.planned_bytes <= 1.1 * actual


@pytest.mark.parametrize("name", ["coreml-int8", "coreml-int4"])
def test_integers_are_those_of_the_store(name: str, folder: Path) -> None:
    exported = export(name, folder)
    expected = expected_weights(exported.store)
    for method in exported.methods().values():
        found = stored_weights(method)
        assert len(found) == len(expected)
        for part, (codes, scales) in zip(found, expected, strict=True):
            assert_equal(part, codes, scales)


def expected_weights(store: QuantizedStore) -> list[tuple[np.ndarray, np.ndarray]]:
    """Codes and scales in the order of use; projections of one input lie over each other."""
    names = matrix_names(store.config)
    layers = [names[first : first + 7] for first in range(1, len(names) - 1, 7)]
    groups = [[names[0]]]
    for query, key, value, output, gate, up, down in layers:
        groups += [[query, key, value], [output], [gate, up], [down]]
    groups.append([names[-1]])
    stacked = []
    for group in groups:
        weights = [store.get(name) for name in group]
        assert all(isinstance(weight, QuantizedWeight) for weight in weights)
        codes = np.concatenate([weight.codes.numpy() for weight in weights])
        stacked.append((codes, np.concatenate([weight.scales.numpy() for weight in weights])))
    return stacked


def assert_equal(found: StoredWeight, codes: np.ndarray, scales: np.ndarray) -> None:
    assert np.array_equal(found.codes, codes)
    assert found.zero_points is None
    assert found.scales.dtype == np.float16
    assert np.array_equal(found.scales, scales.astype(np.float16))
    if scales.shape[1] > 1:  # int4 scales are representable in bfloat16: float16 holds them exactly
        assert np.array_equal(found.scales.astype(np.float32), scales)


def test_the_program_is_float16_and_linear_layers_are_linear(exported: CoremlExport) -> None:
    """A division or a Python scalar in the wrong place widens to float32; `linear` is then cast and matmul."""
    config = exported.checkpoint.config
    for method in exported.methods().values():
        operations = list(method.function.operations)
        types = [operation.op_type for operation in operations]
        assert types.count("linear") == 4 * config.num_hidden_layers + 1
        assert types.count("matmul") == 4 * config.num_hidden_layers
        wide = [
            operation.name
            for operation in operations
            for output in operation.outputs
            if "fp32" in str(output.sym_type) and operation.op_type != "const"
        ]
        assert wide == []
        constants = [operation.outputs[0].val for operation in operations if operation.op_type == "const"]
        numbers = [np.asarray(value) for value in constants if not isinstance(value, str)]
        assert all(np.isfinite(array).all() for array in numbers if array.dtype.kind == "f")


EXPORT = """
import sys
from pathlib import Path
from tests.helpers.coreml import coreml_recipe, export_coreml

export_coreml(sys.argv[1], coreml_recipe("coreml-int4"), Path(sys.argv[2])).runner().decode(1)
"""


def run_python(*arguments: str, seed: int) -> subprocess.CompletedProcess[str]:
    """Run Python at the root of the repository, with its sets in the order of a hash seed."""
    environment = os.environ | {"PYTHONHASHSEED": str(seed)}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_another_process_writes_the_same_bytes_in_silence(folder: Path, tmp_path: Path) -> None:
    """Sets and maps have another order there; and most noise is made when modules are first imported."""
    order = "print(list({'prefill', 'decode'}))"
    here = f"{list({'prefill', 'decode'})}\n"
    other = next(seed for seed in range(100) if run_python(order, seed=seed).stdout != here)
    first = export("coreml-int4", folder)
    checkpoint, out = folder / "coreml-int4.checkpoint", tmp_path / "again"
    done = run_python(EXPORT, str(checkpoint), str(out), seed=other)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in out.iterdir()] == ["decoder.pte"]
    assert (out / "decoder.pte").read_bytes() == first.path.read_bytes()


# -- the runner


def test_a_full_cache_is_an_error_and_stays_intact(folder: Path) -> None:
    exported = export("coreml-fp16", folder)
    tokens = random_tokens(CACHE_LEN, exported.spec.vocab_size)
    runner, reference = exported.runner(), exported.torch_runner()
    # After 45 tokens a chunk of 8 would pass slot 48: the runner goes on by single steps.
    for part in (tokens[:5], tokens[5:45], tokens[45:47]):
        found, expected = runner.prefill(part)[-1], reference.prefill(part)[-1]
        assert rms_error(found, expected) <= TOLERANCE
    with pytest.raises(CacheFullError):
        runner.prefill(tokens[:2])
    assert rms_error(runner.decode(tokens[47]), reference.decode(tokens[47])) <= TOLERANCE
    with pytest.raises(CacheFullError):
        runner.decode(5)
    assert runner.position == CACHE_LEN


def test_a_second_conversation_is_not_affected_by_the_first(folder: Path) -> None:
    exported = export("coreml-int4", folder)
    first, second = random_tokens(30, exported.spec.vocab_size, 1), random_tokens(20, exported.spec.vocab_size, 2)
    fresh, used = exported.runner(), exported.runner()
    roll(used, first, [8, 8], 8)
    assert np.array_equal(roll(fresh, second, [8, 3], 5), roll(used, second, [8, 3], 5))


def test_a_padded_tail_changes_nothing(folder: Path) -> None:
    exported = export("coreml-fp16", folder)
    tokens = random_tokens(13, exported.spec.vocab_size)
    chunked, stepped = exported.runner(), exported.runner()
    found = roll(chunked, tokens, [8, 5], 0)[-1]
    expected = roll(stepped, tokens, [8], 5)[-1]
    assert rms_error(found, expected) <= TOLERANCE


def test_says_that_apples_kernels_are_not_run(folder: Path) -> None:
    assert export("coreml-fp16", folder).runner().evaluated_by == "MIL interpreter"


def test_damaged_files_are_refused(folder: Path, tmp_path: Path) -> None:
    exported = export("coreml-fp16", folder)
    content = exported.path.read_bytes()
    for number, damaged in enumerate((b"", content[:1000], content[: len(content) // 2], b"x" * 4096)):
        exported.path.with_name(f"damaged-{number}.pte").write_bytes(damaged)
        with pytest.raises(BundleError, match=rf"damaged-{number}\.pte"):
            type(exported.runner())(exported.path.with_name(f"damaged-{number}.pte"), exported.spec)


def test_a_changed_byte_is_harmless_or_refused(folder: Path, tmp_path: Path) -> None:
    """Within the program, the model, the table of files and the weights; nothing but our error comes out."""
    exported = export("coreml-int4", folder)
    content, draw = exported.path.read_bytes(), random.Random(0)
    refused = 0
    for places in (
        [range(4000)] * 15 + [range(len(content) - 90_000, len(content))] * 15 + [range(len(content))] * 5
    ):
        damaged = bytearray(content)
        damaged[draw.choice(places)] = draw.randrange(256)
        path = tmp_path / "damaged.pte"
        path.write_bytes(damaged)
        try:
            CoremlRunner(path, exported.spec)
        except BundleError:
            refused += 1
    assert 5 <= refused <= 30
