"""The ratios as a picture: a row a peer and measure, a point and its quartiles, 1 where both are equally fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peer.results import Results
from peer.table import GOAL_PEER, GOALS, in_words, measures_of, speedups

INK, MUTED, OURS, THEIRS = "#1f2328", "#6e7781", "#0a6c74", "#b3541e"
ROW, HEAD = 0.24, 0.42
"""Inches."""


def draw(results: Results, path: Path) -> None:
    """Write an SVG; the same results give the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = [
        (f"{bundle} ({name.split(':')[0].split(',')[0]})", peers)
        for name, model in results["models"].items()
        for bundle, peers in model.get("pairs", {}).items()
    ]
    if not panels:
        return
    heights = [HEAD + ROW * sum(len(pairs) + 1 for pairs in peers.values()) for _, peers in panels]
    style = {"svg.hashsalt": "peers", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    with mpl.rc_context(style):
        figure = Figure(figsize=(7.5, sum(heights) + 0.6), facecolor="white", layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)
        for (title, peers), axes in zip(panels, grid[:, 0], strict=True):
            _panel(axes, title, peers)
        _scale(grid[-1, 0])
        figure.savefig(path, format="svg", metadata={"Date": None})


def draw_losses(points: list[dict[str, Any]], path: Path) -> None:
    """Write an SVG of loss against bits a weight: a line a series; the same points give the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    marks = {"recipes": "o", "recipes fit": "s", "llama.cpp, imatrix": "^", "llama.cpp": "v"}
    style = {"svg.hashsalt": "peers", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    with mpl.rc_context(style):
        figure = Figure(figsize=(7.5, 4.5), facecolor="white", layout="constrained")
        axes = figure.subplots()
        for series in dict.fromkeys(point["series"] for point in points):
            found = sorted(
                (point for point in points if point["series"] == series), key=lambda point: point["bits"]
            )
            color, line = THEIRS if "llama" in series else OURS, "--" if series == "llama.cpp" else "-"
            bits, losses = [point["bits"] for point in found], [point["kld"] for point in found]
            line = line if series != "recipes" else "None"
            axes.plot(
                bits, losses, line, marker=marks[series], color=color, linewidth=1.2, markersize=5, label=series
            )
            if series in ("recipes fit", "llama.cpp"):
                continue
            for point in found:
                at = {"xytext": (5, 4), "textcoords": "offset points"}
                axes.annotate(point["label"], (point["bits"], point["kld"]), color=color, fontsize=8, **at)
        axes.set_yscale("log")
        axes.set_xlabel("bits a weight, scales included, over all matrices")
        axes.set_ylabel("mean KLD, nats a token")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(axes: Any, title: str, peers: dict[str, dict[str, Any]]) -> None:
    labels: list[tuple[str, bool]] = []
    for peer, pairs in peers.items():
        labels.append((peer, True))
        for measure in measures_of({peer: pairs}):
            row = len(labels)
            labels.append((in_words(measure), False))
            found = speedups(pairs[measure])
            low, high = found.quartiles
            color = OURS if found.median >= 1 else THEIRS
            axes.plot([low, high], [row, row], color=color, linewidth=2, solid_capstyle="round")
            axes.plot([found.median], [row], "o", color=color, markersize=5)
            beside = {"xycoords": ("axes fraction", "data"), "xytext": (6, 0), "textcoords": "offset points"}
            axes.annotate(f"{found.median:.2f}", (1, row), va="center", color=INK, **beside)
            if peer == GOAL_PEER and "ONNX" in title and measure in GOALS:
                axes.plot([GOALS[measure]], [row], "|", color=MUTED, markersize=10, markeredgewidth=1.5)
    axes.axvline(1, color=MUTED, linewidth=0.8, zorder=0)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), [label for label, _ in labels])
    for text, (_, head) in zip(axes.get_yticklabels(), labels, strict=True):
        text.set_color(INK if head else MUTED)
        text.set_fontweight("bold" if head else "normal")
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_title(f"{title}: times as fast as ...", loc="left", fontsize=9, color=INK)


def _scale(axes: Any) -> None:
    """One logarithmic scale for all panels."""
    axes.set_xscale("log", base=2)
    low, high = axes.get_xlim()
    low, high = min(low, 0.7), max(high, 1.8)
    axes.set_xlim(low, high)
    marks = [mark for mark in (0.25, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32, 64) if low <= mark <= high]
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
    axes.minorticks_off()
    axes.set_xlabel(
        "median and quartiles of neighbouring samples\nright of 1: helium-edge is faster; grey: the goal"
    )
