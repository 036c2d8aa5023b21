"""Decode methods that are derived from a lowered one: node by node those that lowering would have given."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helium_edge.errors import HeliumEdgeError
from helium_edge.presets import PRESETS, preset
from helium_edge.runtime.executorch_runner import ExecutorchRunner
from helium_edge.runtime.pte_file import PteFile
from helium_edge.signature import GraphSignature
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

from helium_edge.targets.xnnpack.anatomy import Delegate
from helium_edge.targets.xnnpack.graph import MethodModule, build_stack
from helium_edge.targets.xnnpack.lowering import load_exporter, lower, write_program
from helium_edge.targets.xnnpack.parts import StoreParts
from tests.helpers.xnnpack import CACHE_LEN, XnnpackExport, export_xnnpack, rms_error, xnnpack_recipe

load_exporter()  # quietly, before what imports it

from helium_edge.targets.xnnpack.shorter_cache import _derive, unmistakable  # noqa: E402

pytestmark = pytest.mark.slow  # each lowering takes seconds

MODEL = {"seed": 3, "std": 0.2, "num_hidden_layers": 1}
BUCKETS = [2, 33]
# 64 is the width of the model and of its queries: in a shape one could be taken for the other.
CASES: dict[str, dict[str, Any]] = {
    "float32 cache": {},
    "int8 cache": {"kv_cache": "int8"},
    "a cache as long as the model is wide": {"shapes": {"cache_len": 64}},
}


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> XnnpackExport:
    root = tmp_path_factory.mktemp("shorter")
    recipe = xnnpack_recipe("xnnpack-int4", xnnpack={"cache_buckets": BUCKETS}, **CASES[request.param])
    return export_xnnpack(make_checkpoint(root / "checkpoint", **MODEL), recipe, root / "out")


@pytest.fixture(scope="module")
def lowered(exported: XnnpackExport) -> PteFile:
    """Its decode methods, each lowered by itself."""
    scales = exported.scales
    stack = build_stack(exported.checkpoint.config, StoreParts(exported.store, lambda _: None, scales))
    signatures = [graph.signature for graph in exported.graphs if isinstance(graph.signature, GraphSignature)]
    decode = [signature for signature in signatures if signature.phase == "decode"]
    methods = {exported.decode[each.cache.cache_len]: MethodModule(stack, each) for each in decode}
    path = exported.path.with_name("lowered.pte")
    write_program(lower(methods, {}), path)
    return PteFile(path)


def test_each_graph_is_the_one_that_lowering_gives(exported: XnnpackExport, lowered: PteFile) -> None:
    derived = PteFile(exported.path)
    for name in exported.decode.values():
        assert Delegate(derived, name).data == Delegate(lowered, name).data


def test_what_stands_around_it_is_the_same(exported: XnnpackExport, lowered: PteFile) -> None:
    derived = PteFile(exported.path)
    for name in exported.decode.values():
        found, expected = derived.plan(name), lowered.plan(name)
        assert dict(calls(found)) == dict(calls(expected))
        assert shapes(derived, found) == shapes(lowered, expected)


def calls(plan: Any) -> Iterator[tuple[int, Any]]:
    (chain,) = plan.chains
    for place, instruction in enumerate(chain.instructions):
        call = instruction.instr_args
        yield place, (plan.operators[call.op_index].name if hasattr(call, "op_index") else "delegate", call.args)


def shapes(file: PteFile, plan: Any) -> list[Any]:
    """Type, shape and constant of each tensor; of tables with a row a position, only what a row is."""
    found = []
    for index, value in enumerate(plan.values):
        if not hasattr(value.val, "sizes"):
            continue
        constant = file.constant(plan, index)
        is_table = constant is not None and constant.dim() == 2 and constant.is_floating_point()
        sizes = list(value.val.sizes)[1:] if is_table else list(value.val.sizes)
        found.append(
            (int(value.val.scalar_type), sizes, None if is_table or constant is None else constant.tolist())
        )
    return found


def test_the_program_has_the_methods_that_were_asked_for(exported: XnnpackExport) -> None:
    computing = [plan for plan in PteFile(exported.path).program.execution_plan if plan.delegates]
    assert sorted(plan.name for plan in computing) == sorted(["prefill", *exported.decode.values()])


def test_each_computes_what_the_full_cache_does(exported: XnnpackExport) -> None:
    """From an empty cache to a full one: each token runs in the shortest method that has room for it."""
    runner, slots = exported.runner(), exported.spec.cache.cache_len
    tokens = random_tokens(slots, runner.vocab_size)
    found = np.concatenate([[runner.decode(token)] for token in tokens])
    whole = ExecutorchRunner(exported.path, exported.spec, {slots: "decode"})
    expected = np.concatenate([[whole.decode(token)] for token in tokens])
    assert rms_error(found, expected) < 1e-3


def test_sizes_that_other_tensors_have_are_passed_over() -> None:
    for name in PRESETS:
        config = preset(name)
        assert config is not None
        widths = {
            config.hidden_size, config.intermediate_size, 2 * config.intermediate_size, config.kv_size,
            config.num_attention_heads * config.head_dim + 2 * config.kv_size, config.head_dim,
        }  # fmt: skip
        for slots in (2, config.head_dim, 255, 1024, config.hidden_size - 1, config.hidden_size, 4096):
            found = unmistakable(config, slots)
            assert slots <= found < slots + 8
            assert not widths & {found, found + 1}


def test_a_method_that_is_not_lowered_is_told() -> None:
    with pytest.raises(HeliumEdgeError, match=r"method decode: .* derived from one delegate"):
        _derive(
            SimpleNamespace(execution_plan=[]), {}, "decode", CACHE_LEN, {"decode": CACHE_LEN, "decode_16": 16}
        )
