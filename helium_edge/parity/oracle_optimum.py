"""A second oracle: optimum's stock float32 ONNX export of the same checkpoint, run by optimum.

Its graph is traced from the model of transformers by torch.onnx and run by ONNX Runtime, so nothing of ours and
none of torch's kernels is in it; the definition of the model it shares with transformers. Where the stock export
itself differs from transformers, `compare_oracles` says so, and a difference to it then proves nothing.

Source: optimum-onnx 0.1.0, `optimum.exporters.onnx.main_export` and `optimum.onnxruntime.ORTModelForCausalLM`. The
only module that imports optimum, and only when an oracle is made.
"""

from __future__ import annotations

import errno
import importlib.metadata
import math
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from helium_edge.documents import first_line
from helium_edge.errors import CheckpointError, MissingDependencyError, ParityError, ResourceError, UsageError
from helium_edge.parity.reference import silent_transformers
from helium_edge.parity.spelling import folder_for_transformers
from helium_edge.runtime.quiet import quiet
from helium_edge.runtime.runner import Logits, Runner, check_tokens
from helium_edge.signature import LogitsMode

if TYPE_CHECKING:
    from helium_edge.checkpoint import Checkpoint

TOLERANCE = 1e-3
"""Largest max |delta logit| / rms(logit) of a position at which two float32 runs count as equal: the gate of the
recipe `onnx-fp32`. The example of docs/optimum.md has 1e-5."""

TASK = "text-generation-with-past"
DECODE_STEPS = 16
"""Tokens at the end of a window that are fed one by one, so that the cache of both oracles is part of what is
compared."""

_DISK_SHARE = 2.5
"""Disk that the export takes while it runs, in units of the float32 weights: above 2 GB it writes each tensor to a
file of its own, then all of them once more into one."""


def require_optimum() -> None:
    """Refuse early, before any work is done, when the oracle could not be made.

    Raises:
        MissingDependencyError: optimum-onnx is not installed, or not with a transformers that it takes.
    """
    missing = MissingDependencyError("optimum-onnx", extra="optimum", purpose="the oracle optimum")
    if sys.modules.get("optimum.onnxruntime", True) is None:
        raise missing
    try:
        # `optimum` is a namespace that we have a file in ourselves: a package that can be found tells nothing.
        importlib.metadata.version("optimum-onnx")
        found = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError as error:
        raise missing from error
    if int(found.partition(".")[0]) >= 5:
        raise MissingDependencyError(
            f"transformers 4.57 (optimum-onnx takes no {found})", extra="optimum", purpose="the oracle optimum"
        )


def optimum_runner(
    checkpoint: Checkpoint, cache_len: int, *, logits: LogitsMode = "all", threads: int = 0
) -> OptimumRunner:
    """Export a checkpoint with optimum, in float32 and otherwise as `optimum-cli export onnx` does, and load it.

    The export is written to the folder for temporary files (`TMPDIR`) and deleted before this returns; the session
    keeps what it needs of it.

    Args:
        checkpoint: The original; nothing is fetched, its folder is complete.
        cache_len: S; more tokens are refused, as by the graphs.
        logits: What `prefill` returns: a row per token, or the last row only.
        threads: Of one operator; 0 lets ONNX Runtime choose.

    Raises:
        MissingDependencyError: optimum is not installed, or not with a transformers that it takes.
        CheckpointError: optimum cannot export it, or ONNX Runtime cannot load what it wrote.
        ResourceError: Not enough memory or disk.
    """
    require_optimum()
    try:
        with quiet(descriptors=False):
            import transformers
            from onnxruntime import SessionOptions
            from optimum.exporters.onnx import main_export
            from optimum.onnxruntime import ORTModelForCausalLM
    except ImportError as error:
        raise MissingDependencyError("optimum-onnx", extra="optimum", purpose="the oracle optimum") from error
    options = SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory(prefix="helium-edge-optimum-") as out:
        _check_disk(checkpoint, out)
        with ExitStack() as stack, _explained(checkpoint):
            stack.enter_context(quiet(descriptors=False))
            stack.enter_context(silent_transformers(transformers))
            folder = stack.enter_context(folder_for_transformers(checkpoint, transformers.__version__))
            main_export(
                str(folder),
                out,
                task=TASK,
                framework="pt",
                library_name="transformers",
                dtype="fp32",
                local_files_only=True,
                do_validation=False,  # `compare_oracles` does more: text, a cache, many positions
            )
            model = ORTModelForCausalLM.from_pretrained(
                out, session_options=options, use_io_binding=False, local_files_only=True
            )
    return OptimumRunner(model, checkpoint.config.vocab_size, cache_len, logits)


@contextmanager
def _explained(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn what optimum raises inside, which is whatever its parts raise, into an error of ours."""
    try:
        yield
    except MemoryError as error:
        raise ResourceError(
            f"{checkpoint.source}: not enough memory for optimum's float32 export",
            hint=f"it takes several times {_float32_bytes(checkpoint) / 1e9:.1f} GB",
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        version = importlib.metadata.version("optimum-onnx")
        raise CheckpointError(
            f"{checkpoint.source}: optimum-onnx {version} cannot export it: {first_line(error)}"
        ) from error


def _float32_bytes(checkpoint: Checkpoint) -> int:
    return 4 * checkpoint.config.num_parameters


def _check_disk(checkpoint: Checkpoint, folder: str) -> None:
    needed, free = _DISK_SHARE * _float32_bytes(checkpoint), shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"{checkpoint.source}: optimum's float32 export needs {needed / 1e9:.1f} GB of temporary files, "
            f"{free / 1e9:.1f} GB are free",
            hint="free some, or set TMPDIR to another disk",
        )


class OptimumRunner:
    """`ORTModelForCausalLM` behind the `Runner` protocol; its cache grows, `cache_len` only limits it.

    Args:
        model: An `ORTModelForCausalLM` with a cache.
        vocab_size: V.
        cache_len: S.
        logits: `all`: `prefill` returns (len(tokens), V); `last`: (1, V). May be changed at any time.
    """

    def __init__(self, model: Any, vocab_size: int, cache_len: int, logits: LogitsMode) -> None:
        self.vocab_size = vocab_size
        self.cache_len = cache_len
        self.logits: LogitsMode = logits
        self._model = model
        self.reset()

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self._position

    def reset(self) -> None:
        """Start a new conversation with an empty cache."""
        self._cache: Any = None
        self._position = 0

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Append tokens; returns (len(tokens), V), or (1, V) when `logits` is `last`."""
        rows = self._step(tokens)
        return rows if self.logits == "all" else rows[-1:].copy()

    def decode(self, token: int) -> Logits:
        """Append one token; returns (V,)."""
        row: Logits = self._step([token])[0]
        return row

    @torch.inference_mode()
    def _step(self, tokens: Sequence[int]) -> Logits:
        check_tokens(tokens, position=self._position, cache_len=self.cache_len, vocab_size=self.vocab_size)
        length = self._position + len(tokens)
        output = self._model(
            input_ids=torch.tensor([list(tokens)], dtype=torch.int64),
            attention_mask=torch.ones(1, length, dtype=torch.int64),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache, self._position = output.past_key_values, length
        rows: Logits = output.logits[0].numpy()
        return rows


@dataclass(frozen=True)
class OracleAgreement:
    """How far a second oracle is from the first, on the same tokens.

    Attributes:
        tokens: Positions compared.
        max_logit_error: Largest over positions of max |delta logit| / rms(logit); infinite where one is not
            finite.
        top1: Share of positions with the same most likely token.
        tolerance: The error that float32 rounding may cause.
        first_window: Index of the first window with a position above it, None when there is none.
        first_position: That position.
    """

    tokens: int
    max_logit_error: float
    top1: float
    tolerance: float
    first_window: int | None
    first_position: int | None

    @property
    def agrees(self) -> bool:
        """Whether every position is within the tolerance."""
        return self.first_position is None

    def to_json(self) -> dict[str, Any]:
        """The fields and `agrees`; an infinite error is None, which JSON has a word for."""
        error = self.max_logit_error if math.isfinite(self.max_logit_error) else None
        return {**asdict(self), "max_logit_error": error, "agrees": self.agrees}


class AgreementMeter:
    """Reduces pairs of logits rows to an `OracleAgreement` as they come; keeps none."""

    def __init__(self, tolerance: float = TOLERANCE) -> None:
        self._tolerance = tolerance
        self._tokens = self._agreed = 0
        self._worst = 0.0
        self._first: tuple[int, int] | None = None

    def add(self, window: int, start: int, first: Logits, second: Logits) -> None:
        """Take in consecutive positions of a window, windows and positions in ascending order.

        Args:
            window: Index of the window.
            start: Position of the first row.
            first: (R, V) of the first oracle, finite.
            second: (R, V) of the second.

        Raises:
            ParityError: Shapes differ.
        """
        if first.shape != second.shape:
            raise ParityError(f"logits of two oracles cannot be compared: {first.shape} and {second.shape}")
        wide = first.astype(np.float64)
        rms = np.sqrt(np.square(wide).mean(axis=1))
        with np.errstate(invalid="ignore"):
            delta = np.abs(second - wide).max(axis=1)
        errors = np.where(np.isfinite(delta), delta, np.inf)
        errors = np.divide(errors, rms, out=np.where(errors > 0, np.inf, 0.0), where=rms > 0)
        self._tokens += len(errors)
        self._agreed += int((first.argmax(axis=1) == second.argmax(axis=1)).sum())
        self._worst = max(self._worst, float(errors.max(initial=0.0)))
        if self._first is None and (errors > self._tolerance).any():
            self._first = (window, start + int((errors > self._tolerance).argmax()))

    def result(self) -> OracleAgreement:
        """The agreement over what was taken in.

        Raises:
            UsageError: Nothing was.
        """
        if not self._tokens:
            raise UsageError("no positions to compare two oracles on")
        window, position = (None, None) if self._first is None else self._first
        share = self._agreed / self._tokens
        return OracleAgreement(self._tokens, self._worst, share, self._tolerance, window, position)


def compare_oracles(
    reference: Runner, oracle: Runner, windows: Iterable[Sequence[int]], *, tolerance: float = TOLERANCE
) -> OracleAgreement:
    """Run two oracles over the same tokens: most of a window in one call, its last tokens one by one.

    Args:
        reference: transformers; its `prefill` returns a row per token.
        oracle: The other one; likewise.
        windows: Token ids, each sequence a conversation of its own.
        tolerance: See `OracleAgreement`.

    Raises:
        UsageError: No tokens.
        ParityError: The two have different vocabularies, or a `prefill` returns the last row only.
        CacheFullError: A window does not fit a cache.
    """
    if reference.vocab_size != oracle.vocab_size:
        raise ParityError(f"two oracles with vocabularies of {reference.vocab_size} and {oracle.vocab_size}")
    meter = AgreementMeter(tolerance)
    for index, tokens in enumerate(windows):
        split = max(1, len(tokens) - DECODE_STEPS)
        rows = []
        for runner in (reference, oracle):
            runner.reset()
            steps = [runner.prefill(tokens[:split]), *(runner.decode(token)[None] for token in tokens[split:])]
            rows.append(np.concatenate(steps))
        if len(rows[0]) != len(tokens):
            raise ParityError(
                f"an oracle returns {len(rows[0])} rows for {len(tokens)} tokens; a row each is needed"
            )
        meter.add(index, 0, *rows)
    return meter.result()
