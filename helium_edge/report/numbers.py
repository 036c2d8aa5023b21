"""Figures as people read them: with their error, in as many digits as the error allows."""

from __future__ import annotations

import math

NONE = "\u2013"
_SUPERSCRIPT = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


def figure(value: float | None, digits: int = 3) -> str:
    """A figure in significant digits: `0.0364`, `42.6`, tiny ones with a power of ten; a dash for none."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}\u00d710{str(int(power)).translate(_SUPERSCRIPT)}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def power_of_ten(value: float) -> str:
    """A power of ten, as an axis shows it; empty for other values."""
    exponent = round(math.log10(value)) if value > 0 else 0
    if value <= 0 or abs(value / 10.0**exponent - 1) > 1e-6:
        return ""
    return {0: "1", 1: "10"}.get(exponent, f"10{str(exponent).translate(_SUPERSCRIPT)}")


def error(value: float | None, standard_error: float | None) -> tuple[str, str]:
    """A figure and its standard error, to the same place; the error is empty where there is none."""
    if value is None or not standard_error or not math.isfinite(standard_error):
        return figure(value), ""
    if 0 < abs(value) < 1e-4:
        return figure(value, 2), figure(standard_error, 1)
    exponent = math.floor(math.log10(standard_error))
    # Two digits of an error that begins with 1 or 2, one of others: more would be noise of the error itself.
    places = min(max(0, -exponent + (standard_error < 3 * 10.0**exponent)), 8)
    shown = f"{standard_error:.{places}f}"
    # An error that rounds to nothing is below what the figure shows.
    return f"{value:,.{places}f}", shown if float(shown) else figure(standard_error, 1)


def percent(value: float | None, standard_error: float | None = None) -> tuple[str, str]:
    """A share in percent, with its error."""
    if value is None:
        return NONE, ""
    if 0 < value < 5e-5:
        return "< 0.01 %", ""
    if not standard_error:
        return f"{100 * value:.1f} %", ""
    places = min(max(1, -math.floor(math.log10(100 * standard_error))), 4)
    return f"{100 * value:.{places}f} %", f"{100 * standard_error:.{places}f}"


def size(nbytes: float) -> str:
    """Bytes in decimal units: `5.48 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def seconds(value: float | None) -> str:
    """A time: `850 ms`, `3.2 s`, `2 min 5 s`."""
    if value is None:
        return NONE
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"
