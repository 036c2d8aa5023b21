"""One tokenizer.json out of all files that name tokens, with the ids of AutoTokenizer."""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import transformers

from helium_edge.errors import InputError
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.runtime.tokenizer_merge import MergedTokenizer, merge_tokenizer
from tests.helpers.added_tokens import TINY, TURNS, texts_with, token, token_files, tokenizer_folder

MAJOR = int(transformers.__version__.partition(".")[0])
TEXTS = 500
DECODER = {str(4096 + index): token(content) for index, content in enumerate(TURNS)}

# Files beside tokenizer.json, by what they show.
SPELLINGS: dict[str, dict[str, Any]] = {
    "added_tokens_decoder": {"tokenizer_config.json": {"added_tokens_decoder": DECODER}},
    "additional_special_tokens": {"tokenizer_config.json": {"additional_special_tokens": list(TURNS)}},
    "added_tokens.json": {"added_tokens.json": {"<|im_start|>": 4096, "<|im_end|>": 4097}},
    "added_tokens.json, special by name": {
        "added_tokens.json": {"<|im_start|>": 4096, "<|im_end|>": 4097},
        "tokenizer_config.json": {"eos_token": "<|im_end|>"},
    },
    "eos_token as a text": {"tokenizer_config.json": {"eos_token": "<|im_end|>", "pad_token": "<|im_start|>"}},
    "eos_token as an object": {
        "tokenizer_config.json": {"eos_token": token("<|im_end|>") | {"__type": "AddedToken"}}
    },
    "special_tokens_map.json": {
        "special_tokens_map.json": {"eos_token": token("<|im_end|>"), "unk_token": "<unk>"}
    },
    "special_tokens_map.json beside added_tokens_decoder": {
        "special_tokens_map.json": {"eos_token": "<|never|>"},
        "added_tokens.json": {"<|never|>": 4099},
        "tokenizer_config.json": {"added_tokens_decoder": DECODER},
    },
    "settings whose names end like those of tokens": {
        "tokenizer_config.json": {
            "add_bos_token": True,
            "add_eos_token": "<|im_end|>",
            "eos_token": "<|im_start|>",
        }
    },
    "two lists of further tokens": {
        "tokenizer_config.json": {"additional_special_tokens": ["<|im_start|>"]},
        "special_tokens_map.json": {"additional_special_tokens": ["<|im_end|>"]},
    },
    "tokens of the vocabulary": {
        "tokenizer_config.json": {"bos_token": "<s>", "unk_token": "<unk>", "eos_token": "the"}
    },
    "ids with a gap": {"tokenizer_config.json": {"added_tokens_decoder": {"4100": token("<|im_end|>")}}},
    "ids in another order": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {"4097": token("<|im_start|>"), "4096": token("<|im_end|>", special=False)}
        }
    },
    "tokens that eat blanks": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                "4096": token("<|im_start|>", lstrip=True, rstrip=True),
                "4097": token("<|im_end|>", single_word=True),
                "4098": token("ing", normalized=True, special=False),
            }
        }
    },
    "a token of the file with other flags": {
        "tokenizer_config.json": {"added_tokens_decoder": {"2": token("</s>"), "4096": token("<|im_end|>")}}
    },
    "an id in tokenizer.json that is not the one": {
        "tokenizer.json": lambda data: data["added_tokens"].append({"id": 4100, **token("<|im_end|>")})
    },
    "nothing": {},
}
if MAJOR >= 5:  # the version that knows it
    SPELLINGS |= {
        "a token with a name of its own": {"tokenizer_config.json": {"turn_token": "<|im_start|>"}},
        "an object with a name of its own": {
            "tokenizer_config.json": {
                "turn_token": token("<|im_start|>"),
                "end_token": token("<|im_end|>") | {"__type": "AddedToken"},
            }
        },
        "lists of further tokens that are joined": {
            "tokenizer_config.json": {"extra_special_tokens": ["<|im_start|>"]},
            "special_tokens_map.json": {"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]},
        },
        "extra_special_tokens as a list": {"tokenizer_config.json": {"extra_special_tokens": list(TURNS)}},
        "extra_special_tokens as an object": {
            "tokenizer_config.json": {"extra_special_tokens": {"turn": "<|im_start|>", "end": "<|im_end|>"}}
        },
        "both lists": {
            "tokenizer_config.json": {
                "additional_special_tokens": ["<|never|>"],
                "extra_special_tokens": [token(TURNS[0]) | {"__type": "AddedToken"}, TURNS[1]],
            }
        },
    }


def merged(folder: Path) -> tuple[MergedTokenizer, Tokenizer]:
    found = merge_tokenizer(token_files(folder))
    path = folder / "merged.json"
    path.write_bytes(found.content)
    return found, Tokenizer(path)


@pytest.mark.parametrize("name", SPELLINGS)
def test_ids_are_those_of_auto_tokenizer(tmp_path: Path, name: str) -> None:
    folder = tokenizer_folder(tmp_path / "model", SPELLINGS[name])
    _, ours = merged(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in texts_with([*TURNS, "<s>", "</s>", "<|never|>", "the", "ing"], TEXTS):
        assert ours.encode(text) == theirs(text).input_ids, text


@pytest.mark.parametrize("name", SPELLINGS)
def test_auto_tokenizer_gives_the_ids_of_the_bundle_too(tmp_path: Path, name: str) -> None:
    """Its other files are still there, and add nothing to what is merged."""
    folder = tokenizer_folder(tmp_path / "model", SPELLINGS[name])
    found, ours = merged(folder)
    (folder / "tokenizer.json").write_bytes(found.content)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in texts_with([*TURNS, "<s>", "</s>", "the", "ing"], 50, seed=2):
        assert theirs(text).input_ids == ours.encode(text), text


def test_the_bundle_of_a_checkpoint_without_more_tokens_is_a_copy() -> None:
    found = merge_tokenizer(token_files(TINY))
    assert found.content == (TINY / "tokenizer.json").read_bytes()
    assert (found.merged_from, found.notes, found.warnings) == ({}, (), ())


def test_a_merge_tells_its_sources_and_their_hashes(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "model", SPELLINGS["added_tokens_decoder"])
    found, _ = merged(folder)
    names = ["tokenizer.json", "tokenizer_config.json"]
    assert found.merged_from == {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    (line,) = found.notes
    assert line.startswith("tokenizer.json: the bundle's holds the added tokens of tokenizer_config.json as ")
    assert line.endswith(": <|im_start|> (4096), <|im_end|> (4097)")
    assert json.loads(found.content)["added_tokens"][-1] == {"id": 4097, **token("<|im_end|>")}
    assert merge_tokenizer(token_files(folder)).content == found.content


def test_an_id_that_transformers_does_not_give_is_told(tmp_path: Path) -> None:
    found, _ = merged(tokenizer_folder(tmp_path / "model", SPELLINGS["ids with a gap"]))
    (line,) = found.warnings
    assert line.startswith("tokenizer_config.json: ids of added tokens are those that transformers gives: ")
    assert line.endswith("'<|im_end|>' is 4096, not 4100")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tokenizer_class": "LlamaTokenizer"}, "tokenizer_class = LlamaTokenizer"),
        ({"split_special_tokens": True}, "split_special_tokens = true"),
    ],
)
def test_what_no_file_can_say_is_told(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    (line,) = merged(tokenizer_folder(tmp_path / "model", {"tokenizer_config.json": settings}))[0].warnings
    assert says in line


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"tokenizer_config.json": {"added_tokens_decoder": []}}, "added_tokens_decoder is no object"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"x": token("a")}}}, "'x' for a token id"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"4096": "<x>"}}}, "added_tokens_decoder.4096"),
        ({"tokenizer_config.json": {"eos_token": {"text": "x"}}}, "eos_token"),
        ({"tokenizer_config.json": {"eos_token": token("x") | {"special": 1}}}, "neither true nor false"),
        ({"tokenizer_config.json": {"extra_special_tokens": 3}}, "extra_special_tokens"),
        ({"tokenizer_config.json": {"eos_token": ["<x>"]}}, "eos_token = ['<x>']"),
        ({"tokenizer_config.json": {"pad_token": 3}}, "pad_token = 3"),
        ({"tokenizer_config.json": {"eos_token": "\ud800"}}, "not valid Unicode"),
        ({"added_tokens.json": {"<x>": "4096"}}, "'<x>' has no token id"),
        ({"added_tokens.json": {"<x>": -1}}, "'<x>' has no token id"),
    ],
)
def test_what_is_no_token_is_refused_by_name(tmp_path: Path, files: dict[str, Any], says: str) -> None:
    folder = tokenizer_folder(tmp_path / "model", {})
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        merged(folder)
    assert says in caught.value.message
    assert caught.value.message.startswith(next(iter(files)))


def test_a_byte_order_mark_is_named(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "model", {})
    (folder / "added_tokens.json").write_bytes(b"\xef\xbb\xbf{}")
    with pytest.raises(InputError, match="byte order mark"):
        merged(folder)


VALUES = (
    "<a>", "the", "<b> x", "<|im_end|>", token("<f>") | {"__type": "AddedToken"},
    token("<i>", lstrip=True, normalized=True, special=False) | {"__type": "AddedToken"},
)  # fmt: skip
TOKENS = ("<a>", "<b> x", "<c>", "<d>", "<f>", "<i>", "the", "<s>", "</s>", "<|im_end|>")


def random_files(source: random.Random) -> dict[str, Any]:
    """Files that name tokens in any of the ways."""

    def named(count: int) -> dict[str, Any]:
        keys = source.sample(
            ["eos_token", "bos_token", "pad_token", "unk_token", "cls_token", "image_token"], count
        )
        return {key: source.choice(VALUES) for key in keys}

    settings = named(source.randint(0, 3))
    if source.random() < 0.4:
        settings["added_tokens_decoder"] = {
            str(4096 + at): token(text, rstrip=source.random() < 0.3, special=source.random() < 0.5)
            for at, text in enumerate(source.sample(TOKENS, source.randint(0, 3)))
        }
    lists = ["additional_special_tokens", "extra_special_tokens"] if MAJOR >= 5 else ["additional_special_tokens"]
    for name in lists:
        if source.random() < 0.3:
            settings[name] = source.sample(TOKENS, source.randint(0, 2))
    files = {"tokenizer_config.json": settings}
    if source.random() < 0.4:
        simple = {key: value for key, value in named(2).items() if isinstance(value, str)}
        files["special_tokens_map.json"] = simple | {"additional_special_tokens": source.sample(TOKENS, 1)}
    if source.random() < 0.4:
        files["added_tokens.json"] = {text: 4096 + at for at, text in enumerate(source.sample(TOKENS, 2))}
    return files


@pytest.mark.skipif(MAJOR < 5, reason="transformers 4 orders what stands in several files otherwise")
@pytest.mark.parametrize("seed", [*range(30), 199, 263, 272, 284, 324, 332, 391, 413, 425])
def test_any_folder_gives_the_ids_of_auto_tokenizer(tmp_path: Path, seed: int) -> None:
    folder = tokenizer_folder(tmp_path / "model", random_files(random.Random(seed)))
    _, ours = merged(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in texts_with(TOKENS, 30, seed=seed):
        assert ours.encode(text) == theirs(text).input_ids, text


@pytest.mark.parametrize("change", [{"version": "2.0"}, {"pre_tokenizer": {"type": "BrandNew"}}])
def test_a_file_of_a_newer_library_is_told_as_one(change: dict[str, Any], tmp_path: Path) -> None:
    data = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data | change), encoding="utf-8")
    with pytest.raises(InputError, match=r"not a usable tokenizer\.json") as caught:
        merge_tokenizer({"tokenizer.json": path})
    assert caught.value.hint.startswith("it may be of a newer tokenizers library than ")
