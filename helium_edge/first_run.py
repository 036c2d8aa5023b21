"""A bundle of somebody else runs for the first time in a process of its own, with limits.

Runtimes are written in C++ and trust what they load: one changed word of a program, with checksums made anew,
ends the process, or keeps it for ever. `ensure_runs` lets a child meet that, which runs every graph once, and
remembers by the hash of the manifest which bundles came through; the process of the user only loads those.

    python -m helium_edge.first_run BUNDLE      the child
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from helium_edge import errors
from helium_edge.bundle import Bundle, manifest_hash, open_bundle
from helium_edge.documents import first_line
from helium_edge.errors import BundleError, HeliumEdgeError, MissingDependencyError
from helium_edge.generation import open_model
from helium_edge.language_model import LanguageModel
from helium_edge.runtime.runner import SeekableRunner
from helium_edge.user_cache import cache_folder

CPU_SECONDS, CPU_SECONDS_PER_GB = 40, 60
"""What a run may take: start and all graphs of a small bundle, and of each gigabyte."""
MEMORY, FACTOR = 5 << 28, 3
"""Bytes that it may allocate: interpreter and runtime, and so often the files and the cache."""


def ensure_runs(bundle: Bundle, *, unverified: bool = False) -> None:
    """Run a bundle in a process of its own, unless it has run on this machine before.

    Args:
        bundle: The bundle.
        unverified: Its files were not held against the manifest, so that having run before says nothing.

    Raises:
        BundleError: It ended the process, or ran out of time; or as loading it does.
        HeliumEdgeError: As loading it does.
    """
    mark = _mark(bundle)
    if mark.exists() and not unverified:
        return
    answer = _run_apart(bundle)
    if answer:
        kind = getattr(errors, answer["type"], HeliumEdgeError)
        error: HeliumEdgeError = kind.__new__(kind)
        HeliumEdgeError.__init__(error, answer["message"], hint=answer["hint"])
        raise error
    if not unverified:
        remember(bundle)


def remember(bundle: Bundle) -> None:
    """Note that a bundle has run here; it is published, and its files are those of the manifest."""
    mark = _mark(bundle)
    with suppress(OSError):  # else it is tried again
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _mark(bundle: Bundle) -> Path:
    runtime = bundle.manifest.runtime
    try:
        version = metadata.version(runtime)
    except metadata.PackageNotFoundError:
        version = "none"
    return cache_folder() / "ran" / f"{manifest_hash(bundle)[:32]}-{runtime}-{version}"


def _run_apart(bundle: Bundle) -> dict[str, str]:
    """What the child answered: nothing, or an error."""
    nbytes = sum(entry.bytes for entry in bundle.manifest.files)
    cache = bundle.manifest.cache
    memory = MEMORY + FACTOR * (nbytes + (cache.to_spec().total_bytes if cache is not None else 0))
    seconds = CPU_SECONDS + CPU_SECONDS_PER_GB * nbytes // 10**9
    try:
        done = _child([str(bundle.folder), str(seconds), str(memory)], 20 * seconds)
    except subprocess.TimeoutExpired as error:
        raise _bad(bundle, "does not come to an end") from error
    if done.returncode == -signal.SIGXCPU:
        raise _bad(bundle, f"takes more than {seconds} s of processor time")
    if done.returncode == -signal.SIGKILL:
        raise errors.ResourceError(
            f"{bundle.folder.name}: the system killed the process that ran it: memory ran out",
            hint="close other programs, or export with a smaller --cache-len",
        )
    if done.returncode < 0:
        raise _bad(bundle, f"ends the process that runs it by {signal.Signals(-done.returncode).name}")
    try:
        answer: dict[str, str] = json.loads(done.stdout)
    except ValueError as error:
        raise _bad(bundle, f"ends the process that runs it with code {done.returncode}") from error
    return answer


def _child(arguments: list[str], seconds: float) -> subprocess.CompletedProcess[bytes]:
    """Run `main` in a new process and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", __name__, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        timeout=seconds,
        check=False,
    )


def _bad(bundle: Bundle, what: str) -> BundleError:
    hint = "it is damaged, or made to do harm: copy or export it again"
    return BundleError(f"{bundle.folder.name}: {what}", hint=hint)


def run_every_graph(bundle: Bundle) -> None:
    """Run each graph of a bundle once, with any token.

    Raises:
        HeliumEdgeError: As loading or running does.
    """
    # Where no graph serves both phases all of them are static, and a second time would be the same graphs.
    both = any(graph.phase == "any" for graph in bundle.manifest.graphs)
    for static in (False, True) if both else (False,):
        _run_graphs(bundle, static=static)


def _run_graphs(bundle: Bundle, *, static: bool) -> None:
    """One pass; what it loads is gone when it returns."""
    with open_model(bundle, static=static) as model:
        if not isinstance(model, LanguageModel):
            model.runner.run([0])
            return
        runner, manifest = model.runner, bundle.manifest
        for width in manifest.prefill_widths():
            runner.reset()
            runner.prefill([0] * min(width, runner.cache_len - 1))
            runner.decode(0)
        if isinstance(runner, SeekableRunner):
            for graph in manifest.graphs:
                if graph.phase == "prefill" and graph.tokens is not None:
                    runner.seek((graph.cache_len or manifest.cache_len) - graph.tokens)
                    runner.prefill([0] * graph.tokens)
            for slots in sorted({graph.cache_len or manifest.cache_len for graph in manifest.graphs}):
                runner.seek(slots - 1)
                runner.decode(0)


def _limit(seconds: int, memory: int) -> None:
    """No core file, and bounds that hold for native code too; a system without them has only the wall clock."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def main(arguments: list[str]) -> None:
    """Run a bundle, and answer with a JSON object: empty, or the error."""
    folder, seconds, memory = arguments
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    _limit(int(seconds), int(memory))
    answer: dict[str, Any] = {}
    try:
        bundle = open_bundle(Path(folder), unverified=True)
        run_every_graph(bundle)
    except MissingDependencyError:
        pass  # the caller meets it as well, and has all of its words
    except HeliumEdgeError as error:
        answer = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
    except MemoryError:
        answer = {
            "type": "ResourceError",
            "message": f"{Path(folder).name}: needs more memory than it may",
            "hint": "",
        }
    except Exception as error:  # whatever a binding makes of a damaged program
        what = f"{Path(folder).name}: cannot be run: {type(error).__name__}: {first_line(error)}"
        answer = {"type": "BundleError", "message": what, "hint": "copy or export it again"}
    json.dump(answer, answers)
    answers.close()
    os._exit(0)  # what a damaged program has left in the runtime need not be taken down


if __name__ == "__main__":
    main(sys.argv[1:])
