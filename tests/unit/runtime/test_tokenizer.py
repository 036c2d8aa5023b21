from __future__ import annotations

import importlib.resources
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_edge.errors import InputError, UsageError
from helium_edge.runtime.tokenizer import Tokenizer

TINY = Path(str(importlib.resources.files("helium_edge.data"))) / "helium-tiny" / "tokenizer.json"
TOKENIZER = Tokenizer(TINY)
VOCAB = json.loads(TINY.read_text(encoding="utf-8"))["model"]["vocab"]
IDS = {token: index for index, (token, _) in enumerate(VOCAB)}
BOS, EOS, PAD, NEWLINE, BLANK = 1, 2, 3, 14, IDS["▁"]


def byte(value: int) -> int:
    return IDS[f"<0x{value:02X}>"]


BYTES = [byte(value) for value in range(256) if value != 0x0A]  # the file spells 0x0A as a literal newline
SAMPLES = [
    "Edge AI runs on the device.",
    "Les modèles 🙂🙃 d'IA",
    "a\nb\n\n c",
    "größer, più, ação, señal",
    "日本語 and ₿",
    "  two blanks ",
    "",
]


def streamed(ids: list[int], **options: bool) -> list[str]:
    stream = TOKENIZER.stream(**options)
    return [*map(stream.push, ids), stream.finish()]


@pytest.mark.parametrize("text", SAMPLES)
def test_the_files_own_template_puts_bos_in_front_and_nothing_behind(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert ids[0] == BOS
    assert not {BOS, EOS, PAD} & set(ids[1:])


def test_padding_of_the_file_is_switched_off() -> None:
    assert json.loads(TINY.read_text(encoding="utf-8"))["padding"] is not None
    assert TOKENIZER._inner.padding is None
    assert TOKENIZER._inner.truncation is None


def test_truncation_of_a_file_is_switched_off(tmp_path: Path) -> None:
    tokenizer = Tokenizer(
        edited(
            tmp_path,
            truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        )
    )
    assert len(tokenizer.encode("edge " * 20)) > 20


def test_literal_ids_of_a_text_with_byte_fallback() -> None:
    ids = TOKENIZER.encode("Les 🙂\nb")
    assert ids == [BOS, IDS["▁Les"], BLANK, *map(byte, "🙂".encode()), NEWLINE, IDS["▁b"]]
    assert TOKENIZER.decode(ids) == "Les 🙂\n b"  # the blank is the file's own: it prepends one to each line


def test_vocab_size_counts_added_tokens() -> None:
    assert TOKENIZER.vocab_size == 4096


TOKENS = st.one_of(
    st.sampled_from(BYTES),
    st.sampled_from([byte(0xE2), byte(0x82), byte(0xAC), byte(0x20), byte(0xFF)]),
    st.sampled_from([BOS, EOS, PAD, NEWLINE, BLANK, 0]),
    st.integers(min_value=0, max_value=TOKENIZER.vocab_size + 3),
)
PIECES = st.one_of(TOKENS.map(lambda token: [token]), st.sampled_from(SAMPLES).map(TOKENIZER.encode))


@settings(max_examples=500)
@given(st.lists(PIECES, max_size=30))
def test_streamed_text_is_the_text_of_all_ids(pieces: list[list[int]]) -> None:
    ids = [token for piece in pieces for token in piece]
    assert "".join(streamed(ids)) == TOKENIZER.decode(ids)


@settings(max_examples=300)
@given(st.lists(TOKENS, max_size=30))
def test_a_continued_stream_is_what_the_text_after_a_prompt_reads(ids: list[int]) -> None:
    prompt = TOKENIZER.encode("Edge")
    assert "Edge" + "".join(streamed(ids, continuing=True)) == TOKENIZER.decode([*prompt, *ids])


@pytest.mark.parametrize("text", SAMPLES)
def test_a_character_appears_whole_and_words_appear_at_once(text: str) -> None:
    ids = TOKENIZER.encode(text)
    pieces = streamed(ids)
    assert not any("\ufffd" in piece for piece in pieces)
    for position, (token, piece) in enumerate(zip(ids, pieces[:-1], strict=True)):
        first_blank = token == BLANK and position == 1
        assert bool(piece) == (token not in {BOS, *BYTES} and not first_blank)


def test_an_incomplete_character_at_the_end_is_held_until_finish() -> None:
    stream = TOKENIZER.stream()
    assert [stream.push(byte(0xE2)), stream.push(byte(0x82))] == ["", ""]
    assert stream.finish() == "\ufffd\ufffd"
    assert stream.finish() == ""


def test_the_first_blank_is_dropped_and_no_other() -> None:
    assert streamed([BLANK, BLANK, IDS["▁b"]])[:3] == ["", " ", " b"]
    assert streamed([BLANK, IDS["▁b"]]) == ["", " b", ""]
    assert streamed([IDS["▁b"], BLANK, IDS["▁b"]]) == ["b", " ", " b", ""]
    assert streamed([IDS["▁b"]], continuing=True) == [" b", ""]


def test_the_cost_of_streaming_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0
    inner = Tokenizer.decode

    def counting(self: Tokenizer, ids: list[int]) -> str:
        nonlocal decoded
        decoded += len(ids)
        return inner(self, ids)

    monkeypatch.setattr(Tokenizer, "decode", counting)
    ids = TOKENIZER.encode("Edge AI 🙂 runs on the device.\n") * 50
    streamed(ids)
    assert decoded <= 4 * len(ids)


@pytest.mark.parametrize("bad", [-1, 1 << 32, 1 << 70])
def test_an_impossible_id_is_a_usage_error(bad: int) -> None:
    with pytest.raises(UsageError, match="outside any vocabulary"):
        TOKENIZER.decode([5, bad])
    with pytest.raises(UsageError, match="outside any vocabulary"):
        TOKENIZER.stream().push(bad)


def test_a_lone_surrogate_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not valid Unicode at character 1"):
        TOKENIZER.encode("a\udcff")


def edited(folder: Path, **changes: object) -> Path:
    """A copy of helium-tiny's tokenizer.json with some top-level keys replaced."""
    data = json.loads(TINY.read_text(encoding="utf-8"))
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**data, **changes}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        {"type": "Fuse"},
        {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 2, "stop": 0},
            ],
        },
    ],
)
@pytest.mark.parametrize("start", ["▁b", "▁"])
def test_other_streamable_decoders_stream_exactly(tmp_path: Path, decoder: object, start: str) -> None:
    tokenizer = Tokenizer(edited(tmp_path, decoder=decoder))
    ids = [IDS[start], BLANK, BOS, byte(0xE2), byte(0x82), byte(0xAC), IDS["▁Les"], NEWLINE, byte(0xC3)]
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, ids), stream.finish()]) == tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": {"type": "WordPiece", "prefix": "##"}}, "decoder WordPiece cannot be streamed"),
        (
            {"decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteLevel"}]}},
            "decoder Fuse, ByteLevel cannot be streamed",
        ),
        (
            {"decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Replace"}]}},
            "decoder Fuse, Replace cannot be streamed",
        ),
        (
            {"decoder": {"type": "Strip", "content": " ", "start": 1, "stop": 1}},
            "decoder Strip cannot be streamed",
        ),
        ({"model": {"type": "Unigram", "unk_id": 0, "vocab": []}}, "not a usable tokenizer.json"),
        ({"model": 3}, "not a usable tokenizer.json"),
        # The library panics over this one, and only when it encodes.
        (
            {
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "<absent>", "type_id": 0}}],
                    "pair": [],
                    "special_tokens": {},
                }
            },
            "not a usable tokenizer.json",
        ),
    ],
)
def test_an_unusable_tokenizer_is_one_line_that_names_the_file(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = edited(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        Tokenizer(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_a_malformed_file_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: not "):
        Tokenizer(path)


def test_a_missing_file_says_where_one_belongs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        Tokenizer(tmp_path / "tokenizer.json")
    assert caught.value.hint


def test_a_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a regular file"):
        Tokenizer(tmp_path)


def test_a_huge_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helium_edge.runtime.tokenizer_rules.MAX_TOKENIZER_BYTES", 100)
    with pytest.raises(InputError, match="are too many"):
        Tokenizer(TINY)
