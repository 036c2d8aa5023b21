"""The counted table as a page: operators, what a token of Helium 2B comes to, and phones by the roofline."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arm64.fit import Table
from arm64.llama_steps import FILES, llama_steps
from helium_edge.bench.phones import CONTEXTS, PHONES, Step, predict
from helium_edge.config import ModelConfig
from helium_edge.presets import preset
from helium_edge.recipe import Recipe, load_recipe

PAGE = Path(__file__).resolve().parents[1] / "results" / "arm64.md"
MODEL = "helium-1-preview-2b"
PROCESSORS = ("cortex-a76", "i8mm")
PEER = "llama"
"""Its name in the table."""

VARIANTS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("`onnx-int4`", "onnx-int4", "int4-g32", {}),
    ("the same, head in blocks of 32", "onnx-int4", "int4-g32", {"int8_block_size": 32}),
    ("`onnx-int4-small`: groups of 128", "onnx-int4", "int4-g128", {}),
    ("groups of 64", "onnx-int4", "int4-g64", {}),
    ("groups of 32 with zero points", "onnx-int4", "int4-g32-asym", {}),
    ("groups of 64 with zero points", "onnx-int4", "int4-g64-asym", {}),
    ("groups of 128 with zero points", "onnx-int4", "int4-g128-asym", {}),
    ("`onnx-int4-kv8`: int8 cache", "onnx-int4-kv8", "int4-g32", {}),
    ("`onnx-int4-kv16`: float16 cache", "onnx-int4-kv16", "int4-g32", {}),
    ("`onnx-int4-small-kv16`", "onnx-int4-kv16", "int4-g128", {}),
    ("`xnnpack-int4`", "xnnpack-int4", "int4-g32", {}),
    ("`xnnpack-int4-kv16`", "xnnpack-int4-kv16", "int4-g32", {}),
    ("`xnnpack-int4-small`", "xnnpack-int4", "int4-g128", {}),
)
"""Title, recipe, body, and options of its target."""

CHARTED = (
    ("onnx-int4", "onnx-int4", "int4-g32"),
    ("onnx-int4-small", "onnx-int4", "int4-g128"),
    ("onnx-int4-kv16", "onnx-int4-kv16", "int4-g32"),
    ("onnx-int4-small-kv16", "onnx-int4-kv16", "int4-g128"),
    ("onnx-int4-kv8", "onnx-int4-kv8", "int4-g32"),
    ("xnnpack-int4", "xnnpack-int4", "int4-g32"),
)
"""Lines of the chart: name, recipe, body."""


def write_results(table: Table) -> list[Path]:
    """Write the page and, where matplotlib is installed, its chart; the table lies in the package already."""
    PAGE.write_text("\n".join(_page(table)) + "\n", encoding="utf-8")
    return [PAGE, *_chart(table, PAGE.with_suffix(".svg"))]


def _chart(table: Table, path: Path) -> list[Path]:
    """Predicted decode speed against context, a panel a phone."""
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed: no chart", file=sys.stderr)
        return []
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, len(PHONES))
    for axes, phone in zip(panels, PHONES.values(), strict=True):
        lines = {title: _steps(recipe, body, {}, phone.cpu) for title, recipe, body in CHARTED}
        if PEER in table.costs:
            lines["llama.cpp Q4_0"] = llama_steps(table.costs[PEER][phone.cpu], _config(), "Q4_0")
        for title, steps in lines.items():
            style = "--" if title.startswith("llama") else "-"
            speeds = [1 / step.seconds(phone) for step in steps[:-1]]
            axes.plot(CONTEXTS, speeds, style, marker="o", label=title)
        axes.set_title(phone.title, fontsize=9)
        axes.set_xlabel("tokens in the cache")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("tokens a second, predicted")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    metadata: dict[str, Any] = {"Date": None}
    canvas: Any = FigureCanvasSVG(figure)
    with matplotlib.rc_context({"svg.hashsalt": "arm64"}):
        canvas.print_svg(path, metadata=metadata)
    return [path]


def _page(table: Table) -> Iterator[str]:
    yield "# ARM64: counted instructions and bytes"
    yield ""
    yield "```sh"
    yield "python benchmarks/arm64_instructions.py --update"
    yield "```"
    yield ""
    versions = " and ".join(version for name, version in table.runtimes.items() if name != PEER)
    yield f"Counted on an emulated processor with the aarch64 wheels of {versions}, one thread; nothing here was"
    yield "measured on a phone. [docs/performance.md](../../docs/performance.md#on-phones) says what follows."
    yield ""
    yield "## Operators"
    yield ""
    yield "Of products, for a weight: instructions of a decode step, bytes from memory, instructions of a token of"
    yield "a prefill of 128; `a call`: instructions beside. Of attention, for a head: the same for a token of the"
    yield "cache, and thousands of instructions of a chunk of 128 tokens. Of the others: instructions of a token."
    yield ""
    yield "| runtime | processor | operator | decode | bytes | a call | prefill | chunk at 0 | chunk at 512 |"
    yield "|---|---|---|---:|---:|---:|---:|---:|---:|"
    for runtime, processors in table.costs.items():
        for cpu, costs in processors.items():
            for operator, figures in costs.items():
                cells = [
                    _number(figures.get("decode"), "norm" in operator or "activation" in operator),
                    _number(figures.get("bytes"), whole=False),
                    _number(figures.get("call"), whole=True),
                    _number(figures.get("prefill"), "norm" in operator or "activation" in operator),
                    *(_thousands(figures.get(f"chunk at {context}")) for context in (0, 512)),
                ]
                yield f"| {runtime} | {cpu} | {operator} | {' | '.join(cells)} |"
    yield ""
    yield "## A token of Helium 2B"
    yield ""
    yield "Instructions in millions and bytes in MB, of decode at each depth of the context, and of a token of a"
    yield "prefill of 128."
    for cpu in PROCESSORS:
        yield from _tokens(table, cpu)
    yield ""
    if PEER in table.costs:
        yield from _beside(table)
    yield "## Phones: predicted, not measured"
    yield ""
    yield "Tokens a second, by `max(instructions / rate, bytes / bandwidth)`; m: memory, i: instructions."
    yield f"Decode at {', '.join(f'{context:,}' for context in CONTEXTS)}, then prefill."
    yield ""
    if PAGE.with_suffix(".svg").is_file():
        yield f"![Predicted tokens a second by context]({PAGE.stem}.svg)"
        yield ""
    yield f"| | {' | '.join(phone.title for phone in PHONES.values())} |"
    yield f"|---|{'---|' * len(PHONES)}"
    columns = [dict(_rows(table, phone.cpu)) for phone in PHONES.values()]
    for title in columns[0]:
        found = []
        for phone, rows in zip(PHONES.values(), columns, strict=True):
            shown = [f"{1 / step.seconds(phone):.1f}{step.bound(phone)[0]}" for step in rows[title]]
            found.append(f"{' / '.join(shown[:-1])}; prefill {shown[-1]}")
        yield f"| {title} | {' | '.join(found)} |"


def _tokens(table: Table, cpu: str) -> Iterator[str]:
    yield ""
    heads = [f"at {context:,}" for context in CONTEXTS] + ["prefill"]
    columns = [f"{head}: instructions | bytes" for head in heads]
    yield f"| {cpu} | {' | '.join(columns)} |"
    yield f"|---|{'---:|' * (2 * len(heads))}"
    for title, steps in _rows(table, cpu):
        cells = [f"{step.instructions / 1e6:,.0f} | {step.bytes / 1e6:,.0f}" for step in steps]
        yield f"| {title} | {' | '.join(cells)} |"


def _rows(table: Table, cpu: str) -> Iterator[tuple[str, tuple[Step, ...]]]:
    """Every variant of ours, then llama.cpp's files where they were counted."""
    for title, recipe, body, options in VARIANTS:
        yield title, _steps(recipe, body, options, cpu)
    if PEER in table.costs:
        for file in FILES:
            yield f"llama.cpp {file}", llama_steps(table.costs[PEER][cpu], _config(), file)


def _beside(table: Table) -> Iterator[str]:
    """Shares of what llama.cpp's Q4_0 takes, with the goals."""
    yield "## Beside llama.cpp"
    yield ""
    yield "```sh"
    yield "python benchmarks/arm64_instructions.py --runtime llama --update"
    yield "```"
    yield ""
    yield f"The same operators of the ggml in {table.runtimes[PEER]}, compiled with its own defaults (weights in"
    yield "the layouts that it repacks them to, flash attention over a float16 cache). Shares of what its Q4_0,"
    yield "with a head in Q6_K, takes for the same token: below 1 is less than llama.cpp."
    for cpu in PROCESSORS:
        yield ""
        heads = [f"at {context:,}: instructions | bytes" for context in CONTEXTS]
        yield f"| {cpu} | {' | '.join(heads)} | prefill: instructions |"
        yield f"|---|{'---:|' * (2 * len(heads) + 1)}"
        peer = llama_steps(table.costs[PEER][cpu], _config(), "Q4_0")
        for title, steps in _rows(table, cpu):
            cells = [
                f"{ours.instructions / its.instructions:.2f}"
                + ("" if ours.context is None else f" | {ours.bytes / its.bytes:.2f}")
                for ours, its in zip(steps, peer, strict=True)
            ]
            yield f"| {title} | {' | '.join(cells)} |"
    yield ""


def _steps(name: str, body: str, options: dict[str, Any], cpu: str) -> tuple[Step, ...]:
    recipe = load_recipe(name)
    data = recipe.model_dump(mode="json")
    (target,) = recipe.targets.names()
    data["targets"][target] |= options
    data["quantization"]["rules"][-1] = {"match": r".*_proj\.weight", "scheme": body}
    config = _config()
    phone = next(phone for phone in PHONES.values() if phone.cpu == cpu)
    return predict(config, Recipe.model_validate_json(json.dumps(data)), target, phone).steps


def _config() -> ModelConfig:
    config = preset(MODEL)
    assert config is not None
    return config


def _number(value: float | None, whole: bool) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if whole or value >= 100 else f"{value:.4f}"


def _thousands(value: float | None) -> str:
    return "" if value is None else f"{value / 1e3:,.0f}"
