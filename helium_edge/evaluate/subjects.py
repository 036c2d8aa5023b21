"""The models that are asked: a bundle as it is shipped, and the original that it was exported from.

Both read the same tokens through the same tokenizer, cut to the same length of the cache. A model is loaded when
its first answer is missing, and one at a time is in memory.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from helium_edge.bundle import Bundle, manifest_hash
from helium_edge.errors import BundleError
from helium_edge.evaluate.encoding import Encoder
from helium_edge.evaluate.metrics import Answer
from helium_edge.evaluate.prompts import Item
from helium_edge.evaluate.scorer import Request, Scorer
from helium_edge.evaluate.until import continue_all
from helium_edge.parity.original import original_of
from helium_edge.parity.reference import reference_runner, require_reference
from helium_edge.runtime.runner import RewindableRunner
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.targets.loading import open_scoring_runner

_FEATURES = re.compile(r"\b(avx2|avx512f|avx512_vnni|avx_vnni|amx_int8|asimddp|i8mm|sve)\b")
"""Instructions by which runtimes choose kernels that round otherwise."""


@dataclass
class Subject:
    """A model that answers questions.

    Attributes:
        name: For people.
        identity: What decides about its answers, besides the questions; plain JSON data.
        encoder: Makes requests of texts.
        tokenizer: Makes texts of ids.
        eos: Ids that end a text.
        open: Loads it.
    """

    name: str
    identity: dict[str, Any]
    encoder: Encoder
    tokenizer: Tokenizer
    eos: frozenset[int]
    open: Callable[[], Scorer]
    _scorer: Scorer | None = field(default=None, repr=False)

    @property
    def scorer(self) -> Scorer:
        """The loaded model."""
        if self._scorer is None:
            self._scorer = self.open()
        return self._scorer

    @property
    def counts(self) -> dict[str, int]:
        """Requests and tokens so far; nothing ran of a model that was not loaded."""
        found = {"requests": 0, "asked": 0, "fed": 0, "generated": 0}
        if self._scorer is not None:
            counts = self._scorer.counts
            found = {name: getattr(counts, name) for name in found}
        return found | {"truncated": self.encoder.counts.truncated, "merged": self.encoder.counts.merged}

    def close(self) -> None:
        """Give its memory back."""
        if self._scorer is not None:
            self._scorer.release()

    def requests(self, item: Item) -> list[Request]:
        """Requests of a question with choices."""
        return [self.encoder.request(context, choice) for context, choice in item.pairs]

    def answer(self, items: Sequence[Item], on_item: Callable[[], None]) -> list[Answer]:
        """Answers to questions of one task, in their order."""
        jobs = [item.continuation for item in items if item.continuation is not None]
        if jobs:
            texts = continue_all(self.scorer, self.encoder, self.tokenizer, self.eos, jobs, on_item)
            return [Answer(text=text) for text in texts]
        requests = [self.requests(item) for item in items]
        scores = iter(self.scorer.score([request for found in requests for request in found]))
        answers = [Answer(tuple(next(scores) for _ in found)) for found in requests]
        for _ in items:
            on_item()
        return answers


def bundle_subject(bundle: Bundle, *, threads: int = 0) -> Subject:
    """The model of a bundle.

    Raises:
        BundleError: It is no language model, or its runner cannot go back.
    """
    manifest = bundle.manifest
    spec = manifest.decoder_spec()

    def load() -> Scorer:
        runner = open_scoring_runner(bundle, threads=threads)
        if not isinstance(runner, RewindableRunner):
            raise BundleError(f"{bundle.folder.name}: its runner cannot go back in its cache")
        return Scorer(runner, spec.logits, block=max(1, manifest.prefill_len))

    identity = {
        "model": "bundle",
        "manifest": manifest_hash(bundle),
        "runtime": _version(manifest.runtime),
        "isa": isa(),
    }
    return Subject(bundle.folder.name, identity, *_texts(bundle), load)


def original_subject(bundle: Bundle, checkpoint: str | None, *, threads: int = 0) -> Subject:
    """The original of a bundle on transformers, in float32; nothing is opened before it is loaded.

    Args:
        bundle: Tells which checkpoint it is, how long the cache is, and how texts become tokens.
        checkpoint: Where it is; None is where the bundle says it came from.
        threads: Threads of torch, in the whole process; 0 leaves them as they are.
    """
    manifest = bundle.manifest
    spec = manifest.decoder_spec()

    def load() -> Scorer:
        require_reference()
        if threads:
            torch.set_num_threads(threads)
        original = original_of(manifest, checkpoint)
        return Scorer(reference_runner(original, spec.cache.cache_len, logits="last"), "last")

    files = json.dumps(manifest.source.files, sort_keys=True)
    identity = {
        "model": "original",
        "files": hashlib.sha256(files.encode()).hexdigest(),
        "tokenizer": _tokenizer_sha256(bundle),
        "cache_len": spec.cache.cache_len,
        "runtime": f"{_version('transformers')}, {_version('torch')}, float32",
        "isa": isa(),
    }
    return Subject(manifest.source.checkpoint, identity, *_texts(bundle), load)


def isa() -> str:
    """Processor architecture, and what of it kernels are chosen by."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return " ".join([platform.machine(), *sorted(set(_FEATURES.findall(flags)))])


def _texts(bundle: Bundle) -> tuple[Encoder, Tokenizer, frozenset[int]]:
    manifest = bundle.manifest
    tokenizer = Tokenizer(bundle.path(manifest.tokenizer.file))
    bos = manifest.tokens.bos if manifest.tokens.add_bos else None
    encoder = Encoder(tokenizer, bos, manifest.decoder_spec().cache.cache_len)
    return encoder, tokenizer, frozenset(manifest.tokens.eos)


def _tokenizer_sha256(bundle: Bundle) -> str:
    path = bundle.path(bundle.manifest.tokenizer.file)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} none"
