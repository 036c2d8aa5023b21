"""Single operators as our targets emit them, at the width of Helium 2B and few columns, to be counted.

Counts are linear in the columns of a matrix and in the tokens of a cache: two sizes give the cost of one more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import torch

from arm64.operators import Array, Job, Output
from helium_edge.config import ModelConfig
from helium_edge.pte.file import PteFile
from helium_edge.recipe import Recipe, load_recipe
from helium_edge.signature import CacheSpec
from helium_edge.targets import load_target
from helium_edge.targets.onnx import anatomy as onnx_anatomy
from helium_edge.targets.onnx.debug import Cutter, layer_pieces
from helium_edge.targets.xnnpack import anatomy as xnnpack_anatomy
from helium_edge.targets.xnnpack.cutting import METHOD, Piecework
from helium_edge.targets.xnnpack.debug import layer_pieces as xnnpack_pieces
from made_up import MadeUpStore, made_up_scales

WIDTH, INNER, HEAD_DIM = 2560, 7040, 128
COLUMNS = (64, 256)
"""Of the matrices that are counted."""
CONTEXTS = (64, 512)
"""Tokens in the cache."""
HEADS, CHUNK = 2, 128
PTE_HEADS, PTE_CONTEXTS = 20, (512, 1024)
"""Of a decode step of a `.pte`, as in Helium 2B: a slot of one of two heads takes a quarter fewer instructions
than one of 20, which sums would miss. GroupQueryAttention of ONNX Runtime takes the same with both."""
ONE_METHOD_A_PHASE: dict[str, Any] = {"cache_buckets": [], "prefill_buckets": [], "prefill_cache_buckets": []}
_CACHES = {"float32": "", "int8": "-kv8", "float16": "-kv16"}
"""By type of cache, how the recipes that have it end."""

ONNX_BODIES = ("int4-g32", "int4-g64", "int4-g128", "int4-g32-asym", "int4-g64-asym", "int4-g128-asym")
INT8_BLOCKS = (32, 128, 256)
PTE_BODIES = ("int4-g32", "int4-g64", "int4-g128", "int8")


@dataclass(frozen=True)
class Counted:
    """A job, and what it counts.

    Attributes:
        kind: `product`, `attention`, `norm` or `activation`.
        scheme: Of the weights or of the cache.
        rows: Tokens of the call.
        size: What the count is linear in: weights, tokens of the cache times heads; 0 for the others.
        job: What is run.
        heads: Of attention.
    """

    kind: str
    scheme: str
    rows: int
    size: int
    job: Job
    heads: int = HEADS


def make_config(hidden: int, inner: int, vocab: int, heads: int) -> ModelConfig:
    """A model of one layer."""
    return ModelConfig.from_dict(
        {
            "model_type": "helium", "architectures": ["HeliumForCausalLM"], "hidden_size": hidden,
            "intermediate_size": inner, "num_hidden_layers": 1, "num_attention_heads": heads,
            "num_key_value_heads": heads, "head_dim": hidden // heads, "vocab_size": vocab,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-8, "rope_theta": 1e5, "hidden_act": "silu",
            "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
        }
    )  # fmt: skip


def _recipe(name: str, body: str, cache_len: int, **options: Any) -> Recipe:
    data = load_recipe(name).model_dump(mode="json")
    (target,) = (key for key, value in data["targets"].items() if value is not None)
    data["targets"][target] |= options
    data["shapes"] = {"prefill_len": CHUNK, "cache_len": cache_len}
    rules = [
        {"match": r"model\.embed_tokens\.weight|lm_head\.weight", "scheme": "int8"},
        {"match": r".*\.(gate|up)_proj\.weight", "scheme": body},
        {"match": r".*_proj\.weight", "scheme": "int4-g32"},  # whose rows may be too short for the other
    ]
    data["quantization"] = {"method": "rtn", "rules": rules}
    return Recipe.model_validate_json(json.dumps(data))


def build(config: ModelConfig, recipe: Recipe, folder: Path) -> None:
    """Write the graphs of a recipe's one target into a new folder, over made-up weights."""
    (name,) = recipe.targets.names()
    folder.mkdir(parents=True)
    store: Any = MadeUpStore(config, recipe.quantization)
    target: Any = load_target(name)
    extra = {"scales": made_up_scales(config)} if recipe.kv_cache == "int8" else {}
    target.build(store, recipe, folder, lambda _: None, **extra)


def values(shape: tuple[int, ...]) -> Array:
    """Numbers as they may be: what is counted does not depend on them."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# -- ONNX Runtime


def onnx_jobs(folder: Path) -> Iterator[Counted]:
    """Write graphs for ONNX Runtime, and say how to run them."""
    for columns in COLUMNS:
        for body in ONNX_BODIES:
            yield from _onnx_products(folder, body, columns, 256, head=body == "int4-g32")
        for block in INT8_BLOCKS[:-1]:
            yield from _onnx_products(folder, "int4-g32", columns, block, head=True, gate=False)
    for cache in _CACHES:
        yield from _onnx_attention(folder, cache)
    yield from _onnx_others(folder)


def _onnx_products(
    folder: Path, body: str, columns: int, block: int, *, head: bool, gate: bool = True
) -> Iterator[Counted]:
    config = make_config(WIDTH, columns, columns, WIDTH // HEAD_DIM)
    recipe = _recipe("onnx-int4", body, 256, int8_block_size=block)
    source = folder / f"{body}-{columns}-{block}"
    build(config, recipe, source)
    anatomy = onnx_anatomy.dissect(ir.load(source / "decoder.onnx"), config, "decoder.onnx")
    assert anatomy.head is not None
    wanted = {body: anatomy.layers[0].gate} if gate else {}
    if head:
        wanted |= {f"int8-b{block}": anatomy.head}
    for scheme, linear in wanted.items():
        file = f"{scheme}-{columns}.onnx"
        _write_piece(anatomy.model, {"x": linear.x}, {"y": linear.out}, folder / file)
        for rows in (1, CHUNK):
            inputs, outputs = {"x": values((1, rows, WIDTH))}, {"y": Output((1, rows, columns))}
            yield Counted("product", scheme, rows, WIDTH * columns, Job(file, inputs, outputs))


def _onnx_attention(folder: Path, cache: str) -> Iterator[Counted]:
    config = make_config(HEADS * HEAD_DIM, 64, 64, HEADS)
    recipe = _recipe(f"onnx-int4{_CACHES[cache]}", "int4-g32", 1024)
    source = folder / f"attention-{cache}"
    build(config, recipe, source)
    anatomy = onnx_anatomy.dissect(ir.load(source / "decoder.onnx"), config, "decoder.onnx")
    spec: CacheSpec = load_target("onnx").cache(config, recipe)
    inputs, outputs = layer_pieces(anatomy, 0, spec)[2]
    file = f"attention-{cache}.onnx"
    names = {name: f"out.{name}" for name in ("attention", "key", "value")}
    _write_piece(
        anatomy.model, {f"in.{name}": value for name, value in inputs.items()},
        {shown: outputs[name] for name, shown in names.items()}, folder / file,
    )  # fmt: skip
    for rows, contexts in ((1, CONTEXTS), (CHUNK, (0, CONTEXTS[-1]))):
        for context in contexts:
            job = _attention_job(file, rows, context, spec, ir.load(folder / file))
            yield Counted("attention", cache, rows, HEADS * context, job)


def _attention_job(file: str, rows: int, context: int, spec: CacheSpec, model: ir.Model) -> Job:
    inputs: dict[str, Array] = {}
    for value in model.graph.inputs:
        name = str(value.name)
        if name == "past_length":
            inputs[name] = np.array([context], np.int32)
        elif name == "input_ids":
            inputs[name] = np.full((1, rows), 5, np.int64)
        elif name.startswith("past_key_values"):
            inputs[name] = np.ones(spec.shape, value.dtype.numpy() if value.dtype else np.float32)
        else:
            assert value.shape is not None
            width = value.shape[-1]
            assert isinstance(width, int)
            inputs[name] = values((1, rows, width))
    pasts = [name for name in inputs if name.startswith("past_key_values")]
    outputs = {"out.attention": Output((1, rows, HEADS * HEAD_DIM))}
    for side in ("key", "value"):
        over = next(name for name in pasts if name.endswith(side))
        outputs[f"out.{side}"] = Output(spec.shape, str(inputs[over].dtype), over)
    order = [str(value.name) for value in model.graph.outputs]
    return Job(file, inputs, {name: outputs[name] for name in order})


def _onnx_others(folder: Path) -> Iterator[Counted]:
    wide, inner = make_config(WIDTH, 64, 64, WIDTH // HEAD_DIM), make_config(64, INNER, 64, 1)
    for kind, config, size in (("norm", wide, WIDTH), ("activation", inner, INNER)):
        source = folder / kind
        recipe = _recipe("onnx-int4", "int4-g32", 256)
        build(config, recipe, source)
        anatomy = onnx_anatomy.dissect(ir.load(source / "decoder.onnx"), config, "decoder.onnx")
        pieces = layer_pieces(anatomy, 0, load_target("onnx").cache(config, recipe))
        inputs, outputs = pieces[4 if kind == "norm" else 6]
        named = {f"in.{name}": value for name, value in inputs.items()}
        results = {f"out.{name}": value for name, value in outputs.items()}
        _write_piece(anatomy.model, named, results, folder / f"{kind}.onnx")
        for rows in (1, CHUNK):
            job = Job(
                f"{kind}.onnx", {name: values((1, rows, size)) for name in named},
                {name: Output((1, rows, size)) for name in results},
            )  # fmt: skip
            yield Counted(kind, "", rows, 0, job)


def _write_piece(
    model: ir.Model, inputs: Mapping[str, ir.Value], outputs: Mapping[str, ir.Value], path: Path
) -> None:
    cutter = Cutter(model)
    cutter.piece(dict(inputs), dict(outputs))
    piece = cutter.model()
    for value in (*piece.graph.inputs, *(out for node in piece.graph for out in node.outputs)):
        if value.shape is not None and len(value.shape) == 3:
            value.shape = ir.Shape([1, "rows", value.shape[-1]])
    ir.external_data.load_to_model(piece)
    ir.save(piece, path)


# -- ExecuTorch


def pte_jobs(folder: Path) -> Iterator[Counted]:
    """Write programs for ExecuTorch, and say how to run them."""
    for columns in COLUMNS:
        for body in PTE_BODIES:
            yield from _pte_products(folder, body, columns)
    for cache in _CACHES:
        for length in PTE_CONTEXTS:
            yield _pte_attention(folder, cache, PTE_HEADS, length, "decode")
        yield _pte_attention(folder, cache, HEADS, PTE_CONTEXTS[0], "prefill")


def _pte_products(folder: Path, body: str, columns: int) -> Iterator[Counted]:
    config = make_config(WIDTH, columns, 64, WIDTH // HEAD_DIM)
    pte = _build_pte(
        config,
        _recipe("xnnpack-int4", body, 256, **ONE_METHOD_A_PHASE),
        folder,
        f"{body}-{columns}",
    )
    for method, rows in (("decode", 1), ("prefill", CHUNK)):
        anatomy = xnnpack_anatomy.dissect(pte, method, config)
        product = anatomy.layers[0].gate_up[0]
        work = Piecework(anatomy.delegate)
        work.piece({"x": product.x}, {"y": product.out})
        job = _pte_job(work, folder / f"{body}-{columns}-{method}.pte", {"y": product.rows})
        yield Counted("product", body, rows, WIDTH * product.rows, job)


def _pte_attention(
    folder: Path, cache: str, heads: int, length: int, method: Literal["decode", "prefill"]
) -> Counted:
    """A method pays for every slot of its cache, whatever lies in it."""
    config = make_config(heads * HEAD_DIM, 64, 64, heads)
    recipe = _recipe(f"xnnpack-int4{_CACHES[cache]}", "int4-g32", length, **ONE_METHOD_A_PHASE)
    name = f"attention-{cache}-{heads}-{length}-{method}"
    anatomy = xnnpack_anatomy.dissect(_build_pte(config, recipe, folder, name), method, config)
    inputs, outputs = xnnpack_pieces(anatomy, 0)[2]
    work = Piecework(anatomy.delegate)
    work.piece(dict(inputs), {"attention": outputs["attention"]})
    job = _pte_job(work, folder / f"{name}.pte", {"attention": heads * HEAD_DIM})
    return Counted("attention", cache, 1 if method == "decode" else CHUNK, heads * length, job, heads)


def _build_pte(config: ModelConfig, recipe: Recipe, folder: Path, name: str) -> PteFile:
    build(config, recipe, folder / name)
    (path,) = (folder / name).glob("*.pte")
    return PteFile(path)


def _pte_job(work: Piecework, path: Path, widths: Mapping[str, int]) -> Job:
    work.write(path)
    inputs = {
        name: values(tuple(work.dims(name))).astype(torch.empty(0, dtype=work.input_dtype(name)).numpy().dtype)
        for name in work.inputs
    }
    shapes = {name: tuple(work.dims(name)) for name in work.outputs}
    assert {name: shape[-1] for name, shape in shapes.items()} == dict(widths)
    return Job(path.name, inputs, {name: Output(shape) for name, shape in shapes.items()}, METHOD)
