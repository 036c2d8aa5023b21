"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from helium_edge.bench.stats import Summary, ratio
from peer.results import Results

GOALS = {"decode@0": 1.0, "decode@512": 1.2, "decode@2048": 1.6, "prefill 128": 1.5}
"""Times as fast as llama.cpp Q4_0 that an ONNX int4 bundle is meant to be."""

GOAL_PEER = "llama.cpp Q4_0"
NOTHING = ""

INTRODUCTION = """# helium-edge and what users would pick instead

Written by `benchmarks/peers.py`; [README.md](README.md) tells how to run it again. Weights are random, so that
these figures tell speed, memory and the cost of exporting, and nothing about quality, which is in the part on loss
by size.

Every ratio comes from one run in which both engines, and sometimes others, were loaded and took turns, sample by
sample, with the same number of threads and from the same depth of context. It is the median of the ratios of
neighbouring samples, above 1 where helium-edge is faster, with the quartiles of these ratios in brackets. Rates of
different rows come from different runs: compare the ratios. "Loads" says how many times all engines of a run were
ended and loaded anew, in the other order: one load of an engine is up to a tenth faster or slower than the next,
for as long as it lives, which samples of one load do not even out. "Others" is the largest share of the
processors that other programs took while a row was measured; it slows both sides."""

SAME_MODEL = """All are given the same model: logits of helium-tiny, unquantized, after a prompt and after six
steps from it, against the float32 decoder of helium-edge, as the largest difference by the rms of all logits.
llama.cpp keeps keys and values in float16, its default; transformers computes in bfloat16."""

NOT_TIMED = """Speed has not been measured on this model yet: `peers.py run` does it, on a machine that is idle."""

LOSSES = """Written by `accuracy_peers.py`: trained weights, quantized by both and dequantized, in one decoder in
float32, on text that nothing was calibrated on. llama.cpp's importance matrix is of the text that ours calibrate
on. Bits are those of all matrices, ours with scales as a `.pte` keeps them; `recipes fit` is asked for shares of
the bytes of `xnnpack-int4`. Rows of 640 are no multiple of 256: llama.cpp falls back to wider kinds for `ffn_down`
in its K and IQ4_XS files. Below 5.6 bits ours lose less at the same size; above, llama.cpp has kinds of five and
six bits where our kernels know four and eight."""

COSTS = """A process each; processor seconds are user and system time, which other programs lengthen least."""


def render(results: Results, chart: str) -> str:
    """The whole file; `chart` is the name of the picture beside it."""
    lines = [INTRODUCTION, "", f"Machine: {results['machine']}, {results['threads']} threads."]
    if results["agreement"]:
        lines += ["", *_agreement(results["agreement"])]
    if "accuracy" in results:
        lines += ["", *_losses(results["accuracy"], chart)]
    for name, model in results["models"].items():
        lines += ["", f"## {name}"]
        if model.get("pairs"):
            for bundle, peers in model["pairs"].items():
                lines += ["", f"### {bundle} against each", "", *_ratios(peers), "", *_rates(peers)]
                lines += _goals(bundle, peers)
        else:
            lines += ["", NOT_TIMED]
        if model.get("engines"):
            lines += ["", "### Engines", "", *_engines(model["engines"])]
        if model.get("exports"):
            lines += ["", "### Cost of exporting", "", COSTS, "", *_exports(model["exports"])]
        if model.get("not_run"):
            lines += ["", "### Not run", "", *(f"- {peer}: {why}" for peer, why in model["not_run"].items())]
    if any(model.get("pairs") for model in results["models"].values()):
        lines[2:2] = [f"![Ratios of speed, helium-edge to each peer]({chart})", ""]
    return "\n".join(lines) + "\n"


def losses_chart(chart: str) -> str:
    """Name of the picture of losses, beside the one of ratios."""
    return chart.replace(".svg", "-accuracy.svg")


def _losses(found: Mapping[str, Any], chart: str) -> list[str]:
    heads = ["weights", "kind", "bits a weight", "mean KLD"]
    rows = [
        [each["series"], each["label"], f"{each['bits']:.2f}", f"{each['kld']:.4f} ± {each['error']:.4f}"]
        for each in sorted(found["points"], key=lambda point: (point["series"], point["bits"]))
    ]
    picture = f"![Loss against bits a weight]({losses_chart(chart)})"
    return [f"## Loss by size, {found['checkpoint']}", "", LOSSES, "", picture, "", *_table(heads, rows)]


def measures_of(peers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """All measures of some pairs: decode by depth, then prefill."""
    found = {measure for pairs in peers.values() for measure in pairs}
    return sorted(found, key=lambda measure: (measure.startswith("prefill"), _number(measure)))


def in_words(measure: str) -> str:
    """A measure as a column's head."""
    number = _number(measure)
    return f"prefill of {number}" if measure.startswith("prefill") else f"decode at {number}"


def speedups(pair: Mapping[str, Any]) -> Summary:
    """Times as fast as the peer, by neighbouring samples."""
    return ratio(pair["ours"], pair["theirs"]).pairs


def _number(measure: str) -> int:
    return int(measure.replace("@", " ").split()[-1])


def _agreement(found: Mapping[str, Any]) -> list[str]:
    rows = [[name, _difference(value)] for name, value in found.items()]
    return [SAME_MODEL, "", *_table(["peer", "largest difference"], rows)]


def _difference(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.1e}"


def _ratios(peers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    measures = measures_of(peers)
    rows = []
    for peer, pairs in peers.items():
        cells = (_ratio_cell(pairs[measure]) if measure in pairs else NOTHING for measure in measures)
        rows.append([peer, *cells])
    return _table(["times as fast as", *map(in_words, measures)], rows)


def _ratio_cell(pair: Mapping[str, Any]) -> str:
    found = speedups(pair)
    low, high = found.quartiles
    return f"**{found.median:.2f}** ({low:.2f}-{high:.2f})"


def _rates(peers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    measures = measures_of(peers)
    rows = []
    for peer, pairs in peers.items():
        cells = (_rate_cell(pairs[measure]) if measure in pairs else NOTHING for measure in measures)
        samples = {len(found["ours"]) for found in pairs.values()}
        loads = {found.get("loads", 1) for found in pairs.values()}
        newest = max(found["date"] for found in pairs.values())
        busy = [found["others"] for found in pairs.values() if found["others"] is not None]
        others = f"{max(busy):.0%}" if busy else NOTHING
        rows.append([peer, *cells, _span(samples), _span(loads), others, newest])
    return _table(
        ["tokens per second, ours : theirs", *map(in_words, measures), "samples", "loads", "others", "date"], rows
    )


def _span(counts: Iterable[int]) -> str:
    return "-".join(str(count) for count in sorted(set(counts)))


def _rate_cell(pair: Mapping[str, Any]) -> str:
    ours, theirs = (pair["tokens"] / Summary(tuple(pair[side])).median for side in ("ours", "theirs"))
    return f"{ours:.1f} : {theirs:.1f}"


def _goals(bundle: str, peers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if GOAL_PEER not in peers or "ONNX" not in bundle:
        return []
    rows = []
    for measure, goal in GOALS.items():
        if measure in peers[GOAL_PEER]:
            found = speedups(peers[GOAL_PEER][measure]).median
            rows.append([in_words(measure), f"{goal:.1f}", f"{found:.2f}", "yes" if found >= goal else "no"])
    return ["", f"Goals against {GOAL_PEER}:", "", *_table(["", "goal", "measured", "reached"], rows)]


def _engines(engines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = []
    for name, facts in engines.items():
        memory = facts.get("memory", {})
        anonymous, mapped = memory.get("anonymous_bytes"), memory.get("mapped_bytes")
        row = [name, facts["version"], _gigabytes(facts["bytes"]), f"{facts['load_seconds']:.1f}"]
        rows.append([*row, _gigabytes(anonymous), _gigabytes(mapped)])
    return _table(["engine", "versions", "GB on disk", "load, s", "anonymous GB", "mapped GB"], rows)


def _exports(exports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            name,
            f"{cost['wall_seconds']:.0f}",
            f"{cost['cpu_seconds']:.0f}",
            _gigabytes(cost["anonymous_bytes"]),
            _gigabytes(cost["resident_bytes"]),
            _gigabytes(cost["written_bytes"]),
            cost["date"],
        ]
        for name, cost in exports.items()
    ]
    heads = ["exporter", "s", "processor s", "peak anonymous GB", "peak resident GB", "written GB", "date"]
    return _table(heads, rows)


def _gigabytes(size: int | None) -> str:
    return NOTHING if size is None else f"{size / 1e9:.2f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in heads[1:])]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (heads, rule, *rows)]
