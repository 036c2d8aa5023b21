from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helium_edge.errors import UsageError
from helium_edge.runtime.stop_strings import StopStrings

LETTERS = st.text("ab\n", max_size=6)


@given(st.lists(LETTERS, max_size=12), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string(pieces: list[str], strings: list[str]) -> None:
    stop = StopStrings(strings)
    shown, whole = "", ""
    for piece in pieces:
        if stop.found:
            break
        shown += stop.push(piece)
        whole += piece
        # What is shown is never taken back, and nothing is held that no stop string begins with.
        assert whole.startswith(shown)
    assert stop.found == any(string in whole for string in strings)
    starts = [whole.index(string) for string in strings if string in whole]
    assert shown + stop.finish() == whole[: min(starts, default=len(whole))]


def test_only_a_possible_beginning_is_held_back() -> None:
    stop = StopStrings(["</end>", "STOP"])
    assert [stop.push(text) for text in ("a <", "b S", "TO", "X")] == ["a ", "<b ", "", "STOX"]
    assert stop.push("!</en") == "!"
    assert stop.finish() == "</en"
    assert not stop.found
    assert stop.push("</end> more") == ""
    assert stop.found
    assert (stop.push("more"), stop.finish()) == ("", "")


def test_an_empty_string_is_refused() -> None:
    with pytest.raises(UsageError, match="a stop string is empty"):
        StopStrings(["", "x"])
