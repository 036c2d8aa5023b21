"""Run a bundle on an emulated ARM64 processor, with the kernels of phones, and compare it with this machine.

    python benchmarks/arm64_parity.py tiny
    python benchmarks/arm64_parity.py tiny --cpu cortex-a53 --tokens 100 --json

docs/arm64.md has what that needs and what is allowed. Exit codes are those of helium-edge: 4 where a call is off
by more, 5 where a program or library is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from arm64 import CPUS, DEFAULT_CPU, DEFAULT_TOKENS, Arm64Report, check_arm64
from helium_edge.errors import HeliumEdgeError, ParityError


class Lines:
    """Prints the name of each stage."""

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:  # noqa: ARG002
        print(f"{name} ...", file=sys.stderr)

    def advance(self, amount: int = 1, note: str = "") -> None:
        pass

    def tell(self, line: str) -> None:
        print(line, file=sys.stderr)


def table(report: Arm64Report) -> list[str]:
    """The figures of each phase, then the gates."""
    lines = [
        f"ARM64 ({report.cpu}, {report.runtime}) against this machine",
        f"{'phase':8} {'calls':>5} {'equal':>5} {'median':>8} {'worst':>8} {'same choice':>11}",
    ]
    for phase in ("prefill", "decode"):
        part = report.only(phase)
        if part.calls:
            same = sum(call.same_choice for call in part.calls)
            lines.append(
                f"{phase:8} {len(part.calls):5} {part.agreeing:5} {part.median:8.1e} {part.worst:8.1e} {same:11}"
            )
    gates = [("worst", report.worst, report.limit), ("median", report.median, report.median_limit)]
    if len(report.of_rule):
        gates.append(("median token against the rule", report.rule_median, report.rule_limit))
    for name, found, limit in gates:
        verdict = "ok" if found <= limit else "FAILED"
        lines.append(f"{name}: {found:.2g}, at most {limit:.2g}: {verdict}")
    if report.golden is not None:
        lines.append(
            f"golden trace: {report.golden.steps} steps, near ties at {list(report.golden.near_ties)}: ok"
        )
    if report.golden_failure:
        lines.append(f"{report.golden_failure}: FAILED")
    if report.rule:
        lines.append(f"the rule: torch with the weights of the bundle, {report.rule}")
    return [*lines, "relative rms of logits and of new cache rows, by call; equal: at most 1e-05"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", type=int, default=DEFAULT_TOKENS, help="length of the conversation")
    parser.add_argument("--cpu", default=DEFAULT_CPU, help=f"the processor: {', '.join(CPUS)}")
    parser.add_argument("--unverified", action="store_true", help="run a bundle whose checksums do not match")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    try:
        report = check_arm64(
            given.bundle, tokens=given.tokens, cpu=given.cpu, unverified=given.unverified, progress=Lines()
        )
        print(json.dumps(report.to_json(), indent=1) if given.json else "\n".join(table(report)))
        if report.failures:
            raise ParityError(f"{given.bundle}: {'; '.join(report.failures)}", hint="docs/arm64.md")
    except HeliumEdgeError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
