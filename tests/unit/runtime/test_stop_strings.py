from __future__ import annotations

import itertools
import random
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helium_edge.runtime.generate import GenerationStats
from helium_edge.runtime.sampling import SamplingOptions
from helium_edge.runtime.stop_strings import StopStrings
from helium_edge.runtime.text_generation import Generation
from helium_edge.runtime.tokenizer import Tokenizer
from tests.helpers.added_tokens import TINY

LETTERS = st.text("ab\n", max_size=6)


@given(
    st.lists(st.tuples(LETTERS, st.booleans()), max_size=12),
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    LETTERS,
)
def test_the_text_ends_before_the_first_stop_string(
    pieces: list[tuple[str, bool]], strings: list[str], before: str
) -> None:
    stop = StopStrings(strings, before)
    shown, whole = "", before
    told = [False] * len(before)

    def text(end: int) -> str:
        return "".join(itertools.compress(whole[:end], told))

    for piece, is_shown in pieces:
        if stop.found:
            break
        shown += stop.push(piece, shown=is_shown)
        whole += piece
        told += [is_shown] * len(piece)
        # What is shown is never taken back.
        assert text(len(whole)).startswith(shown)
    # It ends behind the prompt, wherever it begins.
    starts = [
        match.start()
        for string in strings
        for match in re.finditer(f"(?={re.escape(string)})", whole)
        if match.start() + len(string) > len(before)
    ]
    assert stop.found == bool(starts)
    assert shown + stop.finish() == text(min(starts, default=len(whole)))


@pytest.mark.parametrize("seed", range(4))
def test_it_ends_at_the_token_at_which_transformers_ends(tmp_path: Path, seed: int) -> None:
    import torch
    from transformers import AutoTokenizer, StopStringCriteria

    rng = random.Random(seed)
    shutil.copy(TINY / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer(tmp_path / "tokenizer.json")
    # Special tokens among them, and no bytes: a run of these is text to us when it ends.
    usual = [index for index in range(ours.vocab_size) if not ours.is_byte(index)]
    ids = [rng.choice((1, 2, *rng.choices(usual, k=8))) for _ in range(40)]
    whole = ours.spell(ids)
    for case in range(8):
        prompt = rng.randint(1, 30)
        edge = len(ours.spell(ids[:prompt]))
        # Half of them around the end of the prompt, where most can go wrong.
        start = rng.randint(max(0, edge - 9), edge) if case % 2 else rng.randrange(len(whole) - 9)
        string = whole[start : start + rng.randint(1, 12)]
        criteria = StopStringCriteria(theirs, [string])
        ends = range(prompt + 1, len(ids))
        expected = next((end for end in ends if criteria(torch.tensor([ids[:end]]), None).item()), len(ids))
        stop = StopStrings([string], ours.spell(ids[:prompt]))
        new, decoder = iter(ids[prompt:]), ours.stream(continuing=True)
        found = Generation(ids[:prompt], SamplingOptions(), GenerationStats(), new, decoder, stop)
        list(found)
        assert prompt + len(found.ids) == expected, (string, prompt, whole)
