"""Count what operators of our bundles execute on ARM64: instructions and bytes, on an emulated processor.

    python benchmarks/arm64_instructions.py --update
    python benchmarks/arm64_instructions.py --cpu cortex-a76 --runtime onnx
    python benchmarks/arm64_instructions.py --whole
    python benchmarks/arm64_instructions.py --runtime llama --update

Runs the aarch64 wheels of the installed runtimes over single operators as our targets emit them, at the width of
Helium 2B, and fits instructions and bytes a weight, a token of the cache and a call. Without --update the result
is held against the committed table (helium_edge/bench/arm64_costs.json): a figure that is off by more than 3 %
ends the command with exit code 4. With it the table is written, and benchmarks/results/arm64.md is made from it.
--whole counts bundles of two layers as they are, a decode step and a prefill each, and ends with exit code 4
where the sum of the operators misses one by more than 5 %. --runtime llama counts the same operators of
llama.cpp, for the comparison; ggml is compiled for it from llama-cpp-python's sources, with cmake, in minutes.
docs/performance.md says what follows. Needs qemu-user, qemu-user-static and g++-aarch64-linux-gnu of Debian.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from arm64.counting import count_jobs, find_counter
from arm64.fit import Table, differences, fit
from arm64.runtimes import RUNTIMES
from arm64.tables import write_results
from arm64.whole import Whole, count_whole
from helium_edge.bench.phones import COSTS
from helium_edge.errors import HeliumEdgeError, ParityError
from helium_edge.schemas import significant

CPUS = ("cortex-a76", "i8mm")
"""With the dot product alone, and with matrix products of int8."""
TOLERANCE = 0.03
WHOLE_TOLERANCE = 0.05


def count(runtimes: Sequence[str], cpus: Sequence[str]) -> Table:
    """The fitted costs of each runtime on each processor."""
    tools, found = find_counter(), Table({}, {})
    for runtime in runtimes:
        with tempfile.TemporaryDirectory(prefix="helium-edge-arm64-") as name:
            folder = Path(name)
            jobs = list(RUNTIMES[runtime].jobs(folder))
            for cpu in cpus:
                print(f"{runtime} on {cpu}: {len(jobs)} operators", file=sys.stderr)
                library = RUNTIMES[runtime].library(cpu)
                found.runtimes[runtime] = f"{library.package} {library.version}"
                counts = count_jobs(tools, library, cpu, folder, [each.job for each in jobs])
                found.costs.setdefault(runtime, {})[cpu] = fit(jobs, counts)
    return found


def whole(runtimes: Sequence[str], cpus: Sequence[str]) -> list[Whole]:
    """Print what whole bundles execute beside the sum of their operators.

    Returns:
        Those of which the sum is off.
    """
    tools, off = find_counter(), []
    print(f"{'':18} {'':10} {'':7} {'counted':>21}   {'the sum':>21}   {'off':>6}")
    for runtime in runtimes:
        for cpu in cpus:
            library = RUNTIMES[runtime].library(cpu)
            with tempfile.TemporaryDirectory(prefix="helium-edge-arm64-") as name:
                for each in count_whole(tools, library, runtime, cpu, Path(name)):
                    counted = f"{each.count.instructions / 1e6:,.1f} M, {each.count.bytes_read / 1e6:,.0f} MB"
                    total = f"{each.instructions / 1e6:,.1f} M, {each.bytes / 1e6:,.0f} MB"
                    line = (
                        f"{each.recipe:18} {cpu:10} {each.phase:7} {counted:>21}   {total:>21}   {each.off:+6.1%}"
                    )
                    print(line, flush=True)
                    off += [each] if abs(each.off) > WHOLE_TOLERANCE else []
    return off


def rounded(data: Any) -> Any:
    """The same with four significant digits: counts repeat to one or two in a hundred."""
    if isinstance(data, dict):
        return {key: rounded(value) for key, value in data.items()}
    return significant(data, 4) if isinstance(data, float | int) else data


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=sorted(RUNTIMES), action="append", help="by default ours")
    parser.add_argument("--cpu", choices=CPUS, action="append", help="by default both")
    parser.add_argument("--update", action="store_true", help="write the table instead of comparing with it")
    parser.add_argument("--whole", action="store_true", help="count bundles of two layers instead")
    given = parser.parse_args(arguments)
    runtimes = given.runtime or [name for name, runtime in RUNTIMES.items() if runtime.ours]
    if given.whole and (others := [name for name in runtimes if not RUNTIMES[name].ours]):
        parser.error(f"--whole: bundles run on no {others[0]}")
    try:
        if given.whole:
            missed = whole(runtimes, given.cpu or CPUS)
            if missed:
                raise ParityError(f"the sum of the operators misses {len(missed)} calls by more than 5 %")
            return 0
        found = count(runtimes, given.cpu or CPUS)
        if given.update:
            before = Table(**json.loads(COSTS.read_text(encoding="utf-8"))) if COSTS.is_file() else Table({}, {})
            found = Table({**before.runtimes, **found.runtimes}, {**before.costs, **found.costs})
            found = Table(**rounded(asdict(found)))
            COSTS.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
            print(f"written: {', '.join(str(path) for path in (COSTS, *write_results(found)))}")
            return 0
        known = Table(**json.loads(COSTS.read_text(encoding="utf-8")))
        off = list(differences(known, found, TOLERANCE))
        print("\n".join([*off, f"{len(off)} figures are off by more than {100 * TOLERANCE:.0f} %"]))
        if off:
            raise ParityError("the counts are not those of the committed table", hint="--update, and say why")
    except HeliumEdgeError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
