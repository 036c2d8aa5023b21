"""Tokens and processor seconds of scoring: the trie, plain scoring, and lm-eval's backend for transformers.

    python benchmarks/evaluation.py BUNDLE [--questions N] [--shots N]

BUNDLE is one of helium-tiny. The questions are MMLU's development questions that lie in lm-eval's wheel, so it
needs the extra `eval`; the first of them serve as examples. Everything runs in one process and on one thread, in
turn, and what is shown are ratios: seconds mean nothing elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

import helium_edge
from helium_edge.bundle import open_bundle
from helium_edge.evaluate.prompts import make_items
from helium_edge.evaluate.questions import read_questions, sample
from helium_edge.evaluate.scorer import Request, Scorer
from helium_edge.evaluate.subjects import bundle_subject
from helium_edge.evaluate.task import AskedTask, find_tasks
from helium_edge.targets.loading import open_scoring_runner
from mmlu_questions import mmlu_questions

TINY = Path(helium_edge.__file__).parent / "data" / "helium-tiny"


def pairs_of(form: Any, shots: int, questions: int, words: int) -> list[tuple[str, str]]:
    """Context and choice of each request; all questions share their examples, as those of an MMLU subject do."""
    asked, _ = find_tasks([f"mmlu:{form}"])
    task = asked[0].task.model_copy(update={"shots": shots, "header": ""})
    short = [each | {"group": ""} for each in mmlu_questions() if len(each["question"].split()) <= words]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "mmlu")
        place.mkdir()
        (place / "test.jsonl").write_text("".join(json.dumps(each) + "\n" for each in short), encoding="utf-8")
        data = read_questions(task, Path(folder))
    items = make_items(AskedTask(task, form), data, sample(data.questions, questions))
    return [pair for item in items for pair in item.pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--words", type=int, default=40, help="longest question, so that all examples fit")
    given = parser.parse_args()
    torch.set_num_threads(1)
    bundle = open_bundle(given.bundle)
    subject = bundle_subject(bundle, threads=1)
    logits = bundle.manifest.decoder_spec().logits
    from lm_eval.models.huggingface import HFLM

    hf = HFLM(
        pretrained=str(TINY), device="cpu", dtype="float32", batch_size=1, max_length=subject.scorer.cache_len,
        prefix_token_id=1,
    )  # fmt: skip
    for form in ("letters", "cloze"):
        pairs = pairs_of(form, given.shots, given.questions, given.words)
        requests = [subject.encoder.request(*pair) for pair in pairs]
        print(f"\n{form}, {given.shots} shots: {len(requests)} requests")
        trie = timed("trie", bundle, requests, logits, reuse=True)
        plain = timed("plain", bundle, requests, logits, reuse=False)
        encoded = [
            ((pair, list(each.context), list(each.choice))) for pair, each in zip(pairs, requests, strict=True)
        ]
        hf._loglikelihood_tokens(encoded[:2], disable_tqdm=True)
        start = time.process_time()
        found = np.array(hf._loglikelihood_tokens(encoded, disable_tqdm=True))[:, 0]
        seconds = time.process_time() - start
        off = np.abs(found - trie[0]).max()
        print(f"  transformers, batch 1: {len(requests) / seconds:.1f} requests a processor second")
        print(
            f"  trie to plain: {plain[1] / trie[1]:.1f} times fewer tokens, {plain[2] / trie[2]:.2f} times as fast"
        )
        print(f"  trie to transformers: {seconds / trie[2]:.2f} times as fast; largest difference {off:.1e} nats")


def timed(name: str, bundle: Any, requests: list[Request], logits: Any, *, reuse: bool) -> tuple[Any, int, float]:
    """Log-probabilities, tokens and processor seconds."""
    runner: Any = open_scoring_runner(bundle, threads=1)
    Scorer(runner, logits, reuse=reuse).score(requests[:2])
    runner.reset()
    scorer = Scorer(runner, logits, reuse=reuse)
    start = time.process_time()
    found = np.array([score.log_probability for score in scorer.score(requests)])
    seconds = time.process_time() - start
    print(f"  {name}: {scorer.counts.fed:,} tokens, {len(requests) / seconds:.1f} requests a processor second")
    return found, scorer.counts.fed, seconds


if __name__ == "__main__":
    main()
