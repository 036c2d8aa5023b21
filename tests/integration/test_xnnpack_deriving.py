"""Methods that are derived from a lowered one: node by node those that lowering would have given."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helium_edge.errors import HeliumEdgeError
from helium_edge.presets import PRESETS, preset
from helium_edge.pte.file import PteFile
from helium_edge.runtime.executorch_runner import ExecutorchRunner
from helium_edge.signature import CacheSpec, GraphSignature
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

from helium_edge.targets.xnnpack.deriving import Template, _derive, template  # noqa: E402

pytestmark = pytest.mark.slow  # each lowering takes seconds

MODEL = {"seed": 3, "std": 0.2, "num_hidden_layers": 1}
BUCKETS, WIDTHS = [2, 33], [3]
# 64 is the width of the model and of its queries, and a head has 16: in a shape one could be taken for the other.
CASES: dict[str, dict[str, Any]] = {
    "float32 cache": {},
    "int8 cache": {"kv_cache": "int8"},
    "sizes of the model, logits of all tokens": {"shapes": {"prefill_len": 16, "cache_len": 64}, "logits": "all"},
}


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> XnnpackExport:
    root = tmp_path_factory.mktemp("shorter")
    options = {"cache_buckets": BUCKETS, "prefill_buckets": WIDTHS}
    recipe = xnnpack_recipe("xnnpack-int4", xnnpack=options, **CASES[request.param])
    return export_xnnpack(make_checkpoint(root / "checkpoint", **MODEL), recipe, root / "out")


@pytest.fixture(scope="module")
def lowered(exported: XnnpackExport) -> PteFile:
    """Its methods, each lowered by itself."""
    scales = exported.scales
    stack = build_stack(exported.checkpoint.config, StoreParts(exported.store, lambda _: None, scales))
    methods = {
        str(graph.method): MethodModule(stack, graph.signature)
        for graph in exported.graphs
        if isinstance(graph.signature, GraphSignature)
    }
    path = exported.path.with_name("lowered.pte")
    write_program(lower(methods, {}), path)
    return PteFile(path)


def test_each_graph_is_the_one_that_lowering_gives(exported: XnnpackExport, lowered: PteFile) -> None:
    derived = PteFile(exported.path)
    for name in names(exported):
        assert Delegate(derived, name).data == Delegate(lowered, name).data


def test_what_stands_around_it_is_the_same(exported: XnnpackExport, lowered: PteFile) -> None:
    derived = PteFile(exported.path)
    for name in names(exported):
        found, expected = derived.plan(name), lowered.plan(name)
        assert dict(calls(found)) == dict(calls(expected))
        assert shapes(derived, found) == shapes(lowered, expected)


def test_no_constant_is_left_that_nothing_reads(exported: XnnpackExport) -> None:
    program = PteFile(exported.path).program
    values = [value.val for plan in program.execution_plan for value in plan.values]
    read = {value.data_buffer_idx for value in values if hasattr(value, "data_buffer_idx")}
    assert set(range(1, len(program.constant_segment.offsets))) <= read


def names(exported: XnnpackExport) -> list[str]:
    return [*exported.prefill.values(), *exported.decode.values()]


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
    assert sorted(plan.name for plan in computing) == sorted(names(exported))


def test_each_computes_what_the_full_cache_does(exported: XnnpackExport) -> None:
    """From an empty cache to a full one: each token runs in the shortest method that has room for it."""
    runner, slots = exported.runner(), exported.spec.cache.cache_len
    tokens = random_tokens(slots, runner.vocab_size)
    found = np.concatenate([[runner.decode(token)] for token in tokens])
    whole = ExecutorchRunner(exported.path, exported.spec, {slots: "decode"})
    expected = np.concatenate([[whole.decode(token)] for token in tokens])
    assert rms_error(found, expected) < 1e-3


def test_each_width_computes_what_decode_steps_do(exported: XnnpackExport) -> None:
    tokens = random_tokens(30, exported.spec.vocab_size, seed=2)
    steps = exported.runner()
    expected = np.stack([steps.decode(token) for token in tokens])
    for width, name in exported.prefill.items():
        runner = ExecutorchRunner(exported.path, exported.spec, exported.decode, prefill={width: name})
        rows = [runner.prefill(tokens[start : start + width])[-1] for start in range(0, 30, width)]
        ends = [min(start + width, 30) - 1 for start in range(0, 30, width)]
        assert rms_error(np.stack(rows), expected[ends]) < 1e-3


def signatures(config: Any, phase: Any, sizes: list[tuple[int, int]]) -> dict[str, GraphSignature]:
    """Of methods by tokens and slots, the last under the name of the phase."""
    cache = CacheSpec(1, config.num_key_value_heads, 4, config.head_dim, "append", batched=False)
    made = [
        GraphSignature(phase, tokens, config.vocab_size, dataclasses.replace(cache, cache_len=slots))
        for tokens, slots in sizes
    ]
    return {f"{phase}_{number}": each for number, each in enumerate(made[:-1])} | {phase: made[-1]}


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_that_other_tensors_have_are_passed_over(name: str) -> None:
    config = preset(name)
    assert config is not None
    groups = config.num_attention_heads // config.num_key_value_heads
    widths = {
        config.hidden_size, config.intermediate_size, 2 * config.intermediate_size, config.kv_size,
        config.num_attention_heads * config.head_dim + 2 * config.kv_size, config.head_dim,
    }  # fmt: skip
    for slots in (3, config.head_dim, 255, 1024, config.hidden_size - 1, config.hidden_size, 4096):
        made = template(config, "decode", signatures(config, "decode", [(1, 2), (1, slots)])).signature
        assert slots <= made.cache.cache_len < slots + 8
        assert not widths & {made.cache.cache_len, made.cache.cache_len + 1}
    for tokens in (3, config.head_dim // 2, config.head_dim, 128, config.num_attention_heads):
        for slots in (tokens + 1, config.hidden_size - tokens, 4096):
            made = template(
                config, "prefill", signatures(config, "prefill", [(2, slots), (tokens, slots)])
            ).signature
            found = int(made.token_dim)
            assert made.cache.cache_len == slots
            assert tokens <= found < tokens + 8
            assert not (widths | {slots}) & {found, groups * found, slots + found}


def test_what_needs_no_other_sizes_keeps_its_own() -> None:
    config = preset("helium-1-2b")
    assert config is not None
    only = signatures(config, "prefill", [(config.head_dim, 2048)])
    assert template(config, "prefill", only).signature == only["prefill"]


def test_a_method_that_is_not_lowered_is_told() -> None:
    config = preset("helium-1-2b")
    wanted = signatures(config, "decode", [(1, 16), (1, CACHE_LEN)])
    with pytest.raises(HeliumEdgeError, match=r"method decode: .* derived from one delegate"):
        _derive(SimpleNamespace(execution_plan=[]), {}, config, Template("decode", wanted["decode"], wanted))
