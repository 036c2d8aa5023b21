"""Tokenizers of every kind, what the library makes of texts with them, and what the Python host makes of ids."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import expressions
import texts
import tokenizers

import helium_edge
from helium_edge.runtime.tokenizer import Tokenizer

DATA = Path(helium_edge.__file__).parent / "data"
RANDOM_TEXTS = 5000


def write_tokenizers(folder: Path) -> None:
    """Vectors for helium-tiny's tokenizer, and for made ones full of ties and unknown characters."""
    (folder / "tokenizers").mkdir(exist_ok=True)
    tiny = DATA / "helium-tiny" / "tokenizer.json"
    fixed = texts.fixed_texts(DATA / "eval-text")
    if len(fixed) < 2000:
        raise SystemExit(f"only {len(fixed)} fixed texts")
    document = json.loads(tiny.read_text(encoding="utf-8"))
    made = {"tiny": (document, [*fixed, *texts.random_texts(RANDOM_TEXTS, seed=2)])}
    for seed, fallback in ((3, True), (4, False)):
        made[f"made{seed}"] = (
            made_tokenizer(document, seed, fallback),
            [*fixed[:800], *texts.random_texts(1500, seed)],
        )
    flagged = [*random_added_texts(700, seed=8), *fixed[:300]]
    made["added"] = (with_added_tokens(document), flagged)
    for name, options in BPE_KINDS.items():
        content = with_added_tokens(bpe_tokenizer(**options))
        made[name] = (content, [*fixed[:800], *texts.random_texts(1000, seed=9), *flagged])
    for name, parts in BYTE_LEVEL_KINDS.items():
        bare = byte_level_tokenizer(**parts)
        _save(folder / "tokenizers" / f"{name}-pieces.json", list(piece_cases(bare, fixed)))
        content = with_added_tokens(bare)
        made[name] = (content, [*fixed[:800], *texts.random_texts(1000, seed=10), *flagged])
        if name == "byte-level":
            write_splits(folder, bare, fixed)
    for name, (content, chosen) in made.items():
        path = folder / "tokenizers" / f"{name}.json"
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        _save(
            folder / "tokenizers" / f"{name}-cases.json",
            {"texts": list(text_cases(path, chosen)), "ids": list(id_cases(path))},
        )


def made_tokenizer(document: dict[str, Any], seed: int, byte_fallback: bool) -> dict[str, Any]:
    """A tokenizer of the same pipeline with 6,000 random pieces, few different scores, and characters missing."""
    rng = random.Random(seed)
    base = document["model"]["vocab"]
    pieces = dict.fromkeys(entry[0] for entry in base[: 260 if byte_fallback else 15])
    alphabet = "▁etaoinsrluéüß日本👍\n" + "".join(chr(rng.randrange(0x21, 0x500)) for _ in range(60))
    while len(pieces) < 6000:
        pieces["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 5)))] = None
    scores = [-float(rng.randint(1, 6)) for _ in range(4)] + [rng.uniform(-12, -1) for _ in range(20)]
    vocab = [[piece, 0.0 if index < 4 else rng.choice(scores)] for index, piece in enumerate(pieces)]
    ids = {piece: index for index, piece in enumerate(pieces)}
    added = [
        {**token, "id": ids[token["content"]]} for token in document["added_tokens"] if token["content"] in ids
    ]
    return {
        **document,
        "added_tokens": added,
        "model": {**document["model"], "vocab": vocab, "byte_fallback": byte_fallback},
    }


BPE_KINDS: dict[str, dict[str, Any]] = {
    "bpe": {"byte_fallback": True, "fuse_unk": True},
    "bpe-first": {"metaspace": {"prepend_scheme": "first", "split": False}, "fuse_unk": False},
    "bpe-always": {
        "metaspace": {"prepend_scheme": "always", "split": True},
        "ignore_merges": True,
        "fuse_unk": True,
    },
    "bpe-never": {
        "metaspace": {"prepend_scheme": "never", "split": False},
        "byte_fallback": True,
        "bytes_left_out": 40,
    },
}
"""The SentencePiece BPE of public checkpoints, and the corners of it that none of those has together."""


def bpe_tokenizer(
    *,
    byte_fallback: bool = False,
    fuse_unk: bool = False,
    ignore_merges: bool = False,
    metaspace: dict[str, Any] | None = None,
    bytes_left_out: int = 0,
) -> dict[str, Any]:
    """A BPE of 1,500 pieces, trained on the evaluation texts, of the pipelines of Llama, Mistral and Gemma."""
    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    byte_pieces = [f"<0x{value:02X}>" for value in range(256 - bytes_left_out)] if byte_fallback else []
    library = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    library.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    library.pre_tokenizer = tokenizers.pre_tokenizers.Split("▁", "merged_with_next")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1500, special_tokens=[*specials, *byte_pieces], show_progress=False
    )
    trained = [path.read_text(encoding="utf-8") for path in sorted((DATA / "eval-text").glob("*.txt"))]
    library.train_from_iterator(trained, trainer)
    library.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    document: dict[str, Any] = json.loads(library.to_str())
    document["added_tokens"] = document["added_tokens"][: len(specials)]
    document["model"] |= {"byte_fallback": byte_fallback, "fuse_unk": fuse_unk, "ignore_merges": ignore_merges}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = {"type": "Prepend", "prepend": "▁"}
    document["normalizer"] = None if metaspace else {"type": "Sequence", "normalizers": [prepend, replace]}
    document["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", **metaspace} if metaspace else None
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]
    document["decoder"] = {"type": "Sequence", "decoders": decoders}
    return document


CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

BYTE_LEVEL_KINDS: dict[str, dict[str, Any]] = {
    "byte-level": {
        "expression": rf"{CONTRACTIONS}|\p{{N}}{{1,3}}|{SIGNS}",
        "template": True,
        "ignore_merges": True,
    },
    "byte-level-gpt2": {"prefix_blank": True, "old_form": True},
    "byte-level-qwen2": {"expression": rf"{CONTRACTIONS}|\p{{N}}|{SIGNS}", "composes": True},
}
"""Byte-level BPE as of Llama 3, as of GPT-2 with the blank in front that it may have, and as of Qwen 2."""


def byte_level_tokenizer(
    *,
    expression: str | None = None,
    template: bool = False,
    ignore_merges: bool = False,
    prefix_blank: bool = False,
    old_form: bool = False,
    composes: bool = False,
) -> dict[str, Any]:
    """A byte-level BPE of 1,500 pieces, trained on the evaluation texts."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=ignore_merges))
    pre_tokenizers = tokenizers.pre_tokenizers
    own = pre_tokenizers.ByteLevel(add_prefix_space=prefix_blank, use_regex=expression is None)
    library.pre_tokenizer = own
    if expression is not None:
        split = pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
        library.pre_tokenizer = pre_tokenizers.Sequence([split, own])
    if composes:
        library.normalizer = tokenizers.normalizers.NFC()
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained = [path.read_text(encoding="utf-8") for path in sorted((DATA / "eval-text").glob("*.txt"))]
    library.train_from_iterator(trained, trainer)
    processors = tokenizers.processors
    library.post_processor = processors.ByteLevel(trim_offsets=False)
    if template:
        start = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        library.post_processor = processors.Sequence([library.post_processor, start])
    document: dict[str, Any] = json.loads(library.to_str())
    if ignore_merges:
        # Otherwise every piece is what its merges give, and the flag changes nothing.
        del document["model"]["merges"][::7]
    if old_form:
        del document["model"]["type"]
        document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    return document


ADDED_TOKENS: dict[str, dict[str, bool]] = {
    "<|turn|>": {"special": True},
    "<|end of turn|>": {"special": True, "lstrip": True},
    "<tool>": {"rstrip": True},
    "</tool>": {"lstrip": True, "rstrip": True},
    "étàpe": {"normalized": True},
    "[X] y": {"normalized": True},
    "mötx": {"single_word": True},
    "wörtq": {"single_word": True, "normalized": True},
    "\n\t": {},
}
"""What fine-tunes add, with every flag that a tokenizer.json has for it."""


def with_added_tokens(document: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer with tokens that stand behind its vocabulary."""
    start = len(document["model"]["vocab"])
    flags = {"special": False, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": start + index, "content": content, **flags, **own}
        for index, (content, own) in enumerate(ADDED_TOKENS.items())
    ]
    return {**document, "added_tokens": [*document["added_tokens"], *added]}


def random_added_texts(count: int, seed: int) -> list[str]:
    """Texts of added tokens, blanks and words in any order."""
    rng = random.Random(seed)
    blanks = [" ", "  ", "\n", "\t", "\u00a0", "\u0085", "\x1c", "▁"]
    words = ["<s>", "</s>", "a", "é", "👍", "the", " Straße", "mötxs", "_", "1"]
    parts = [*ADDED_TOKENS, *ADDED_TOKENS, *blanks, *words]
    return ["".join(rng.choices(parts, k=rng.randint(1, 12))) for _ in range(count)]


def text_cases(path: Path, chosen: list[str]) -> Iterator[dict[str, Any]]:
    """Ids and the text that they decode to, by the Hugging Face library itself."""
    library = tokenizers.Tokenizer.from_file(str(path))
    library.no_padding()
    library.no_truncation()
    for token in json.loads(path.read_text(encoding="utf-8"))["added_tokens"]:
        # The library numbers them anew where they are pieces of the vocabulary as well.
        if library.token_to_id(token["content"]) != token["id"]:
            raise SystemExit(f"{path.name}: {token['content']!r} has another id in the library")
    for encoding, text in zip(library.encode_batch(chosen), chosen, strict=True):
        yield {
            "text": text,
            "ids": encoding.ids,
            "decoded": library.decode(encoding.ids, skip_special_tokens=True),
        }


def write_splits(folder: Path, document: dict[str, Any], fixed: list[str]) -> None:
    """The same tokenizer with the pre-tokenizers of other models, in front of its ByteLevel."""
    for name, steps in expressions.PUBLIC.items():
        last = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": name == "digits",
        }
        content = {**document, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, last]}}
        (folder / "tokenizers" / f"split-{name}.json").write_text(json.dumps(content), encoding="utf-8")
        _save(folder / "tokenizers" / f"split-{name}-pieces.json", list(piece_cases(content, fixed, every=9)))


def piece_cases(document: dict[str, Any], fixed: list[str], every: int = 1) -> Iterator[dict[str, Any]]:
    """What the pre-tokenizer makes of texts: ids show where a text is cut only if a merge would cross the cut."""
    library = tokenizers.Tokenizer.from_str(json.dumps(document))
    # Every assigned character, of the ideographs and the Korean syllables a few.
    ranges = [range(0x3500), range(0x9F00, 0xAD00), range(0xD700, 0xD800), range(0xE000, 0x20100)]
    points = [chr(point) for chosen in ranges for point in chosen]
    points = [point for point in points if unicodedata.category(point) not in ("Cn", "Co")]
    around = [f"a{point}1{point} {point}'{point}\n{point}" for point in points[::every]]
    for text in [*fixed, *texts.random_texts(1000, seed=11), *around]:
        yield {"text": text, "pieces": [piece for piece, _ in library.pre_tokenizer.pre_tokenize_str(text)]}


def id_cases(path: Path) -> Iterator[dict[str, Any]]:
    """Random ids, many of them bytes, special or unknown; read at once, and after a text."""
    tokenizer = Tokenizer(path)
    rng = random.Random(5)
    for _ in range(1500):
        ids = [
            rng.choice((rng.randrange(tokenizer.vocab_size + 3), rng.randrange(270), rng.randrange(5)))
            for _ in range(rng.randint(0, 14))
        ]
        stream = tokenizer.stream(continuing=True)
        continued = "".join(stream.push(token) for token in ids) + stream.finish()
        yield {"ids": ids, "text": tokenizer.decode(ids), "continued": continued}


def _save(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
