"""Writes what the Kotlin tests must reproduce: `python write_vectors.py FOLDER`.

Everything is computed by the Python package and the libraries behind it, at check time, so that the two hosts
cannot drift apart; nothing of it is kept in the repository.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import chats
import conversations
import expressions
import hosts
import lookups
import manifests
import numpy as np
import prompt_caches
import samplers
import tokenizer_files

import helium_edge
from helium_edge import export
from helium_edge.bundle import Bundle, open_bundle
from helium_edge.bundle.manifest import MANIFEST_NAME
from helium_edge.recipe import load_recipe
from helium_edge.runtime.generate import GenerationStats, generate
from helium_edge.runtime.sampling import Sampler, SamplingOptions
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.targets.loading import open_runner

DATA = Path(helium_edge.__file__).parent / "data"


def main(folder: Path) -> None:
    """Write every vector below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    bundles = write_bundles(folder / "bundles")
    tokenizer_files.write_tokenizers(folder)
    save(folder / "expressions.json", expressions.document())
    save(folder / "sampler.json", list(samplers.sampler_cases()))
    save(folder / "overrides.json", list(samplers.override_cases()))
    save(folder / "lookups.json", list(lookups.lookup_cases()))
    save(folder / "stop-strings.json", list(samplers.stop_string_cases()))
    tokenizer = Tokenizer(DATA / "helium-tiny" / "tokenizer.json")
    save(folder / "stop-texts.json", list(samplers.stop_text_cases(tokenizer)))
    write_chats(folder)
    chat = conversations.write_bundle(folder / "bundles", folder)
    save(folder / "conversation.json", list(conversations.answers(chat)))
    save(folder / "lookahead-texts.json", list(lookups.texts(lookups.write_bundle(folder / "bundles"))))
    save(folder / "plans.json", list(hosts.plans()))
    save(folder / "caches.json", list(hosts.cache_runs()))
    onnx = {name: path for name, path in bundles.items() if not name.startswith("xnnpack")}
    prompt_caches.write(folder / "prompt-caches", onnx)
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
    recipes["half"] = load_recipe("onnx-int4-kv16").fast()  # the weights do not matter
    recipes |= {"xnnpack": load_recipe("xnnpack-int4"), "xnnpack_float": load_recipe("xnnpack-fp32")}
    recipes |= {
        f"xnnpack_{name}": load_recipe(f"xnnpack-int4-{kv}").fast()
        for name, kv in (("half", "kv16"), ("int8", "kv8"))
    }
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


# -- whole generations


DRAWN = SamplingOptions(temperature=0.8, top_k=40, top_p=0.9)
PENALISED = SamplingOptions(repetition_penalty=1.3, no_repeat_ngram_size=3, suppress_tokens=(300, 301))
PENALISED_AND_DRAWN = replace(PENALISED, temperature=1.1, min_p=0.03)


def generations(name: str, bundle: Path) -> Iterator[dict[str, Any]]:
    """Texts by the Python host, of a bundle that the Kotlin host runs on the same library."""
    opened = open_bundle(bundle)
    tokenizer = Tokenizer(opened.path(opened.manifest.tokenizer.file))
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
    if name in ("in_place", "xnnpack"):
        prompts += [long[:500], long]  # more than one chunk of 128
    if name == "xnnpack":
        texts = sorted((DATA / "eval-text").glob("*.txt"))
        # Beyond the shorter caches.
        prompts.append("".join(text.read_text(encoding="utf-8") for text in texts)[:2000])
    if name not in ("in_place", "append", "xnnpack"):
        prompts = prompts[:6]  # the loop is that of the others
    for index, prompt in enumerate(prompts):
        for static in (False,) if name.startswith("xnnpack") else (False, True):
            options = (SamplingOptions(), DRAWN, PENALISED, PENALISED_AND_DRAWN)[index % 4]
            yield {
                "bundle": name,
                "static": static,
                **one_generation(opened, tokenizer, prompt, options, rng.random(200).tolist(), static),
            }


def one_generation(
    bundle: Bundle,
    tokenizer: Tokenizer,
    prompt: str,
    options: SamplingOptions,
    uniforms: list[float],
    static: bool,
) -> dict[str, Any]:
    runner = open_runner(bundle, threads=1, static=static)
    sampler, given, stats = Sampler(options), iter(uniforms), GenerationStats()
    sampler._uniform = lambda: next(given)  # type: ignore[method-assign]
    ids = tokenizer.encode(prompt)
    eos = bundle.manifest.tokens.eos
    new = list(generate(runner, ids, max_new_tokens=40, eos_ids=eos, sampler=sampler, stats=stats))
    stream = tokenizer.stream(continuing=True)
    text = "".join(stream.push(token) for token in new) + stream.finish()
    chosen = {**asdict(options), "uniforms": uniforms}
    return {"prompt": prompt, "prompt_ids": ids, "ids": new, "text": text, "stop": stats.stop_reason, **chosen}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
