"""Numbers and names as people read them. Pure functions, no output."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable

_LAYER = re.compile(r"^([^*]*?\.)(\d+)(\..*)$")


def size(nbytes: float) -> str:
    """Bytes in decimal units, as disks and phones are sold: 1,234,567 is `1.23 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < 999.5:
            return f"{nbytes:.0f} B" if unit == "B" else f"{_three(nbytes)} {unit}"
        nbytes /= 1000
    return f"{_three(nbytes)} TB"


def count(number: int) -> str:
    """A count with its scale: 2,172,643,840 is `2.17 billion`."""
    for limit, scale in ((10**9, "billion"), (10**6, "million")):
        if number >= limit:
            return f"{_three(number / limit)} {scale}"
    return f"{number:,}"


def duration(seconds: float) -> str:
    """A time with the unit that fits: `850 ms`, `3.2 s`, `2 min 5 s`, `1 h 2 min`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def figure(value: float | None, digits: int = 3) -> str:
    """A measured figure in significant digits; `-` where there is none."""
    return "-" if value is None else f"{value:.{digits}g}"


def shape(dims: Iterable[int | str]) -> str:
    """A shape: `1x128x4096`."""
    return "x".join(map(str, dims))


def plain(text: str) -> str:
    """One harmless line: names of files and tensors may hold line breaks and terminal escapes."""
    return "".join(" " if char in "\n\r\t" else "\ufffd" if _is_unsafe(char) else char for char in text)


def printable(text: str) -> str:
    """Text for a terminal: line breaks and tabs stay, other control characters are shown as U+FFFD."""
    return "".join("\ufffd" if _is_unsafe(char) and char not in "\n\t" else char for char in text)


def command_line(*words: object) -> str:
    """A command that can be pasted into a shell."""
    return shlex.join(["helium-edge", *map(str, words)])


def layer_pattern(name: str) -> tuple[str, int | None]:
    """Split a weight name into its form, the layer's number left open, and that number."""
    match = _LAYER.match(name)
    return (name, None) if match is None else (f"{match[1]}*{match[3]}", int(match[2]))


def with_layers(pattern: str, layers: Iterable[int | None]) -> str:
    """Put layer numbers back into a pattern, as ranges: `model.layers.0-5,8.mlp.up_proj.weight`."""
    numbers = sorted(number for number in layers if number is not None)
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    spelled = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    return pattern.replace("*", spelled, 1)


def _three(value: float) -> str:
    """Three significant digits, never an exponent."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _is_unsafe(char: str) -> bool:
    """Control characters, and the marks that reorder the text around them."""
    return unicodedata.category(char) == "Cc" or "\u202a" <= char <= "\u202e" or "\u2066" <= char <= "\u2069"
