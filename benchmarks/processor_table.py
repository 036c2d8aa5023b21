"""What int4 and int8 recipes cost as each kind of processor computes them: a table of docs/accuracy.md.

    python benchmarks/make_outliers.py helium-tiny-outliers
    python benchmarks/processor_table.py --outliers helium-tiny-outliers --write

Mean KLD of the next token over every position of the built-in evaluation text: weights alone, then with
activations rounded as ONNX Runtime's kernels round them on x86 and on ARM64 with the dot product. The reference is
helium-tiny, whose function the checkpoint with outliers computes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from calibration_table import DOCUMENT, Figures, Original, Row, group, measure, rows_of, store_of
from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.model.text_model import TextModel
from helium_edge.parity.emulation import EmulatedParts, Ledger
from helium_edge.quant import WeightStore
from helium_edge.quant.activations import SHIPPED_TO, Arithmetic
from helium_edge.recipe import Recipe, Scheme, load_recipe
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.targets import load_target
from helium_edge.texts import Window, evaluation_windows

BEGIN, END = "<!-- processors -->", "<!-- /processors -->"
BLOCKS = (32, 256)


@dataclass(frozen=True)
class Kind:
    """A body, quantized in one way."""

    title: str
    scheme: Scheme
    method: str = "calibrated"


KINDS = (
    Kind("int4, g32", group(32)),
    Kind("int4, g128", group(128)),
    Kind("int4, g32 with zero points", group(32, symmetric=False)),
    Kind("int4, g64 with zero points", group(64, symmetric=False)),
    Kind("int4, g128 with zero points", group(128, symmetric=False)),
    Kind("int8", Scheme(bits=8), "mse"),
)


def arithmetics(store: WeightStore, block: int) -> list[Arithmetic]:
    """Those of all processors that bundles are shipped to, with int8 weights in such blocks."""
    data = load_recipe("onnx-int4").model_dump(mode="json")
    data["targets"]["onnx"]["int8_block_size"] = block
    recipe = Recipe.model_validate_json(json.dumps(data))
    return [load_target("onnx").arithmetic(recipe, store.plan, processor) for processor in SHIPPED_TO]


def kld(figures: Figures) -> float:
    return torch.cat([part for found in figures.kld.values() for part in found]).mean().item()


def lines_of(
    kind: Kind, source: Checkpoint, tokenizer: Tokenizer, windows: Sequence[Window], references: Sequence[Tensor]
) -> Iterator[list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        store = store_of(Row(kind.title, kind.method, kind.scheme), source, tokenizer, Path(folder))
        alone = kld(measure(TextModel(source.config, store), windows, references))
        for block in BLOCKS:
            rules, ledger = arithmetics(store, block), Ledger()
            model = TextModel(source.config, store, EmulatedParts(store, rules, ledger))
            found = []
            for ledger.processor in range(len(rules)):
                found.append(kld(measure(model, windows, references)))
            change = 100 * (found[1] / found[0] - 1)
            yield [f"{block}", f"{alone:.4f}", *(f"{value:.4f}" for value in found), f"{change:+.0f} %"]


def table(checkpoint: Checkpoint, outliers: Checkpoint | None) -> Iterator[str]:
    tokenizer = Tokenizer(checkpoint.tokenizer_files()[0])
    windows = evaluation_windows(tokenizer)
    original = TextModel(checkpoint.config, Original(checkpoint))
    references = [rows_of(original, window.tokens) for window in windows]
    yield "| weights | int8 rows in blocks of | weights alone | x86 | ARM64 | ARM64 / x86 |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, source in (("", checkpoint), ("outliers: ", outliers)):
        for kind in KINDS if source is not None else ():
            assert source is not None
            for cells in lines_of(kind, source, tokenizer, windows, references):
                yield f"| {name}{kind.title} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="helium-tiny")
    parser.add_argument("--outliers", help="folder that make_outliers.py wrote")
    parser.add_argument("--write", action="store_true", help="put the table into docs/accuracy.md")
    arguments = parser.parse_args()
    outliers = None if arguments.outliers is None else open_checkpoint(arguments.outliers)
    lines = []
    with torch.inference_mode():
        for line in table(open_checkpoint(arguments.checkpoint), outliers):
            print(line, flush=True)
            lines.append(line)
    if arguments.write:
        before, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        DOCUMENT.write_text(f"{before}{BEGIN}\n\n{chr(10).join(lines)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
