"""Small bundles with real manifests and ONNX files that say the right things and compute nothing.

Imports no torch, so that a subprocess which is to be killed starts fast.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from helium_edge.bundle import (
    BundleWriter,
    CacheSection,
    CreatedBy,
    GenerationSection,
    GoldenTrace,
    GraphEntry,
    Manifest,
    MemorySection,
    ModelSection,
    QuantizationSection,
    SourceSection,
    TargetSection,
    TokenizerSection,
    TokensSection,
    verify_bundle,
)
from helium_edge.config import ModelConfig
from helium_edge.recipe import load_recipe
from helium_edge.signature import GraphSignature, TensorSpec, cache_spec

CONFIG = ModelConfig.from_dict(
    {
        "model_type": "helium", "vocab_size": 160, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 128,
    }
)  # fmt: skip
CACHE = cache_spec(CONFIG, 32, "in_place")
SIGNATURES = {
    "prefill.onnx": GraphSignature("prefill", 8, CONFIG.vocab_size, CACHE),
    "decode.onnx": GraphSignature("decode", 1, CONFIG.vocab_size, CACHE),
    "decoder.onnx": GraphSignature("any", None, CONFIG.vocab_size, CACHE),
}
WEIGHTS_BYTES = 8192
TENSOR_AT, TENSOR_DIMS = 4096, (16, 64)


@dataclass(frozen=True)
class Report:
    name: str
    shape: tuple[int, int]
    scheme: str
    relative_error: float
    nbytes: int


def make_manifest(**changes: Any) -> Manifest:
    """A manifest that lacks only its files; `changes` replace whole fields."""
    reports = [
        Report("model.embed_tokens.weight", (160, 64), "int8", 0.01, 10880),
        Report("model.layers.0.mlp.up_proj.weight", (96, 64), "int4-g32", 0.08, 3840),
        Report("lm_head.weight", (160, 64), "float32", 0.0, 40960),
    ]
    fields: dict[str, Any] = {
        "name": "tiny-int4",
        "created_by": CreatedBy(version="0.1.0", libraries={"torch": "2.13.0", "onnx": "1.23.2"}),
        "runtime": "onnxruntime",
        "target": TargetSection(name="onnx", options={"dialect": "contrib", "accuracy_level": 4}),
        "source": SourceSection(checkpoint="helium-tiny", files={"config.json": "ab" * 32}),
        "model": ModelSection.from_config(CONFIG),
        "tokens": TokensSection.from_config(CONFIG, add_bos=True),
        "tokenizer": TokenizerSection(kind="unigram", byte_fallback=True),
        "quantization": QuantizationSection.from_reports(load_recipe("onnx-int4"), reports, fingerprint="cd" * 32),
        "graphs": [GraphEntry.from_signature(file, signature) for file, signature in SIGNATURES.items()],
        "cache": CacheSection.from_spec(CACHE),
        "logits": "last",
        "prefill_len": 8,
        "cache_len": 32,
        "generation": GenerationSection(),
        "memory": MemorySection.estimate(
            weights_bytes=WEIGHTS_BYTES, packed_bytes=9000, cache_bytes=CACHE.total_bytes, activations_bytes=1000
        ),
        "golden": GoldenTrace(
            prompt="Grüße", prompt_ids=(1, 5), greedy_ids=(7, 2), margins=(0.5, 1.25), top5_first=()
        ),
    }
    return Manifest(**(fields | changes))


def model_proto(
    signature: GraphSignature, *, location: str = "weights.bin", **external: int | str
) -> onnx.ModelProto:
    """A graph with the inputs and outputs of `signature` and one tensor in an external file."""
    model = onnx.ModelProto(ir_version=11)
    model.opset_import.add(domain="", version=23)
    model.graph.name = "g"
    for specs, values in ((signature.inputs(), model.graph.input), (signature.outputs(), model.graph.output)):
        for spec in specs:
            values.append(_value(dataclasses.replace(spec, shape=signature.file_shape(spec))))
    tensor = model.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=TENSOR_DIMS)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    fields = {"location": location, "offset": TENSOR_AT, "length": 4 * TENSOR_DIMS[0] * TENSOR_DIMS[1]} | external
    for key, value in fields.items():
        tensor.external_data.add(key=key, value=str(value))
    return model


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    value = onnx.ValueInfoProto(name=spec.name)
    value.type.tensor_type.elem_type = ir.DataType[{"float32": "FLOAT"}.get(spec.dtype, spec.dtype.upper())].value
    for dim in spec.shape:
        if isinstance(dim, str):
            value.type.tensor_type.shape.dim.add(dim_param=dim)
        else:
            value.type.tensor_type.shape.dim.add(dim_value=dim)
    return value


def fill(folder: Path, *, weight: int = 1) -> None:
    """Write the files of a bundle, all but the manifest; `weight` is the byte that the weights consist of."""
    (folder / "weights.bin").write_bytes(bytes([weight]) * WEIGHTS_BYTES)
    for file, signature in SIGNATURES.items():
        (folder / file).write_bytes(model_proto(signature).SerializeToString(deterministic=True))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text("{}")


def write_bundle(
    out: Path, *, force: bool = False, weight: int = 1, meddle: Callable[[Path], Any] | None = None, **changes: Any
) -> Path:
    """Publish a bundle; `meddle` gets the folder before that, `changes` go into the manifest."""
    with BundleWriter(out, force=force) as writer:
        fill(writer.folder, weight=weight)
        if meddle is not None:
            meddle(writer.folder)
        return writer.publish(make_manifest(**changes))


def content(folder: Path) -> dict[str, bytes]:
    """Bytes of every file below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def raise_(error: BaseException) -> None:
    raise error


def weight(bundle: Path) -> int:
    """The version of a bundle, after checking that it is whole."""
    verify_bundle(bundle)
    return (bundle / "weights.bin").read_bytes()[0]
