"""Loss against size, beside llama.cpp: the same model, text and tokens; writes a part of RESULTS.md and a picture.

    python benchmarks/accuracy_peers.py helium-tiny

llama.cpp's files are made by its own quantizer, with an importance matrix from the text that our methods calibrate
on (mean squares of what each matrix reads in the original), and read back by the package gguf. All weights are
then dequantized and run by one decoder in float32 on the built-in evaluation text, which nothing is calibrated on:
what is compared is the numbers that are stored, not kernels. Bits are those of all matrices, embedding and head
included, with their scales as each file keeps them.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from calibration_table import Original, measure, rows_of
from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.exporting import fit
from helium_edge.exporting.calibration import open_store, weight_texts
from helium_edge.mixed_precision.fit import Budget, measured_losses
from helium_edge.model.decoder import ACTIVATIONS, DecoderLayer
from helium_edge.model.parts import DenseParts, RmsNorm
from helium_edge.model.rope import reorder_interleaved_rows
from helium_edge.model.text_model import TextModel
from helium_edge.model.weights import EMBEDDING, FINAL_NORM, head_name
from helium_edge.quant import plan_weights
from helium_edge.quant.calibrated.inputs import INPUTS, readers
from helium_edge.quant.calibrated.statistics import mean_squares
from helium_edge.quant.calibrated.streams import WRITE_BACK, Stream, Texts, projection
from helium_edge.recipe import Recipe, Scheme, load_recipe
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.texts import evaluation_windows
from peer import results
from peer.gguf_file import BUFFER_BYTES, gguf_tensors, write_gguf

RESULTS = Path(__file__).resolve().with_name("results.json")
FILES = {"Q4_0": 2, "IQ4_XS": 30, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "Q8_0": 7}
"""Names of llama.cpp's kinds of file, and their numbers (`llama_ftype` in llama.h)."""
SHIPPED = ("xnnpack-int4-small", "xnnpack-int4", "xnnpack-int8")
BUDGETS = (0.80, 0.85, 0.9, 0.95, 1.0, 1.1, 1.25)
"""Of the bytes of `xnnpack-int4`."""
SCALE_BITS = 16
"""A scale of int4 in a `.pte` is a bfloat16, one of int8 a float32."""


class ImatrixData(ctypes.Structure):
    """`llama_model_imatrix_data` in llama.h."""

    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t))


def importance(checkpoint: Checkpoint, texts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Mean squares (K,) of what each matrix reads in the original, by its own name."""
    config, original = checkpoint.config, Original(checkpoint)
    found: dict[str, Tensor] = {}
    laid = Texts(config, texts)
    stream = Stream(laid, original.dense(EMBEDDING)[laid.ids])
    for index in range(config.num_hidden_layers):
        layer = DecoderLayer(config, DenseParts(config, original), index, ACTIVATIONS[config.hidden_act])
        inputs: Tensor | None = None
        for name in INPUTS:
            inputs = stream.input_of(layer, name, inputs)
            found.update(dict.fromkeys(readers(index, name), mean_squares(inputs)))
            if name in WRITE_BACK:
                stream.add(projection(layer, name), inputs)
    head = head_name(config)
    assert head is not None
    found[head] = mean_squares(stream.normed(RmsNorm(original.vector(FINAL_NORM), config.rms_norm_eps)))
    return found


def quantize(source: Path, target: Path, kind: int, imatrix: Mapping[str, Tensor]) -> None:
    """Quantize a GGUF file by llama.cpp, under an importance matrix by names in the file."""
    import llama_cpp

    values = [(ctypes.c_float * len(each))(*each.tolist()) for each in imatrix.values()]
    entries = (ImatrixData * (len(values) + 1))()  # the last one, without a name, ends the list
    for entry, name, data in zip(entries, imatrix, values, strict=False):
        entry.name, entry.size = name.encode(), len(data)
        entry.data = ctypes.cast(data, ctypes.POINTER(ctypes.c_float))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.max_buf_size = kind, BUFFER_BYTES
    if imatrix:
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if code != 0:
        raise RuntimeError(f"llama_model_quantize({kind}) returned {code}")


class FromGguf:
    """The weights of a GGUF file, dequantized, by our names.

    Attributes:
        bits: Of a weight, over all matrices.
    """

    def __init__(self, path: Path, checkpoint: Checkpoint) -> None:
        self._config = checkpoint.config
        ours = {theirs: name for name, theirs in gguf_tensors(checkpoint).items()}
        tensors = [tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name in ours]
        self._found = {
            ours[tensor.name]: torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
            for tensor in tensors
        }
        matrices = [tensor for tensor in tensors if len(tensor.shape) == 2]
        self.bits = (
            8 * sum(int(each.n_bytes) for each in matrices) / sum(int(each.n_elements) for each in matrices)
        )

    def dense(self, name: str) -> Tensor:
        found = self._found[name]
        if self._config.rope_interleaved and (".q_proj." in name or ".k_proj." in name):
            return reorder_interleaved_rows(found, self._config.head_dim)
        return found

    def vector(self, name: str) -> Tensor:
        return self._found[name]


def bits_of(checkpoint: Checkpoint, recipe: Recipe) -> float:
    """Bits of a weight over all matrices, with scales as a `.pte` keeps them."""
    total = weights = 0.0
    for planned in plan_weights(checkpoint.config, recipe.quantization):
        rows, columns = planned.shape
        scheme = planned.scheme
        assert scheme is not None
        scale = SCALE_BITS / (scheme.group_size or 1) if scheme.bits == 4 else 32 / columns
        total += rows * columns * (scheme.bits + scale)
        weights += rows * columns
    return total / weights


def ours(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Iterator[tuple[str, str, Recipe]]:
    """Series, label and recipe of every point of ours."""
    for name in SHIPPED:
        yield "recipes", name.removeprefix("xnnpack-"), load_recipe(name)
    base, _ = fit(checkpoint.config, load_recipe("xnnpack-int4"))
    all_int4 = [
        rule.model_copy(update={"scheme": Scheme(bits=4, group_size=32)}) for rule in base.quantization.rules
    ]
    quantization = base.quantization.model_copy(update={"rules": tuple(all_int4)})
    yield "recipes", "all int4", base.model_copy(update={"quantization": quantization})
    budget = Budget(checkpoint.config, base)
    losses = measured_losses(checkpoint, tokenizer, base, budget, None)
    for share in BUDGETS:
        found = budget.best(losses, int(share * budget.base_nbytes))
        yield "recipes fit", f"{share:.0%}", found.recipe


def points(checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
    """Every point: its series, label, bits a weight and mean KLD with its standard error."""
    tokenizer = Tokenizer(checkpoint.tokenizer_files()[0])
    windows = evaluation_windows(tokenizer)
    original = TextModel(checkpoint.config, Original(checkpoint))
    references = [rows_of(original, window.tokens) for window in windows]

    def judged(series: str, label: str, bits: float, weights: Any) -> dict[str, Any]:
        figures = measure(TextModel(checkpoint.config, weights), windows, references)
        every = torch.cat([part for found in figures.kld.values() for part in found])
        error = every.std().item() / len(every) ** 0.5
        return {"series": series, "label": label, "bits": bits, "kld": every.mean().item(), "error": error}

    texts = weight_texts(tokenizer, checkpoint.config, 8192, None)
    names = gguf_tensors(checkpoint)
    imatrix = {names[name]: values for name, values in importance(checkpoint, texts).items()}
    with tempfile.TemporaryDirectory() as folder:
        wide = Path(folder) / "wide.gguf"
        write_gguf(checkpoint, wide, "bf16")
        for label, kind in FILES.items():
            for series, used in (("llama.cpp, imatrix", imatrix), ("llama.cpp", {})):
                if series == "llama.cpp" and label == "IQ4_XS":
                    continue
                path = Path(folder) / f"{label}.gguf"
                quantize(wide, path, kind, used)
                found = FromGguf(path, checkpoint)
                yield judged(series, label, found.bits, found)
    for series, label, recipe in ours(checkpoint, tokenizer):
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(checkpoint, recipe.quantization, Path(folder), tokenizer, None)
            yield judged(series, label, bits_of(checkpoint, recipe), store)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="helium-tiny")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    found = []
    with torch.inference_mode():
        for point in points(open_checkpoint(given.checkpoint)):
            print(
                f"{point['series']:20} {point['label']:12} {point['bits']:.2f} {point['kld']:.4f}", file=sys.stderr
            )
            found.append(point)
    from peers import write

    merged = {**results.load(given.results), "accuracy": {"checkpoint": given.checkpoint, "points": found}}
    results.save(merged, given.results)
    write(given.results, merged)


if __name__ == "__main__":
    main()
