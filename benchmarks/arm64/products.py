"""The products of a bundle by themselves: with activations of ours, on the kernels of phones and by the rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from arm64.operators import Array, Job, Output
from helium_edge.bundle import Bundle
from helium_edge.model.weights import head_name, layer_name
from helium_edge.parity.bundle_store import BundleStore
from helium_edge.pte.file import PteFile
from helium_edge.quant.activations import Arithmetic
from helium_edge.targets.onnx import anatomy as onnx_anatomy
from helium_edge.targets.onnx.debug import Cutter
from helium_edge.targets.xnnpack import anatomy as xnnpack_anatomy
from helium_edge.targets.xnnpack.cutting import METHOD, Piecework

LARGE, FACTOR = 4, 30.0
"""Channels that are so many times as large: what tells one scale for a token from one for a block."""


@dataclass(frozen=True)
class Product:
    """One product, from the input `x.number` to the output `y.number`: the matrices that it stacks, by name."""

    number: int
    matrices: tuple[str, ...]


def cut_onnx(bundle: Bundle, store: BundleStore, folder: Path, rows: int) -> tuple[list[Product], Job]:
    """Write a graph of all products of an ONNX bundle, each from an input of its own to an output of its own."""
    graph = next(graph for graph in bundle.manifest.graphs if graph.phase == "any")
    anatomy = onnx_anatomy.dissect(ir.load(bundle.path(graph.file)), store.config, graph.file)
    found: list[tuple[onnx_anatomy.Linear, tuple[str, ...]]] = []
    for index, layer in enumerate(anatomy.layers):
        found += zip(layer.qkv, _qkv(index, len(layer.qkv)), strict=True)
        found += zip((layer.o, layer.gate, layer.up, layer.down), _others(index), strict=True)
    head = head_name(store.config)
    if anatomy.head is not None and head is not None:
        found.append((anatomy.head, (head,)))
    cutter = Cutter(anatomy.model)
    for number, (linear, _) in enumerate(found):
        cutter.piece({f"x.{number}": linear.x}, {f"y.{number}": linear.out})
    model = cutter.model()
    # Any number of rows, also where the bundle's graph has the last one alone.
    for value in (*model.graph.inputs, *(out for node in model.graph for out in node.outputs)):
        assert value.shape is not None
        value.shape = ir.Shape([1, "rows", value.shape[-1]])
    ir.external_data.load_to_model(model)
    ir.save(model, folder / "products.onnx")
    products = [Product(number, matrices) for number, (_, matrices) in enumerate(found)]
    return products, _job("products.onnx", "", products, store, {each.number: (1, rows) for each in products})


def cut_pte(bundle: Bundle, store: BundleStore, folder: Path, method: str) -> tuple[list[Product], Job]:
    """The same of a method of a `.pte`, with as many rows as it has tokens."""
    pte = PteFile(bundle.path(bundle.manifest.graphs[0].file))
    anatomy = xnnpack_anatomy.dissect(pte, method, store.config)
    found: list[tuple[xnnpack_anatomy.Product, tuple[str, ...]]] = []
    for index, layer in enumerate(anatomy.layers):
        o, gate, up, down = _others(index)
        found += zip(layer.qkv, _qkv(index, len(layer.qkv)), strict=True)
        pair = (up, gate) if layer.up_first else (gate, up)
        inner = [pair[0] + pair[1]] if len(layer.gate_up) == 1 else pair
        found += zip((layer.o, *layer.gate_up, layer.down), (o, *inner, down), strict=True)
    head = head_name(store.config)
    if anatomy.head is not None and head is not None:
        found.append((anatomy.head, (head,)))
    work, rows = Piecework(anatomy.delegate), {}
    for number, (product, _) in enumerate(found):
        work.piece({f"x.{number}": product.x}, {f"y.{number}": product.out})
        rows[number] = tuple(work.dims(f"x.{number}")[:-1])
    file = f"{method}.pte"
    work.write(folder / file)
    products = [Product(number, matrices) for number, (_, matrices) in enumerate(found)]
    return products, _job(file, METHOD, products, store, rows)


def _qkv(layer: int, parts: int) -> list[tuple[str, ...]]:
    names = [layer_name(layer, f"self_attn.{kind}_proj.weight") for kind in "qkv"]
    return [tuple(names)] if parts == 1 else [(name,) for name in names]


def _others(layer: int) -> list[tuple[str, ...]]:
    """Of o, gate, up and down."""
    kinds = ("self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
    return [(layer_name(layer, f"{kind}_proj.weight"),) for kind in kinds]


def activations(shape: Sequence[int], seed: int) -> Array:
    """(..., K) float32, a few channels of them large."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    x[..., rng.choice(shape[-1], LARGE, replace=False)] *= FACTOR
    return x


def _job(
    file: str, method: str, products: Sequence[Product], store: BundleStore, rows: dict[int, tuple[int, ...]]
) -> Job:
    """One run of all of them, over rows of the given shapes."""
    inputs, outputs = {}, {}
    for each in products:
        weights = [store.dense(name) for name in each.matrices]
        shape = rows[each.number]
        inputs[f"x.{each.number}"] = activations((*shape, weights[0].shape[1]), each.number)
        outputs[f"y.{each.number}"] = Output((*shape, sum(map(len, weights))))
    return Job(file, inputs, outputs, method)


def errors(
    products: Sequence[Product], store: BundleStore, arithmetic: Arithmetic, job: Job, found: dict[str, Array]
) -> Iterator[tuple[Product, float]]:
    """Of each product: rms of the difference from the rule, over rms of what the rule gives."""
    for product in products:
        weight = torch.cat([store.dense(name) for name in product.matrices])
        x = torch.from_numpy(job.inputs[f"x.{product.number}"]).view(-1, weight.shape[1])
        rule = arithmetic.rules.get(product.matrices[0])
        if rule is not None:
            codes = rule.codes(x)
            x = codes.rounded.double() * codes.scale.double()
        expected = (x.double() @ weight.double().T).numpy()
        gap = found[f"y.{product.number}"].reshape(expected.shape) - expected
        yield product, float(np.sqrt(np.square(gap).mean() / np.square(expected).mean()))
