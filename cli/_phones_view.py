"""How predictions for phones are shown: always called what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import _console
from ._format import size

if TYPE_CHECKING:
    from helium_edge.bench.phones import Prediction


def show_predictions(found: Sequence[Prediction]) -> None:
    """Show tokens a second on phones, a line each; nothing where nothing is predicted."""
    if not found:
        return
    depths = [f"at {step.context:,}" for step in found[0].steps if step.context is not None]
    columns = ["phone", *depths, "prefill", "memory"]
    rows = []
    for each in found:
        speeds = [f"{1 / step.seconds(each.phone):.1f}" for step in each.steps]
        rows.append((each.phone.title, *speeds, size(each.memory)))
    _console.heading("Predicted, not measured: tokens a second on phones")
    _console.table(columns, rows, right=columns[1:])
    _console.line(f"from counts of {found[0].runtime}; docs/bench.md has the formula")


def show_prediction(found: Prediction) -> None:
    """Show what each step of one prediction is made of."""
    phone = found.phone
    _console.title(f"Predicted, not measured: {phone.title}")
    columns = ["step", "instructions", "memory read", "tok/s", "waits for"]
    rows = []
    for step in found.steps:
        what = "prefill of 128, a token" if step.context is None else f"decode at {step.context:,}"
        speed = f"{1 / step.seconds(phone):.1f}"
        rows.append((what, f"{step.instructions / 1e6:,.0f} M", size(step.bytes), speed, step.bound(phone)))
    _console.table(columns, rows, right=columns[1:4])
    _console.line("")
    _console.fields(
        [
            ("memory", f"{size(found.memory)} with a full cache"),
            ("instructions", f"{phone.instructions / 1e9:g} G a second; counts of {phone.cpu}"),
            ("bandwidth", f"{phone.bandwidth / 1e9:g} GB a second"),
            ("counted", f"operators of {found.runtime} on an emulated processor; docs/bench.md has the formula"),
        ]
    )
