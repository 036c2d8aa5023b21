"""helium-edge side by side with what users would pick instead: speed, memory, and the cost of exporting.

    python benchmarks/peers.py prepare CHECKPOINT FOLDER          make every peer's files, once
    python benchmarks/peers.py check                              are the peers given the same model?
    python benchmarks/peers.py run BUNDLE ... PEER ...            time them in turns
    python benchmarks/peers.py exports CHECKPOINT                 time and memory of the exporters
    python benchmarks/peers.py render                             write RESULTS.md and its chart again

Every command adds to results.json, from which RESULTS.md is written: measure in parts, in any order. A peer is
NAME:KIND=PATH; a peer that is not installed, or does not run, is named in RESULTS.md and stops nothing. README.md
beside this file tells how to install the peers.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from helium_edge.bench import machine
from helium_edge.bundle import Manifest, open_bundle
from helium_edge.checkpoint import Checkpoint, open_checkpoint
from peer import chart, results, table
from peer.agreement import Agreement
from peer.costs import CommandFailed
from peer.engine import PeerError, Shape
from peer.exporters import EXPORTERS, UNQUANTIZED, Exporter, export
from peer.llama_copy import write_llama_copy
from peer.speed import OURS, Entry, Pool, Run, cases_of, open_peer

RESULTS = Path(__file__).resolve().with_name("results.json")
PREPARED = "q4_0,q4_k_m,q8_0,genai"
COMPARED = "onnx-int4,q4_0,genai,optimum"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def add(given: argparse.Namespace, found: results.Results) -> None:
    """Merge into the file of results, and write RESULTS.md and its chart."""
    facts = machine.facts()
    memory = f"{facts['memory_bytes'] / 2**30:.0f} GiB" if facts["memory_bytes"] else "memory unknown"
    about = {
        "machine": f"{facts['processor']}, {facts['cores']} cores, {memory}, {facts['architecture']}",
        "threads": given.threads,
    }
    merged = results.merge(results.load(given.results), {**about, **found})
    results.save(merged, given.results)
    write(given.results, merged)


def write(path: Path, found: results.Results) -> None:
    picture, page = path.with_suffix(".svg"), path.with_name("RESULTS.md")
    chart.draw(found, picture)
    if "accuracy" in found:
        chart.draw_losses(found["accuracy"]["points"], picture.with_name(table.losses_chart(picture.name)))
    page.write_text(table.render(found, picture.name), encoding="utf-8")
    print(page)


def gguf(given: argparse.Namespace) -> None:
    """One GGUF file; the intermediate file in bfloat16 is removed."""
    from peer.gguf_file import QUANTIZED, quantize, write_gguf

    checkpoint = open_checkpoint(given.checkpoint)
    if given.type not in QUANTIZED:
        write_gguf(checkpoint, given.file, given.type)
        return
    wide = given.file.with_name(given.file.name + ".bf16")
    write_gguf(checkpoint, wide)
    quantize(wide, given.file, given.type, given.threads)
    wide.unlink()


def prepare(given: argparse.Namespace) -> None:
    """Make the files that `run` needs; those that are there are left as they are."""
    given.folder.mkdir(parents=True, exist_ok=True)
    wanted = [EXPORTERS[key] for key in given.exporters]
    missing = [exporter for exporter in wanted if not (given.folder / exporter.file).exists()]
    found = _export(given, missing, given.folder)
    add(given, {"models": {_described(open_checkpoint(given.checkpoint)): found}})


def exports(given: argparse.Namespace) -> None:
    """The cost of each exporter; what it makes is removed."""
    name = _described(open_checkpoint(given.checkpoint))
    for key in given.exporters:
        with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
            add(given, {"models": {name: _export(given, [EXPORTERS[key]], Path(scratch))}})


def _export(given: argparse.Namespace, exporters: Sequence[Exporter], folder: Path) -> dict[str, Any]:
    checkpoint = open_checkpoint(given.checkpoint)
    copy = folder / "as-llama"
    costs, not_run = {}, {}
    for exporter in exporters:
        if exporter.llama and not copy.exists():
            write_llama_copy(checkpoint, copy)
        say(exporter.name)
        source = copy if exporter.llama else checkpoint.folder
        try:
            cost = export(exporter, source, folder / exporter.file, given.python, given.threads)
        except CommandFailed as failed:
            say(f"not run: {failed}")
            not_run[exporter.name] = str(failed)
        else:
            say(f"{cost.cpu_seconds:.0f} s of processor time, {cost.resident_bytes / 1e9:.2f} GB at most")
            costs[exporter.name] = {**cost.to_json(), "date": today()}
    return {"exports": costs, "not_run": not_run}


def check(given: argparse.Namespace) -> None:
    """Hold every peer against our decoder, on a small checkpoint in float32."""
    checkpoint = open_checkpoint(given.checkpoint)
    agreement = Agreement(checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _export(given, list(UNQUANTIZED.values()), folder)
        entries = [Entry(found.name, kind, folder / found.file) for kind, found in UNQUANTIZED.items()]
        entries.append(Entry("transformers, bfloat16", "transformers", checkpoint.folder))
        found = {}
        for entry in entries:
            found[entry.name] = _difference(given, entry, agreement, checkpoint)
            say(f"{entry.name}: {found[entry.name]}")
    add(given, {"agreement": found})


def _difference(
    given: argparse.Namespace, entry: Entry, agreement: Agreement, checkpoint: Checkpoint
) -> float | str:
    config = checkpoint.config
    shape = Shape(given.threads, config.max_position_embeddings, config.vocab_size)
    try:
        engine = open_peer(entry, shape, given.python)
        try:
            return agreement.of(engine)
        finally:
            engine.close()
    except PeerError as error:
        return f"not run: {error}"


def run(given: argparse.Namespace) -> None:
    """Time bundles and their peers in turns; each measure is kept as soon as it is there."""
    manifest = open_bundle(given.bundle.path, unverified=True).manifest
    shape = Shape(given.threads, manifest.cache_len, manifest.model.vocab_size)
    name = _described_bundle(manifest)
    entries = [given.bundle, *given.peers]
    bundles = [entry.name for entry in entries if entry.kind == OURS]
    pool = Pool()
    for turn in range(given.loads):
        session = Run(say)
        try:
            for entry in entries if turn % 2 == 0 else reversed(entries):
                session.load(entry, shape, given.python)
            for measure, case in cases_of(given.contexts, given.prefill, given.steps).items():
                say(f"{measure}: {', '.join(session.engines)}")
                samples, others = pool.add(measure, *session.measure(case, given.repeats))
                tokens = 1 if case.phase == "decode" else case.tokens
                about = {"tokens": tokens, "loads": turn + 1, "others": others, "date": today()}
                add(given, {"models": {name: {"pairs": results.pairs_of(bundles, measure, samples, about)}}})
        finally:
            session.close()
        entries = [entry for entry in entries if entry.name not in session.not_run]
        add(given, {"models": {name: {"engines": session.facts, "not_run": session.not_run}}})


def _described(checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    return describe(config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_parameters)


def _described_bundle(manifest: Manifest) -> str:
    model = manifest.model
    return describe(model.layers, model.hidden_size, model.intermediate_size, model.parameters)


def describe(layers: int, hidden: int, inner: int, parameters: int) -> str:
    """The shape of a model in a line."""
    return f"{layers} layers of {hidden} and {inner}, {parameters / 1e9:.2f} billion parameters"


def render(given: argparse.Namespace) -> None:
    write(given.results, results.load(given.results))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--results", type=Path, default=RESULTS, help="JSON file; RESULTS.md is written beside it")
    common.add_argument("--threads", type=int, default=machine.physical_cores())
    common.add_argument(
        "--python", type=_pair, action="append", default=[], metavar="KIND=FILE", help="interpreter of a peer"
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        found = commands.add_parser(function.__name__, parents=[common], help=function.__doc__)
        found.set_defaults(function=function)
        return found

    made = command(prepare)
    made.add_argument("checkpoint")
    made.add_argument("folder", type=Path)
    made.add_argument("--exporters", type=_exporters, default=PREPARED, help=", ".join(EXPORTERS))
    checked = command(check)
    checked.add_argument("checkpoint", nargs="?", default="helium-tiny")
    timed = command(run)
    timed.add_argument("bundle", type=_bundle, metavar="[NAME:]helium-edge=BUNDLE")
    timed.add_argument("peers", type=_entry, nargs="+", metavar="[NAME:]KIND=PATH")
    timed.add_argument("--contexts", type=_numbers, default="0,512,2048")
    timed.add_argument("--prefill", type=_numbers, default="128")
    timed.add_argument("--repeats", type=int, default=10)
    timed.add_argument("--loads", type=int, default=1, help="load all anew so many times, and pool the samples")
    timed.add_argument("--steps", type=int, default=8, help="decode steps of a sample")
    cost = command(exports)
    cost.add_argument("checkpoint")
    cost.add_argument("--exporters", type=_exporters, default=COMPARED, help=", ".join(EXPORTERS))
    cost.add_argument("--scratch", type=Path, help="folder for what the exporters make")
    one = command(gguf)
    one.add_argument("checkpoint")
    one.add_argument("file", type=Path)
    one.add_argument("--type", default="q4_0", help="q4_0, q4_k_m, q8_0, bf16 or f32")
    command(render)
    return top


def _pair(text: str) -> tuple[str, str]:
    kind, equals, path = text.partition("=")
    if not equals or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND=FILE")
    return kind, path


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _exporters(text: str) -> list[str]:
    keys = text.split(",")
    unknown = [key for key in keys if key not in EXPORTERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(EXPORTERS)}")
    return keys


def _bundle(text: str) -> Entry:
    entry = _entry(text)
    if entry.kind != OURS:
        raise argparse.ArgumentTypeError(f"the first engine must be a {OURS} bundle")
    return entry


def _entry(text: str) -> Entry:
    try:
        return Entry.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main() -> None:
    given = parser().parse_args()
    given.python = dict(given.python)
    given.function(given)


if __name__ == "__main__":
    main()
