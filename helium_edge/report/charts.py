"""The charts of the page, as SVG that stands inside HTML.

Drawn by matplotlib, without its state: the same document gives the same bytes. Colours are placeholders that
become CSS variables, so that one picture serves light and dark; text stays text, in the font of the page.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from helium_edge.errors import MissingDependencyError
from helium_edge.report.numbers import power_of_ten
from helium_edge.user_cache import cache_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholder and variable: colours that matplotlib writes as they are and that nothing else uses.
_INK, _MUTED, _LINE, _BAD = "#010101", "#020202", "#030303", "#040404"
_LEVELS = {"L1": "#050505", "L2": "#060606", "L3": "#070707"}
_PAPER = "#080808"
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _LINE: "--line",
    _BAD: "--bad",
    _LEVELS["L1"]: "--l1",
    _LEVELS["L2"]: "--l2",
    _LEVELS["L3"]: "--l3",
    _PAPER: "--card",
}
_NAMES = {"L1": "L1 graph", "L2": "L2 weights", "L3": "L3 end to end"}

WIDTH, HEIGHT = 400, 250
TEXT = 11.5
"""Points, which the page scales: a third more on a wide screen, a sixth less on a phone."""


def require_matplotlib() -> None:
    """Check that charts can be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    if "matplotlib" not in sys.modules:
        # Its cache of fonts goes where ours is, not into the home folder.
        os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    try:
        import matplotlib.backends.backend_svg  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("matplotlib", extra="report", purpose="the HTML report") from error


def kld_histogram(levels: Any) -> str:
    """KLD of all positions of each level, on one logarithmic axis; empty where no level has a histogram."""
    shown = {name: found["histogram"] for name, found in levels.items() if name != "L0" and found["histogram"]}
    shown = {name: found for name, found in shown.items() if sum(found["counts"])}
    if not shown:
        return ""
    figure, axes = _new()
    for name, found in shown.items():
        edges, counts = _trim(found["edges"], found["counts"])
        share = [100 * count / sum(counts) for count in counts]
        axes.stairs(share, edges, fill=True, color=_LEVELS[name], alpha=0.22)
        # L2 and L3 mostly lie on each other: both stay visible.
        axes.stairs(
            share, edges, color=_LEVELS[name], linewidth=1.6, linestyle=(0, (3, 2)) if name == "L3" else "-"
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: power_of_ten(value))
    axes.xaxis.minorticks_off()
    axes.set_xlabel("KLD, nats")
    axes.set_ylabel("positions, %")
    axes.set_ylim(bottom=0)
    _legend(axes, list(shown))
    return _svg(figure, "histogram", "Share of positions by their KLD, level by level")


def kld_by_position(levels: Any) -> str:
    """Mean KLD along the conversation with standard errors; L1 only where it fails: its shape is a symptom."""
    shown = {
        name: found["by_position"]
        for name, found in levels.items()
        if name != "L0" and found["by_position"] and (name != "L1" or not found["passed"])
    }
    shown = {name: found for name, found in shown.items() if any(bucket["kld_mean"] for bucket in found)}
    if not shown:
        return ""
    figure, axes = _new()
    for shift, (name, buckets) in enumerate(shown.items()):
        points = [bucket for bucket in buckets if bucket["kld_mean"] is not None]
        middles = [(bucket["start"] + bucket["end"] - 1) / 2 for bucket in points]
        means = [bucket["kld_mean"] for bucket in points]
        errors = [bucket["kld_mean_se"] or 0.0 for bucket in points]
        width = max(bucket["end"] for bucket in points)
        places = [middle + 0.008 * width * (shift - (len(shown) - 1) / 2) for middle in middles]
        _points(axes, places, means, errors, _LEVELS[name], line="-")
    axes.set_xlabel("position in the conversation, tokens")
    axes.set_ylabel("mean KLD, nats")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    _legend(axes, list(shown))
    return _svg(figure, "position", "Mean KLD along the conversation, with standard errors")


def kld_by_language(levels: Any, limit: float | None) -> str:
    """Mean KLD per language with standard errors, and the limit."""
    shown = {name: levels[name]["languages"] for name in ("L2", "L3") if name in levels}
    shown = {name: found for name, found in shown.items() if found}
    if not shown and "L1" in levels and levels["L1"]["languages"]:
        shown = {"L1": levels["L1"]["languages"]}
    if not shown:
        return ""
    languages = list(next(iter(shown.values())))
    figure, axes = _new()
    for shift, (name, found) in enumerate(shown.items()):
        rows = [(at, found[language]) for at, language in enumerate(languages) if language in found]
        rows = [(at, figures) for at, figures in rows if figures["kld_mean"] is not None]
        offset = 0.16 * (shift - (len(shown) - 1) / 2)
        places = [at + offset for at, _ in rows]
        errors = [figures["kld_mean_se"] or 0.0 for _, figures in rows]
        _points(axes, places, [figures["kld_mean"] for _, figures in rows], errors, _LEVELS[name])
    if limit is not None:
        axes.axhline(limit, color=_BAD, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate("limit", (1, limit), xycoords=("axes fraction", "data"), xytext=(0, 3),
                      textcoords="offset points", ha="right", color=_BAD, fontsize=TEXT)  # fmt: skip
    axes.set_xticks(range(len(languages)), [_text(language) for language in languages])
    axes.set_xlim(-0.5, len(languages) - 0.5)
    axes.set_ylabel("mean KLD, nats")
    axes.set_ylim(bottom=0)
    _legend(axes, list(shown))
    return _svg(figure, "language", "Mean KLD per language, with standard errors")


def snr_by_layer(layers: Any) -> str:
    """SNR op by op through the network: what arrives, and what each op adds by itself; the guilty op is marked."""
    rows = (layers or {}).get("rows", [])
    graph = shown_graph(layers)
    rows = [row for row in rows if row.get("graph") == graph and row.get("accumulated_snr_db") is not None]
    if not rows:
        return ""
    figure, axes = _new(width=2.05 * WIDTH)
    places = range(len(rows))
    axes.plot(places, [row["accumulated_snr_db"] for row in rows], color=_LEVELS["L3"], linewidth=1.8)
    own = [(at, row["own_snr_db"]) for at, row in enumerate(rows) if row.get("own_snr_db") is not None]
    if own:
        axes.plot(*zip(*own, strict=True), color=_LEVELS["L2"], linestyle="none", marker="o", markersize=3.2)
    guilty = [(at, row) for at, row in enumerate(rows) if row.get("guilty")]
    if guilty:
        at, row = guilty[0]
        where = row["op"] if row["layer"] is None else f"layer {row['layer']}, {row['op']}"
        height = row["own_snr_db"] if row.get("own_snr_db") is not None else row["accumulated_snr_db"]
        left = at > len(rows) / 2
        axes.plot([at], [height], color=_BAD, marker="o", markersize=8, markerfacecolor="none", markeredgewidth=2)
        axes.annotate(_text(where), (at, height), xytext=(-10 if left else 10, -4), textcoords="offset points",
                      ha="right" if left else "left", color=_BAD, fontsize=TEXT, fontweight="bold")  # fmt: skip
    starts = [at for at, row in enumerate(rows) if at == 0 or row["layer"] != rows[at - 1]["layer"]]
    step = math.ceil(len(starts) / 24)
    axes.set_xticks(
        starts[::step], ["" if rows[at]["layer"] is None else str(rows[at]["layer"]) for at in starts[::step]]
    )
    axes.set_xlabel("layer")
    axes.set_ylabel("SNR, dB")
    axes.set_xlim(-0.5, len(rows) - 0.5)
    _key(
        axes,
        [("what arrives", _LEVELS["L3"]), ("the op alone, fed by the reference", _LEVELS["L2"])][: 1 + bool(own)],
    )
    return _svg(figure, "layers", "Signal to noise ratio op by op")


def differences(rows: Sequence[tuple[str, float, float, float]], gate: float | None) -> str:
    """Differences with their intervals, one below the other, and the gate; empty without any.

    Args:
        rows: Name, value, lower and upper end of each.
        gate: The largest drop that is allowed; None where nothing is judged.
    """
    if not rows:
        return ""
    figure, axes = _new(width=2.05 * WIDTH, height=46 + 26 * len(rows))
    places = list(range(len(rows), 0, -1))
    for place, (_, value, low, high) in zip(places, rows, strict=True):
        axes.plot([low, high], [place, place], color=_LEVELS["L3"], linewidth=1.8)
        axes.plot([value], [place], color=_LEVELS["L3"], marker="o", markersize=6)
    axes.axvline(0, color=_MUTED, linewidth=1)
    if gate is not None:
        axes.axvline(-gate, color=_BAD, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_yticks(places, [_text(name) for name, *_ in rows])
    axes.set_ylim(0.4, len(rows) + 0.6)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=_LINE, linewidth=0.8)
    axes.set_xlabel("points, artifact less original, 95 %")
    return _svg(figure, "differences", "Difference of each task with its interval")


def trade_off(points: Sequence[tuple[str, float, float, float, bool]], axis: str, label: str) -> str:
    """Quality against size, and which of them no other one beats at both; empty without any.

    Args:
        points: Name, megabytes, value, its error, and whether no other is smaller and better.
        axis: What the value is.
        label: For readers without the picture.
    """
    if not points:
        return ""
    figure, axes = _new(width=2.05 * WIDTH, height=1.2 * HEIGHT)
    for name, size, value, spread, best in points:
        color = _LEVELS["L2"] if best else _MUTED
        axes.errorbar([size], [value], [spread], color=color, marker="o", markersize=6, elinewidth=1.6, capsize=0)
        axes.annotate(
            _text(name), (size, value), xytext=(7, 5), textcoords="offset points", color=_INK, fontsize=TEXT
        )
    front = sorted((size, value) for _, size, value, _, best in points if best)
    axes.plot(*zip(*front, strict=True), color=_LEVELS["L2"], linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_xlabel("MB on disk")
    axes.set_ylabel(axis)
    axes.margins(x=0.18, y=0.18)
    return _svg(figure, "tradeoff", label)


def shown_graph(layers: Any) -> str | None:
    """The graph whose layers are drawn: the one with the guilty op, else the first; None where none is named."""
    rows = (layers or {}).get("rows", [])
    found = next((row for row in rows if row.get("guilty")), rows[0] if rows else {})
    graph: str | None = found.get("graph")
    return graph


def _new(*, width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    require_matplotlib()
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(which="both", colors=_MUTED, length=0, labelsize=TEXT, pad=5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(_MUTED)
        axis.label.set_fontsize(TEXT)
    return figure, axes


def _points(
    axes: Axes,
    places: Sequence[float],
    means: Sequence[float],
    errors: Sequence[float],
    color: str,
    line: str = "none",
) -> None:
    axes.errorbar(places, means, errors, color=color, linestyle=line, linewidth=1.4, marker="o", markersize=5,
                  elinewidth=1.6, capsize=0)  # fmt: skip


def _legend(axes: Axes, names: Sequence[str]) -> None:
    _key(axes, [(_NAMES[name], _LEVELS[name]) for name in names])


def _key(axes: Axes, entries: Sequence[tuple[str, str]]) -> None:
    """Names in their colours above the plot."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker="s", linestyle="none", markersize=7, label=label)
        for label, color in entries
    ]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=len(entries),
                frameon=False, labelcolor=_INK, fontsize=TEXT, handletextpad=0.2, columnspacing=1.2,
                borderaxespad=0.2)  # fmt: skip


def _text(text: str) -> str:
    """Foreign text without what matplotlib takes for mathematics."""
    return text.replace("$", r"\$")


def _trim(edges: Sequence[float], counts: Sequence[int]) -> tuple[list[float], list[int]]:
    """A histogram without its empty ends."""
    filled = [at for at, count in enumerate(counts) if count]
    first, last = filled[0], filled[-1] + 1
    return list(edges[first : last + 1]), list(counts[first:last])


def _svg(figure: Figure, name: str, label: str) -> str:
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "axes.unicode_minus": False}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(
        r"<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL
    )  # rules for the whole page, repeated text
    # Names are unique in a picture only; a page holds several.
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    text = re.sub(r"#0[1-8]0[1-8]0[1-8]\b", lambda found: f"var({_VARIABLES[found[0]]})", text)
    text = re.sub(r"font: ((?:\w+ )*?[\d.]+px) [^;\"]+", r"font: \1 var(--font)", text)
    head, _, body = text.partition(">")
    box = re.search(r'viewBox="[^"]+"', head)
    assert box is not None
    return f'<svg class="chart" role="img" aria-label="{escape(label)}" {box[0]}>{body.strip()}'
