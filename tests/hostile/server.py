"""A process that has everything imported and runs one command line per fork, so that a case costs milliseconds.

Reads requests, a line of JSON each, and answers with a line each: how the command ended, what it printed, and what
it took. Only what the command itself takes is measured, not the start of an interpreter.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def warm_up() -> None:
    """Import what commands import lazily, by running them once."""
    import helium_edge.cli.main
    import numpy as np
    import onnxruntime
    import torch

    import helium_edge.bundle.onnx_check
    import helium_edge.exporting
    from helium_edge import first_run
    from tests.helpers.checkpoints import make_checkpoint

    first_run._child = forked
    torch.set_num_threads(1)
    assert np
    assert onnxruntime
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, out = make_checkpoint(Path(folder) / "model"), f"{folder}/out"
        shapes = ["--prefill-len", "8", "--cache-len", "32", "--no-parity"]
        for arguments in (
            ["export", str(checkpoint), "--recipe", "onnx-int4", *shapes, "-o", out],
            ["verify", out],
            ["generate", out, "a", "--max-new-tokens", "2"],
            ["inspect", str(checkpoint)],
        ):
            if helium_edge.cli.main.run(arguments) != 0:
                raise SystemExit(f"warm-up failed: {arguments}")


def forked(arguments: list[str], seconds: float) -> subprocess.CompletedProcess[bytes]:
    """As `first_run._child`, without the seconds that an interpreter takes to start."""
    from helium_edge import first_run

    del seconds  # the limit of processor time ends it
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        first_run.main(arguments)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        answer = answers.read()
    _, status = os.waitpid(pid, 0)
    return subprocess.CompletedProcess(arguments, os.waitstatus_to_exitcode(status), answer)


def child(request: dict[str, Any], answer: int, outputs: tuple[int, int]) -> None:
    """Run the command and write the figures; never returns."""
    from helium_edge.cli.main import run

    os.chdir(request["cwd"])
    os.environ.update(request.get("environment", {}))
    if "umask" in request:
        os.umask(request["umask"])
    if "file_size" in request:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], most))
    if "open_files" in request:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (request["open_files"], most))
    for number, descriptor in ((1, outputs[0]), (2, outputs[1])):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # The old objects remember that they stood for a file.
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    write, operations = os.write, None
    if "fault" in request:
        from tests.hostile.operations import Operations

        operations = Operations(**request["fault"])
    base, started = resident(), time.process_time()
    code = run(request["argv"])
    sys.stderr.flush()
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    below = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {"code": code, "cpu_seconds": seconds, "base_bytes": base, "peak_bytes": peak}
    result |= {"child_seconds": below.ru_utime + below.ru_stime, "child_peak_bytes": below.ru_maxrss * 1024}
    if operations is not None:
        result |= {"operations": operations.count, "renames": operations.renames, "struck": operations.struck}
    write(answer, json.dumps(result).encode())
    os._exit(0)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    reader, writer = os.pipe()
    # Pipes and not files, which a limit on the size of files would cut.
    pipes = [os.pipe(), os.pipe()]
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            child(request, writer, (pipes[0][1], pipes[1][1]))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)
    for descriptor in (writer, pipes[0][1], pipes[1][1]):
        os.close(descriptor)
    timed_out = not select.select([reader], [], [], request["limit_seconds"])[0]
    if timed_out:
        os.kill(pid, signal.SIGKILL)
    data = os.read(reader, 1 << 16)
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    found = json.loads(data) if data else {"code": -1, "cpu_seconds": 0.0, "base_bytes": 1, "peak_bytes": 0}
    texts = [os.fdopen(pipe, "rb").read().decode("utf-8", "backslashreplace") for pipe, _ in pipes]
    return {**found, "signal": killed, "timed_out": timed_out, "stdout": texts[0], "stderr": texts[1]}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the warm-up prints is no answer
    warm_up()
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
