from __future__ import annotations

from helium_edge.parity.verdict import in_one_line


def test_many_failures_are_still_one_readable_line() -> None:
    assert in_one_line(["a", "b"]) == "a; b"
    many = in_one_line([f"gate {number}" for number in range(20)])
    assert many.endswith("gate 7; and 12 more")
