"""BPE tokenizers, of the SentencePiece and the byte-level kind: ids, streamed text, expressions on the clock."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from helium_edge.errors import InputError
from helium_edge.runtime import tokenizer as tokenizer_module
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.texts import LANGUAGES, evaluation_text
from tests.helpers.added_tokens import TURNS, texts_with, token, tokenizer_folder

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
TEXTS = [evaluation_text(language) for language in LANGUAGES]


def byte_level() -> tokenizers.Tokenizer:
    found = tokenizers.Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(LLAMA_3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train_from_iterator(TEXTS, trainer)
    found.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return found


def sentencepiece() -> tokenizers.Tokenizer:
    byte_pieces = [f"<0x{value:02X}>" for value in range(256)]
    found = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    found.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", "<s>", "</s>", *byte_pieces], show_progress=False
    )
    # Word by word, as the trainer of SentencePiece; at work nothing cuts the text.
    found.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    found.train_from_iterator(TEXTS, trainer)
    data = json.loads(found.to_str()) | {"pre_tokenizer": None}
    data["added_tokens"] = data["added_tokens"][:3]
    found = tokenizers.Tokenizer.from_str(json.dumps(data))
    found.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return found


KINDS = {
    "byte level": (byte_level, {}),
    "byte level, by the class of Llama": (byte_level, {"tokenizer_class": "LlamaTokenizer"}),
    "sentencepiece": (sentencepiece, {}),
    "sentencepiece, by the class of Llama": (sentencepiece, {"tokenizer_class": "LlamaTokenizer"}),
    "sentencepiece, by the old class": (sentencepiece, {"tokenizer_class": "LlamaTokenizerFast", "legacy": True}),
    "sentencepiece, without a prefix": (
        sentencepiece,
        {
            "tokenizer_class": "LlamaTokenizer",
            "add_prefix_space": False,
            "eos_token": "<|im_end|>",
            "unk_token": None,
        },
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    origin = tmp_path_factory.mktemp("origin")
    make, settings_of_class = KINDS[request.param]
    if settings_of_class and int(transformers.__version__.partition(".")[0]) < 5:
        pytest.skip("transformers 4 takes tokenizer.json as it is")
    make().save(str(origin / "tokenizer.json"))
    return tokenizer_folder(
        tmp_path_factory.mktemp("model") / "model",
        {
            "tokenizer_config.json": {"additional_special_tokens": list(TURNS), **settings_of_class},
            "added_tokens.json": {"<é>": 902},
        },
        origin=origin,
    )


@pytest.fixture(scope="module")
def ours(folder: Path) -> Tokenizer:
    from helium_edge.runtime.tokenizer_merge import merge_tokenizer
    from tests.helpers.added_tokens import token_files

    path = folder / "merged.json"
    path.write_bytes(merge_tokenizer(token_files(folder)).content)
    return Tokenizer(path)


def streamed(tokenizer: Tokenizer, ids: list[int], **options: bool) -> list[str]:
    stream = tokenizer.stream(**options)
    return [*map(stream.push, ids), stream.finish()]


def test_ids_are_those_of_auto_tokenizer(folder: Path, ours: Tokenizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in texts_with([*TURNS, "<s>", "</s>", "<é>"], 500):
        assert ours.encode(text) == theirs(text).input_ids, text


def test_a_stream_gives_the_text_of_all_ids(ours: Tokenizer) -> None:
    for text in [*texts_with([*TURNS, "</s>", "<é>"], 100, seed=1), "größer 🙂🙃 日本語 \u200d ñ", ""]:
        ids = ours.encode(text)
        assert "".join(streamed(ours, ids)) == ours.decode(ids), text


@settings(max_examples=200)
@given(st.lists(st.integers(0, 950), max_size=30))
def test_a_stream_of_any_ids_gives_their_text(ours: Tokenizer, ids: list[int]) -> None:
    assert "".join(streamed(ours, ids)) == ours.decode(ids)


def test_a_character_of_several_tokens_comes_when_it_is_whole(ours: Tokenizer) -> None:
    ids = ours.encode("x 🙂")
    pieces = streamed(ours, ids)
    assert "".join(pieces) == "x 🙂"
    assert "\ufffd" not in "".join(pieces)
    cut = streamed(ours, ids[:-1])
    assert "\ufffd" not in "".join(cut[:-1])  # held back until nothing can complete it
    assert cut[-1].startswith("\ufffd")


def test_every_byte_has_its_character() -> None:
    assert set(tokenizer_module._BYTES_OF) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(tokenizer_module._BYTES_OF.values()) == list(range(256))


def with_expression(folder: Path, expression: str, *, part: str = "pre_tokenizer") -> Path:
    step: dict[str, Any] = {"type": "Split", "behavior": "Isolated", "invert": False}
    if part == "normalizer":
        step = {"type": "Replace", "content": " "}
    path = tokenizer_folder(folder, {}) / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data[part] = step | {"pattern": {"Regex": expression}}
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer"])
def test_expressions_of_a_file_are_run(tmp_path: Path, part: str) -> None:
    path = with_expression(tmp_path / "model", " {2,}", part=part)
    inner = tokenizers.Tokenizer.from_file(str(path))
    inner.no_padding()
    for text in ("a  b   c", "Edge AI  runs", ""):
        assert Tokenizer(path).encode(text) == inner.encode(text).ids


def test_an_expression_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Tokenizer(with_expression(tmp_path / "model", "[xw]*[xw]*[^xw]"))
    assert found.encode("xy")
    monkeypatch.setattr(tokenizer_module, "ENCODE_SECONDS", 0.05)
    started = time.monotonic()
    with pytest.raises(InputError, match="takes too long on this text"):
        found.encode("x" * 1600)
    assert time.monotonic() - started < 2


def test_an_expression_that_the_library_gives_up_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = Tokenizer(with_expression(tmp_path / "model", "(x+x+)+y"))
    with pytest.raises(InputError, match=r"not a usable tokenizer\.json"):
        found.encode("x" * 60)
    assert capfd.readouterr() == ("", "")


def test_a_large_vocabulary_is_read(tmp_path: Path) -> None:
    """As many entries and merges as the largest Llama tokenizers have."""
    letters = [chr(code) for code in range(0x4E00, 0x4E00 + 500)]
    pairs = [(a, b) for a in letters for b in letters]
    vocab = {piece: index for index, piece in enumerate([*letters, *(a + b for a, b in pairs)])}
    data = json.loads(byte_level().to_str())
    data["model"] |= {"vocab": vocab, "merges": [list(pair) for pair in pairs]}
    data |= {"added_tokens": [{"id": len(vocab), **token("<s>")}], "pre_tokenizer": None, "post_processor": None}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    assert Tokenizer(path).encode(letters[3] + letters[4]) == [vocab[letters[3] + letters[4]]]
