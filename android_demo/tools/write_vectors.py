"""Writes what the Kotlin tests must reproduce: `python write_vectors.py FOLDER`.

Everything is computed by the Python package and the libraries behind it, at check time, so that the two hosts
cannot drift apart; nothing of it is kept in the repository.
"""

from __future__ import annotations

import json
import math
import random
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import chats
import hosts
import manifests
import numpy as np
import prompt_caches
import texts
import tokenizers

import helium_edge
from helium_edge import export
from helium_edge.bundle import GenerationSection
from helium_edge.bundle.manifest import MANIFEST_NAME, parse_manifest
from helium_edge.errors import HeliumEdgeError, UsageError
from helium_edge.language_model import Sampling, most_new_tokens, sampling_options
from helium_edge.recipe import load_recipe
from helium_edge.runtime.generate import GenerationStats, generate
from helium_edge.runtime.onnx_runner import OnnxRunner
from helium_edge.runtime.sampling import Sampler, SamplingOptions
from helium_edge.runtime.stop_strings import StopStrings
from helium_edge.runtime.tokenizer import Tokenizer

DATA = Path(helium_edge.__file__).parent / "data"
RANDOM_TEXTS = 5000


def main(folder: Path) -> None:
    """Write every vector below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    bundles = write_bundles(folder / "bundles")
    write_tokenizers(folder)
    save(folder / "sampler.json", list(sampler_cases()))
    save(folder / "overrides.json", list(override_cases()))
    save(folder / "stop-strings.json", list(stop_string_cases()))
    write_chats(folder)
    save(folder / "plans.json", list(hosts.plans()))
    save(folder / "caches.json", list(hosts.cache_runs()))
    prompt_caches.write(folder / "prompt-caches", bundles)
    save(folder / "manifests.json", list(manifests.manifest_cases(bundles["in_place"] / MANIFEST_NAME)))
    save(folder / "generations.json", [case for name, path in bundles.items() for case in generations(name, path)])


def save(path: Path, content: object) -> None:
    """One document, without NaN and infinity."""
    path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def write_bundles(folder: Path) -> dict[str, Path]:
    """Helium-tiny with every kind of cache; the second with shapes that make every path of the loop run."""
    folder.mkdir(exist_ok=True)
    names = {"in_place": "onnx-int4", "append": "onnx-int4-portable", "int8": "onnx-int4-kv8"}
    recipes = {name: load_recipe(recipe) for name, recipe in names.items()}
    small = recipes["append"].shapes.model_copy(update={"prefill_len": 16, "cache_len": 96})
    recipes["append"] = recipes["append"].model_copy(update={"shapes": small})
    for name, recipe in recipes.items():
        export("helium-tiny", recipe=recipe, out=folder / name, force=True, parity=False)
    return {name: folder / name for name in recipes}


def write_chats(folder: Path) -> None:
    """Conversations as text and as ids, over a tokenizer with turn tokens."""
    tokenizer = chats.write_tokenizer(DATA / "helium-tiny" / "tokenizer.json", folder / "tokenizers")
    save(folder / "chat-texts.json", list(chats.texts()))
    save(folder / "chat-ids.json", list(chats.ids(tokenizer)))
    save(folder / "chat-fits.json", list(chats.fits(tokenizer)))


# -- tokenizer


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
        content = byte_level_tokenizer(**parts)
        save(folder / "tokenizers" / f"{name}-pieces.json", list(piece_cases(content, fixed)))
        content = with_added_tokens(content)
        made[name] = (content, [*fixed[:800], *texts.random_texts(1000, seed=10), *flagged])
    for name, (content, chosen) in made.items():
        path = folder / "tokenizers" / f"{name}.json"
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        save(
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


def piece_cases(document: dict[str, Any], fixed: list[str]) -> Iterator[dict[str, Any]]:
    """What the pre-tokenizer makes of texts: ids show where a text is cut only if a merge would cross the cut."""
    library = tokenizers.Tokenizer.from_str(json.dumps(document))
    # Every assigned character, of the ideographs and the Korean syllables a few.
    ranges = [range(0x3500), range(0x9F00, 0xAD00), range(0xD700, 0xD800), range(0xE000, 0x20100)]
    points = [chr(point) for chosen in ranges for point in chosen]
    points = [point for point in points if unicodedata.category(point) not in ("Cn", "Co")]
    around = [f"a{point}1{point} {point}'{point}\n{point}" for point in points]
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


# -- sampler


def sampler_cases() -> Iterator[dict[str, Any]]:
    """Picks for given logits, options and uniforms; and logits from which none can be made."""
    rng = np.random.default_rng(6)
    for index in range(400):
        size = int(rng.choice([1, 2, 7, 64, 300, 1000]))
        logits = (rng.standard_normal(size) * rng.choice([0.1, 1.0, 6.0])).astype(np.float32)
        if index % 5 == 0:
            logits = np.round(logits)  # ties
        if index % 7 == 0 and size > 2:
            logits[rng.random(size) < 0.3] = -np.inf
            logits[0] = 0.0
        options = SamplingOptions(
            temperature=float(rng.choice([0.0, 0.01, 0.7, 1.0, 3.0])),
            top_k=int(rng.choice([0, 1, 5, 40, 600])),
            top_p=float(rng.choice([1.0, 0.95, 0.5, 0.01])),
            min_p=float(rng.choice([0.0, 0.0, 0.1, 0.9])),
            repetition_penalty=float(rng.choice([1.0, 1.0, 1.3, 0.7])),
            no_repeat_ngram_size=int(rng.choice([0, 0, 1, 2, 3])),
            suppress_tokens=tuple(rng.integers(0, size + 2, 3).tolist()) if index % 3 == 0 else (),
        )
        context = rng.integers(0, min(size + 1, 9), int(rng.integers(0, 40))).tolist()
        uniforms = [0.0, 1 - 2.0**-53, *rng.random(6).tolist()]
        yield sampler_case(logits, options, uniforms, context)
    for bad in ([0.0, math.nan, 1.0], [math.inf, 0.0], [-math.inf, -math.inf], [math.nan]):
        for temperature in (0.0, 1.0):
            yield sampler_case(np.array(bad, dtype=np.float32), SamplingOptions(temperature), [0.5])


def sampler_case(
    logits: np.ndarray[Any, np.dtype[np.float32]],
    options: SamplingOptions,
    uniforms: list[float],
    context: Sequence[int] = (),
) -> dict[str, Any]:
    sampler = Sampler(options)
    given = iter(uniforms)
    sampler._uniform = lambda: next(given)  # type: ignore[method-assign]
    picks, ruled_out = None, False
    try:
        picks = [sampler.pick(logits, context) for _ in uniforms]
    except HeliumEdgeError as error:
        ruled_out = isinstance(error, UsageError)
    return {
        **asdict(options),
        "logits": [str(value) for value in logits.astype(np.float64)],
        "uniforms": uniforms,
        "context": list(context),
        "picks": picks,
        "ruled_out": ruled_out,
    }


def override_cases() -> Iterator[dict[str, Any]]:
    """Defaults of bundles, what somebody asks for in their place, and what holds then."""
    rng = random.Random(15)

    def some(values: dict[str, list[Any]], share: float) -> dict[str, Any]:
        return {name: rng.choice(choices) for name, choices in values.items() if rng.random() < share}

    values: dict[str, list[Any]] = {
        "temperature": [0.0, 0.3, 1.0, 2.5],
        "top_k": [0, 1, 40],
        "top_p": [0.1, 0.9, 1.0],
        "min_p": [0.0, 0.05, 1.0],
        "repetition_penalty": [0.5, 1.0, 1.2],
        "no_repeat_ngram_size": [0, 3],
        "suppress_tokens": [[], [5], [0, 4095]],
        "stop_strings": [[], ["\n"], ["</s>", "User:"]],
        "max_new_tokens": [1, 7, 500],
    }
    bad: dict[str, list[Any]] = {
        "temperature": [-0.1],
        "top_k": [-1],
        "top_p": [0.0, 1.01, -1.0],
        "min_p": [-0.1, 1.5],
        "repetition_penalty": [0.0, -2.0],
        "no_repeat_ngram_size": [-1],
        "stop_strings": [[""], ["a", ""]],
    }
    lengths = [1, 9, 40, 1000]
    for index in range(500):
        defaults = some({**values, "do_sample": [False, True], "max_length": [1, 20, 300]}, 0.5)
        asked = some(values, 0.4)
        if index % 6 == 0:
            name = rng.choice(list(bad))
            asked[name] = rng.choice(bad[name])
        section, sampling = GenerationSection(**defaults), cast(Sampling, asked)
        # A bound of prompt and answer together is no option of the Python host: it is that of the defaults there.
        bound = rng.choice([2, 30, 700]) if rng.random() < 0.3 and "max_new_tokens" not in asked else None
        bounded = section if bound is None else section.model_copy(update={"max_length": bound})
        case = {
            "defaults": section.model_dump(mode="json"),
            "asked": asked | ({"max_length": bound} if bound else {}),
        }
        try:
            options = sampling_options(section, sampling)
            StopStrings(strings := asked.get("stop_strings", list(section.stop_strings)))
        except UsageError as error:
            yield {**case, "refused": error.message}
            continue
        most = [most_new_tokens(bounded, sampling, length) for length in lengths]
        found = {"options": asdict(options), "stop_strings": strings, "prompt_tokens": lengths, "new_tokens": most}
        yield {**case, **found}


def stop_string_cases() -> Iterator[dict[str, Any]]:
    """Texts in pieces, of few letters so that strings come, nearly come and overlap."""
    rng = random.Random(9)
    for _ in range(300):
        strings = ["".join(rng.choices("ab\n", k=rng.randint(1, 4))) for _ in range(rng.randint(0, 3))]
        pieces = ["".join(rng.choices("abc\n", k=rng.randint(0, 3))) for _ in range(rng.randint(0, 8))]
        stop = StopStrings(strings)
        shown = [*(stop.push(piece) for piece in pieces), stop.finish()]
        yield {"strings": strings, "pieces": pieces, "shown": shown, "found": stop.found}


# -- whole generations


DRAWN = SamplingOptions(temperature=0.8, top_k=40, top_p=0.9)
PENALISED = SamplingOptions(repetition_penalty=1.3, no_repeat_ngram_size=3, suppress_tokens=(300, 301))
PENALISED_AND_DRAWN = replace(PENALISED, temperature=1.1, min_p=0.03)


def generations(name: str, bundle: Path) -> Iterator[dict[str, Any]]:
    """Texts by the Python host, of a bundle that the Kotlin host runs on the same library."""
    manifest = parse_manifest((bundle / MANIFEST_NAME).read_bytes())
    tokenizer = Tokenizer(bundle / manifest.tokenizer.file)
    rng = np.random.default_rng(7)
    long = (DATA / "eval-text" / "fr.txt").read_text(encoding="utf-8")
    prompts = [
        "The device",
        "Les modèles",
        "Das Wetter ist",
        "Il sistema",
        "Os dados são",
        "El coche",
        "你好",
        "",
        long[:40],
        long[:120],
    ]
    if name == "in_place":
        prompts += [long[:500], long]  # more than one chunk of 128
    if name == "int8":
        prompts = prompts[:6]  # the loop is that of in_place
    for index, prompt in enumerate(prompts):
        for static in (False, True):
            options = (SamplingOptions(), DRAWN, PENALISED, PENALISED_AND_DRAWN)[index % 4]
            yield {
                "bundle": name,
                "static": static,
                **one_generation(bundle, manifest, tokenizer, prompt, options, rng.random(200).tolist(), static),
            }


def one_generation(
    bundle: Path,
    manifest: Any,
    tokenizer: Tokenizer,
    prompt: str,
    options: SamplingOptions,
    uniforms: list[float],
    static: bool,
) -> dict[str, Any]:
    runner = OnnxRunner(bundle, manifest.graph_files(), manifest.decoder_spec(), threads=1, static=static)
    sampler, given, stats = Sampler(options), iter(uniforms), GenerationStats()
    sampler._uniform = lambda: next(given)  # type: ignore[method-assign]
    ids = tokenizer.encode(prompt)
    new = list(generate(runner, ids, max_new_tokens=40, eos_ids=manifest.tokens.eos, sampler=sampler, stats=stats))
    stream = tokenizer.stream(continuing=True)
    text = "".join(stream.push(token) for token in new) + stream.finish()
    chosen = {**asdict(options), "uniforms": uniforms}
    return {"prompt": prompt, "prompt_ids": ids, "ids": new, "text": text, "stop": stats.stop_reason, **chosen}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
