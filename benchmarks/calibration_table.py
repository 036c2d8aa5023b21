"""What methods of quantization cost, in torch and without an artifact: the table of docs/accuracy.md.

    python benchmarks/calibration_table.py --outliers helium-tiny-outliers --write
    python benchmarks/calibration_table.py --text mine.jsonl --only 'g128$' --write

Mean KLD of the next token over every position of the built-in evaluation text, language by language, or of a text
of one's own that nothing was chosen on; weights dequantized, activations in float32, and of the checkpoint with
large channels (benchmarks/make_outliers.py) also in int8, one scale and zero point a token, as XNNPACK rounds
them. Of the outliers, the reference is the checkpoint itself, which computes what helium-tiny computes.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.model.decoder import causal_mask
from helium_edge.model.rope import rope_tables
from helium_edge.model.text_model import TextModel
from helium_edge.model.weights import read_weight
from helium_edge.parity.emulation import EmulatedParts, Ledger
from helium_edge.quant import QuantizedStore, WeightStore
from helium_edge.quant.activations import Arithmetic, PerToken
from helium_edge.quant.calibrated import CalibratedStore
from helium_edge.recipe import Calibration, Quantization, Rule, Scheme
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.texts import Window, calibration_windows, evaluation_windows, read_windows

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"
MARK, MARK_OF_TEXT = "methods", "methods, other text"
ENDS, BODY = r"model\.embed_tokens\.weight|lm_head\.weight", r".*_proj\.weight"
INT8, DEFAULT = Scheme(bits=8), Calibration()


def group(size: int, *, symmetric: bool = True) -> Scheme:
    return Scheme(bits=4, group_size=size, symmetric=symmetric)


@dataclass(frozen=True)
class Row:
    """One way to quantize."""

    title: str
    method: str
    body: Scheme
    ends: Scheme = INT8
    options: Calibration = DEFAULT
    corrected: bool = True
    outliers: bool = False


FOLDLESS = Calibration(folds=False)
ROWS = (
    Row("scale search (`mse`), g32", "mse", group(32)),
    Row("GPTQ, true sequential, no correction, no folds", "calibrated", group(32),
        options=Calibration(rounds=0, folds=False), corrected=False),
    Row("with target correction", "calibrated", group(32), options=Calibration(rounds=0, folds=False)),
    Row("with one round of refit and descent", "calibrated", group(32),
        options=Calibration(rounds=1, folds=False)),
    Row("with two rounds", "calibrated", group(32), options=FOLDLESS),
    Row("with folds: `calibrated`, g32", "calibrated", group(32)),
    Row("`calibrated`, 3,000 tokens", "calibrated", group(32), options=Calibration(tokens=3072)),
    Row("`calibrated`, 15,000 tokens", "calibrated", group(32), options=Calibration(tokens=16384)),
    Row("`mse`, g64", "mse", group(64)),
    Row("`calibrated`, g64", "calibrated", group(64)),
    Row("`mse`, g128", "mse", group(128)),
    Row("`calibrated`, g128", "calibrated", group(128)),
    Row("`mse`, g32 with zero points", "mse", group(32, symmetric=False)),
    Row("`calibrated`, g32 with zero points", "calibrated", group(32, symmetric=False)),
    Row("`mse`, g32, embedding and head too", "mse", group(32), ends=group(32)),
    Row("`calibrated`, g32, embedding and head too", "calibrated", group(32), ends=group(32)),
    Row("outliers: `mse`, g32", "mse", group(32), outliers=True),
    Row("outliers: `calibrated` without folds", "calibrated", group(32), options=FOLDLESS, outliers=True),
    Row("outliers: `calibrated`", "calibrated", group(32), outliers=True),
    Row("outliers: `calibrated`, g128", "calibrated", group(128), outliers=True),
)  # fmt: skip


class Original:
    """The checkpoint's own weights."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def dense(self, name: str) -> Tensor:
        return read_weight(self._checkpoint, name).to(torch.float32)

    vector = dense


class Uncorrected(CalibratedStore):
    """Without the correction of the target, for comparison."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.options = dataclasses.replace(self.options, corrected=False)


def rows_of(model: TextModel, ids: Sequence[int]) -> Tensor:
    """Log probabilities after every token but the last, (T - 1, V)."""
    config, count = model.config, len(ids) - 1
    rope = rope_tables(config.rope_theta, config.head_dim, count)
    states = model.stack.encode(torch.tensor(ids[:-1]), rope, causal_mask(config, count))
    return torch.log_softmax(model.stack.logits(states), dim=-1)


@dataclass
class Figures:
    """Over all positions: KLD, and how much more surprising the text is."""

    kld: dict[str, list[Tensor]]
    surprise: list[Tensor]

    def line(self) -> list[str]:
        means = [torch.cat(found).mean().item() for found in self.kld.values()]
        every = torch.cat([part for found in self.kld.values() for part in found])
        error = every.std().item() / math.sqrt(len(every))
        ratio = math.exp(torch.cat(self.surprise).mean().item())
        shown = [f"{mean:.4f}" for mean in means] if len(means) > 1 else []
        return [*shown, f"{every.mean().item():.4f} ± {error:.4f}", f"{ratio:.4f}"]


def measure(model: TextModel, windows: Sequence[Window], references: Sequence[Tensor]) -> Figures:
    figures = Figures({}, [])
    for window, expected in zip(windows, references, strict=True):
        found = rows_of(model, window.tokens)
        figures.kld.setdefault(window.language, []).append((expected.exp() * (expected - found)).sum(dim=-1))
        targets = torch.tensor(window.tokens[1:])[:, None]
        figures.surprise.append((expected - found).gather(1, targets)[:, 0])
    return figures


def store_of(row: Row, checkpoint: Checkpoint, tokenizer: Tokenizer, folder: Path) -> WeightStore:
    rules = (Rule(match=ENDS, scheme=row.ends), Rule(match=BODY, scheme=row.body))
    if row.method != "calibrated":
        return QuantizedStore(checkpoint, Quantization(method=row.method, rules=rules), folder)
    wanted = Quantization(method="calibrated", calibration=row.options, rules=rules)
    windows = calibration_windows(tokenizer, window_len=256, tokens=row.options.tokens)
    kind: Callable[..., CalibratedStore] = CalibratedStore if row.corrected else Uncorrected
    return kind(checkpoint, wanted, folder, [window.tokens for window in windows])


def table(
    checkpoint: Checkpoint, outliers: Checkpoint | None, text: Path | None, rows: Sequence[Row]
) -> Iterator[str]:
    tokenizer = Tokenizer(checkpoint.tokenizer_files()[0])
    windows = evaluation_windows(tokenizer) if text is None else read_windows(text, tokenizer, window_len=256)
    languages = list(dict.fromkeys(window.language for window in windows))
    if len(languages) == 1:
        languages = []
    yield f"| method | {''.join(f'{language} | ' for language in languages)}all | PPL ratio |"
    yield f"|---|{'---:|' * (len(languages) + 2)}"
    original = TextModel(checkpoint.config, Original(checkpoint))
    references = [rows_of(original, window.tokens) for window in windows]
    for row in rows:
        source = outliers if row.outliers else checkpoint
        if source is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            store = store_of(row, source, tokenizer, Path(folder))
            figures = measure(TextModel(source.config, store), windows, references)
            yield f"| {' | '.join([row.title, *figures.line()])} |"
            if row.outliers:
                rules = dict.fromkeys(store.names[1:], PerToken())
                parts = EmulatedParts(store, Arithmetic("int8 per token", rules), Ledger())
                figures = measure(TextModel(source.config, store, parts), windows, references)
                yield f"| {' | '.join([f'{row.title}, int8 activations', *figures.line()])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="helium-tiny")
    parser.add_argument("--outliers", help="folder that make_outliers.py wrote")
    parser.add_argument("--text", type=Path, help="instead of the built-in text")
    parser.add_argument("--only", default="", help="rows whose title matches this regular expression")
    parser.add_argument("--write", action="store_true", help="put the table into docs/accuracy.md")
    arguments = parser.parse_args()
    outliers = None if arguments.outliers is None else open_checkpoint(arguments.outliers)
    lines = []
    with torch.inference_mode():
        rows = [row for row in ROWS if re.search(arguments.only, row.title)]
        for line in table(open_checkpoint(arguments.checkpoint), outliers, arguments.text, rows):
            print(line, flush=True)
            lines.append(line)
    if arguments.write:
        mark = MARK if arguments.text is None else MARK_OF_TEXT
        begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
        before, rest = DOCUMENT.read_text(encoding="utf-8").split(begin)
        after = rest.split(end)[1]
        DOCUMENT.write_text(f"{before}{begin}\n\n{chr(10).join(lines)}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
