"""Prompt lookup decoding where answers repeat the prompt, and where they do not.

    python benchmarks/lookahead.py folder

helium-tiny is trained for some minutes to repeat a text (`--steps`), which it does not do by itself; its export is
asked for repeats of sentences that it has not seen, and helium-tiny's own export for continuations of the same.
Both are greedy, with and without guesses of up to 7 tokens, in turns. Printed: tokens a call, texts that differ,
and how many times as fast it is, on this processor; what is in the folder already is used again. Needs the extra
`reference`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import helium_edge
from helium_edge import LanguageModel
from helium_edge.bench.machine import processor
from helium_edge.texts import LANGUAGES, evaluation_text
from tiny_chat import TINY

BATCH, LENGTH, PEAK_RATE = 8, 96, 1.5e-3
REPEAT = "\n"
"""Between a text and its repeat."""
NEW_TOKENS = 40


def train(folder: Path, steps: int) -> None:
    """Write a checkpoint that repeats what it is told; the folder must not exist."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    rng = random.Random(0)
    model: Any = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(TINY)
    texts = Path(TINY).parent / "calibration-text"
    words = [(texts / f"{language}.txt").read_text(encoding="utf-8").split() for language in LANGUAGES]
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 20) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
    )
    start = time.perf_counter()
    for step in range(steps):
        rows = []
        for _ in range(BATCH):
            # Words of any order: what comes next can be known from the text alone.
            text = " ".join(rng.sample(rng.choice(words), rng.randint(4, 24)))
            ids = tokenizer(f"{text}{REPEAT}{text}").input_ids[:LENGTH]
            rows.append([*ids, *[3] * (LENGTH - len(ids))])
        ids = torch.tensor(rows)
        loss = model(input_ids=ids, labels=ids.masked_fill(ids == 3, -100), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)


def prompts(repeating: bool, count: int) -> list[str]:
    """Sentences of the evaluation text, of each language in turn."""
    found = []
    for number in range(count):
        words = evaluation_text(LANGUAGES[number % len(LANGUAGES)]).split()
        start = 13 * number % (len(words) - 24)
        text = " ".join(words[start : start + 8 + number % 16])
        found.append(f"{text}{REPEAT}" if repeating else text)
    return found


def compare(bundle: Path, asked: Sequence[str], threads: int) -> dict[str, float]:
    """Generate with and without guesses, in turns."""
    plain, ahead = (helium_edge.load(bundle, trusted=True, threads=threads, rows=rows) for rows in (False, True))
    assert isinstance(plain, LanguageModel)
    assert isinstance(ahead, LanguageModel)
    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": NEW_TOKENS}
    tokens = calls = differing = 0
    ratios = []
    for number, prompt in enumerate(asked):
        seconds, ids = {}, {}
        for name in ("plain", "ahead") if number % 2 else ("ahead", "plain"):
            model, guesses = (plain, {}) if name == "plain" else (ahead, {"lookahead": 7})
            generation = model.stream(prompt, **options, **guesses)
            list(generation)
            ids[name], seconds[name] = generation.ids, generation.stats.decode_seconds
            if generation.ahead is not None:
                tokens += generation.ahead.calls + generation.ahead.accepted
                calls += generation.ahead.calls
        differing += ids["plain"] != ids["ahead"]
        if seconds["ahead"] > 0:
            ratios.append(seconds["plain"] / seconds["ahead"])
    return {
        "tokens a call": tokens / calls,
        "texts that differ": differing,
        "times as fast": statistics.median(ratios),
        "least": min(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", default="onnx-int4")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    chosen.folder.mkdir(exist_ok=True)
    if not (chosen.folder / "repeating").is_dir():
        train(chosen.folder / "repeating", chosen.steps)
    print(f"{processor()}, {chosen.threads} threads, {chosen.recipe}, {chosen.prompts} prompts")
    for title, source, repeating in (
        ("repeats", chosen.folder / "repeating", True),
        ("continuations", "helium-tiny", False),
    ):
        out = chosen.folder / f"{title}-{chosen.recipe}"
        if not out.is_dir():
            helium_edge.export(source, recipe=chosen.recipe, out=out, parity=False, run=False)
        found = compare(out, prompts(repeating, chosen.prompts), chosen.threads)
        print(title, json.dumps({name: round(value, 3) for name, value in found.items()}))


if __name__ == "__main__":
    main()
