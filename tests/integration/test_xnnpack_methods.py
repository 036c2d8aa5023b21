"""Methods for fewer tokens and shorter caches, and the data that all methods of a program share."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helium_edge.checkpoint import open_checkpoint
from helium_edge.errors import HeliumEdgeError
from helium_edge.pte.executorch_schema import Tensor
from helium_edge.pte.file import PteFile
from helium_edge.quant import QuantizedStore, QuantizedWeight
from helium_edge.recipe import Scheme
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

from helium_edge.pte.builder import MethodBuilder, ProgramBuilder
from helium_edge.pte.requirements import read_requirements
from helium_edge.runtime.executorch_runner import ExecutorchRunner
from helium_edge.targets.xnnpack.anatomy import Delegate, inputs_of
from helium_edge.targets.xnnpack.target import XnnpackTarget
from helium_edge.targets.xnnpack.weights import Weights
from tests.helpers.xnnpack import XnnpackExport, export_xnnpack, rms_error, xnnpack_recipe

MODEL = {"seed": 3, "std": 0.2, "num_hidden_layers": 1}
BUCKETS, WIDTHS, PREFILL_BUCKETS = [2, 33], [3], [2, 9, 33]
# 64 is the width of the model and of its queries, and a head has 16: in a shape one could be taken for the other.
CASES: dict[str, dict[str, Any]] = {
    "float32 cache": {},
    "int8 cache": {"kv_cache": "int8"},
    "sizes of the model, logits of all tokens": {"shapes": {"prefill_len": 16, "cache_len": 64}, "logits": "all"},
}
# int4 in groups, int8 by channel and float32, side by side and stacked.
MIXED: list[dict[str, Any]] = [
    {"match": r".*(embed_tokens|lm_head|v_proj)\.weight", "scheme": "int8"},
    {"match": r".*(down|gate)_proj\.weight", "skip": True},
    {"match": ".*", "scheme": "int4-g32"},
]


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> XnnpackExport:
    root = tmp_path_factory.mktemp("methods")
    options = {"cache_buckets": BUCKETS, "prefill_buckets": WIDTHS, "prefill_cache_buckets": PREFILL_BUCKETS}
    recipe = xnnpack_recipe("xnnpack-int4", xnnpack=options, **CASES[request.param])
    return export_xnnpack(make_checkpoint(root / "checkpoint", **MODEL), recipe, root / "out")


def names(exported: XnnpackExport) -> list[str]:
    return [*exported.prefill.values(), *exported.shorter.values(), *exported.decode.values()]


def test_the_program_has_the_methods_that_were_asked_for(exported: XnnpackExport) -> None:
    computing = [plan for plan in PteFile(exported.path).program.execution_plan if plan.delegates]
    assert sorted(plan.name for plan in computing) == sorted(names(exported))
    assert {"prefill_3", "prefill_3_9", "prefill_3_33", "decode_2", "decode_33"} < set(names(exported))
    assert not any(slots < width for width, slots in exported.shorter)


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


def test_a_prefill_takes_the_shortest_cache_that_has_room(exported: XnnpackExport) -> None:
    """Whatever came before it: single tokens, other widths, a conversation that goes back."""
    runner = exported.runner()
    full = ExecutorchRunner(exported.path, exported.spec, exported.decode, prefill=exported.prefill)
    tokens = random_tokens(exported.spec.cache.cache_len, runner.vocab_size, seed=3)
    ran: list[tuple[int, int, int]] = []
    for width, methods in runner._methods.items():
        for slots, method in methods.items():
            methods[slots] = _Recorded(method, ran, width, slots)  # type: ignore[assignment]
    for start, count in (
        (0, 3),
        (3, 3),
        (6, 1),
        (7, 8),
        (15, 3),
        (4, 3),
        (7, 19),
        (26, 8),
        (34, 3),
        (37, 3),
        (2, 3),
    ):
        for each in (runner, full):
            each.seek(start)
        found, expected = (each.prefill(tokens[start : start + count])[-1] for each in (runner, full))
        assert rms_error(found, expected) < 1e-3
    widths = {width: sorted(methods) for width, methods in runner._methods.items()}
    assert {slots for width, _, slots in ran if width == 3} == {9, 33, exported.spec.cache.cache_len}
    for width, position, slots in ran:
        assert slots == next(length for length in widths[width] if length >= position + width)


def test_a_prefill_of_one_token_is_a_decode_step(tmp_path: Path) -> None:
    recipe = xnnpack_recipe(
        "xnnpack-int4",
        xnnpack={"cache_buckets": [9], "prefill_buckets": [], "prefill_cache_buckets": [9]},
        shapes={"prefill_len": 1, "cache_len": 20},
    )
    exported = export_xnnpack(make_checkpoint(tmp_path / "checkpoint", **MODEL), recipe, tmp_path / "out")
    tokens = random_tokens(12, exported.spec.vocab_size)
    first, second = exported.runner(), exported.runner()
    assert np.array_equal(first.prefill(tokens)[-1], [second.decode(token) for token in tokens][-1])
    assert exported.shorter == {}


def test_a_program_without_memory_for_its_outputs_runs_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of earlier versions: the host gives the memory."""

    def unplanned(method: MethodBuilder, dtype: torch.dtype, shape: list[int]) -> int:
        method.plan.outputs.append(method._tensor(dtype, shape))
        return method.plan.outputs[-1]

    checkpoint, recipe = make_checkpoint(tmp_path / "checkpoint", **MODEL), xnnpack_recipe("xnnpack-int4")
    exported = export_xnnpack(checkpoint, recipe, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(MethodBuilder, "output", unplanned)
        old = export_xnnpack(checkpoint, recipe, tmp_path / "old")
    planned = [{each.planned_outputs for each in read_requirements(one.path).values()} for one in (old, exported)]
    assert (planned[0] & {False}, planned[1]) == ({False}, {True})
    tokens = random_tokens(12, exported.spec.vocab_size)
    first, second = exported.runner(), old.runner()
    assert np.array_equal(first.prefill(tokens), second.prefill(tokens))
    assert np.array_equal(first.decode(tokens[0]), second.decode(tokens[0]))


def test_a_host_of_its_own_runs_a_shorter_cache(exported: XnnpackExport) -> None:
    """ExecuTorch alone: the same call over the first slots of the full cache gives the same rows and logits."""
    runtime = importlib.import_module("executorch.runtime").Runtime.get()
    program = runtime.load_program(exported.path)
    spec, ids = exported.spec.cache, random_tokens(6, exported.spec.vocab_size, seed=4)
    given = [torch.tensor([ids[3:]]), torch.tensor([3])]
    given += [] if exported.recipe.logits == "all" else [torch.tensor([2])]
    chance = torch.Generator().manual_seed(0)
    shape = (2 * spec.layers, spec.num_key_value_heads, 3, spec.head_dim)
    past = torch.randint(-9, 9, shape, generator=chance).to(getattr(torch, spec.dtype))
    found = []
    for name, slots in (("prefill_3", spec.cache_len), ("prefill_3_9", 9), ("prefill_3_33", 33)):
        cache = [torch.zeros(shape[1], slots, shape[3], dtype=past.dtype) for _ in past]
        for buffer, rows in zip(cache, past, strict=True):
            buffer[:, :3] = rows
        found.append([output.clone() for output in program.load_method(name).execute([*given, *cache])])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert one.shape == same.shape
            assert rms_error(same.float().numpy(), one.float().numpy()) < 1e-3


class _Recorded:
    """A method that tells where it ran."""

    def __init__(self, method: Any, ran: list[tuple[int, int, int]], width: int, slots: int) -> None:
        self._method, self._ran, self._width, self._slots = method, ran, width, slots

    def __call__(self, tokens: Any, position: int, cache: Any) -> Any:
        self._ran.append((self._width, position, self._slots))
        assert cache.slots == self._slots
        return self._method(tokens, position, cache)


def test_hosts_that_know_one_method_a_width_find_the_full_cache(exported: XnnpackExport) -> None:
    """The last of a number of tokens, as a host takes it that puts them into a table."""
    last = {
        graph.signature.token_dim: graph.signature.cache.cache_len
        for graph in exported.graphs
        if graph.signature.phase == "prefill"
    }
    assert set(last.values()) == {exported.spec.cache.cache_len}


def test_nothing_is_stored_that_nothing_reads(exported: XnnpackExport) -> None:
    pte = PteFile(exported.path)
    values = [value.val for plan in pte.program.execution_plan for value in plan.values]
    read = {value.data_buffer_idx for value in values if isinstance(value, Tensor)}
    assert pte.program.constant_segment is not None
    assert set(range(1, len(pte.program.constant_segment.offsets))) <= read
    keys: set[str] = set()
    for name in names(exported):
        delegate = Delegate(pte, name)
        keys |= {constant.named_key for constant in delegate.graph.constant_data[1:]}
        # XNNPACK gives memory to every value of a graph.
        used = {value for node in delegate.nodes for value in (*inputs_of(node), node.output_id)}
        assert used == set(range(len(delegate.graph.xvalues)))
    assert keys == {entry.key for entry in pte.program.named_data}


def test_every_node_takes_what_came_before(exported: XnnpackExport) -> None:
    """XNNPACK runs nodes in their order."""
    for name in names(exported):
        delegate = Delegate(PteFile(exported.path), name)
        known = {n for n in range(len(delegate.graph.xvalues)) if n not in delegate.producers}
        for node in delegate.nodes:
            assert set(inputs_of(node)) <= known
            known.add(node.output_id)


def test_planned_memory_does_not_overlap(exported: XnnpackExport) -> None:
    pte = PteFile(exported.path)
    for name in names(exported):
        plan, end = pte.plan(name), 0
        tensors = [value.val for value in plan.values if isinstance(value.val, Tensor)]
        places = [(t.allocation_info.memory_offset_low, t) for t in tensors if t.allocation_info is not None]
        assert len(places) >= 6
        for start, tensor in sorted(places, key=lambda place: place[0]):
            assert start >= end
            width = {1: 1, 4: 8, 5: 2, 6: 4, 11: 1}[tensor.scalar_type]
            end = start + width * int(np.prod(tensor.sizes))
        assert end <= plan.non_const_buffer_sizes[1]


class _Counting:
    """A store that counts the matrices which are in use at once."""

    def __init__(self, store: QuantizedStore) -> None:
        self._store = store
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, name: str) -> QuantizedWeight | torch.Tensor:
        self.asked.append(name)
        return self._store.get(name)


@pytest.mark.parametrize("rules", [None, MIXED], ids=["one scheme", "mixed"])
def test_each_weight_is_read_once(rules: list[dict[str, Any]] | None, tmp_path: Path) -> None:
    """And in the order of the forward pass, with the embedding, a constant of the program, at the end."""
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path / "checkpoint")))
    changes = {} if rules is None else {"rules": rules}
    recipe = xnnpack_recipe(
        "xnnpack-int4", xnnpack={"cache_buckets": BUCKETS, "prefill_buckets": WIDTHS}, **changes
    )
    store = _Counting(QuantizedStore(checkpoint, recipe.quantization, tmp_path / "store"))
    told: list[str] = []
    XnnpackTarget().build(store, recipe, tmp_path, told.append)  # type: ignore[arg-type]
    assert told == store.asked
    assert store.asked == [*store.names[1:], store.names[0]]


def test_equal_codes_of_other_scales_have_other_names(tmp_path: Path) -> None:
    """XNNPACK's cache of packed weights knows a weight by the name of its codes, and would confuse the two."""
    folder = make_checkpoint(tmp_path / "checkpoint", **MODEL | {"num_key_value_heads": 4})
    checkpoint = open_checkpoint(str(folder))
    store = QuantizedStore(checkpoint, xnnpack_recipe("xnnpack-int4").quantization, tmp_path / "store")
    program = ProgramBuilder()
    weights = Weights(store.config, store, program, lambda _: None)
    scheme, codes = Scheme(bits=4, group_size=32), torch.ones(64, 64, dtype=torch.int8)
    factor = iter([1.0, 2.0, 2.0])
    store.get = lambda _: QuantizedWeight(scheme, codes, torch.full((64, 2), next(factor)))  # type: ignore[method-assign]
    names = [
        f"model.layers.0.self_attn.{kind}_proj.weight" for kind in "qko"
    ]  # of one shape: each query head has a key head of its own
    (q,), (k,), (o,) = (weights.products([name]) for name in names)
    program.write(tmp_path / "out.pte")
    assert q.data.key != k.data.key
    assert k.data.key == o.data.key  # one and the same weight is stored once
    assert len(PteFile(tmp_path / "out.pte").program.named_data) == 4


def test_what_xnnpack_would_get_wrong_is_refused(tmp_path: Path) -> None:
    """Zero points, which it drops without a word (measured, 39 % off), and scales that bfloat16 cannot hold."""
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path / "checkpoint", **MODEL)))
    store = QuantizedStore(checkpoint, xnnpack_recipe("xnnpack-int4").quantization, tmp_path / "store")
    codes, scales = torch.ones(64, 64, dtype=torch.int8), torch.ones(64, 2)
    zeros = torch.full((64, 2), 8, dtype=torch.int8)
    asymmetric = QuantizedWeight(Scheme(bits=4, group_size=32, symmetric=False), codes, scales, zeros)
    fine = QuantizedWeight(Scheme(bits=4, group_size=32), codes, scales * 1.001)
    for weight, message in ((asymmetric, "XNNPACK ignores zero points"), (fine, "representable in bfloat16")):
        program = ProgramBuilder()
        Weights(store.config, store, program, lambda _: None).products(["model.layers.0.self_attn.q_proj.weight"])
        store.get = lambda _, weight=weight: weight  # type: ignore[method-assign]
        with pytest.raises(HeliumEdgeError, match=message):
            program.write(tmp_path / "out.pte")
