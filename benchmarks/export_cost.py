"""What an export costs: wall time, processor time, memory and bytes written, against the number of layers.

    python benchmarks/export_cost.py --layers 2 4 8
    python benchmarks/export_cost.py --checkpoint helium-2b --method rtn --method mse
    python benchmarks/export_cost.py --layers 2 4 8 --recipe xnnpack-int4 --out benchmarks/results/pte
    python benchmarks/export_cost.py --layers 2 4 --genai /path/to/venv/bin/python

Every export runs in a process of its own and is watched from outside. Anonymous memory is what the process
allocated; mapped memory is pages of files, which the system takes back when it needs room. Checkpoints of full
width and few layers are made on the spot in a temporary folder, or given. `--genai` names an interpreter that has
onnxruntime-genai: its model builder then exports the same weights, called a llama, as the yardstick.
Written: OUT.md and, where matplotlib is installed, OUT.svg.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helium_edge.recipe import load_recipe

HERE = Path(__file__).parent
SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Cost:
    """What one export cost; memory in bytes."""

    what: str
    layers: int
    checkpoint_bytes: int
    bundle_bytes: int
    seconds: float
    processor_seconds: float
    anonymous: int
    mapped: int
    total: int
    written: int


def main() -> None:
    given = arguments()
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory(prefix="export-cost-", dir=given.scratch) as scratch:
        folder = Path(scratch)
        for source in sources(given, folder):
            for method in given.method or ["mse"]:
                for run in (True, False) if given.no_run else (True,):
                    costs.append(export(source, given, method, folder, run=run))
                    print(f"{costs[-1]}", flush=True)
            if given.genai:
                costs.append(genai(source, given.genai, folder))
                print(f"{costs[-1]}", flush=True)
            if source.parent == folder:
                shutil.rmtree(source)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".md").write_text(document(given, costs), encoding="utf-8")
    chart(costs, given.out.with_suffix(".svg"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="helium-1-preview-2b", help="shape of the checkpoints that are made")
    parser.add_argument("--layers", type=int, nargs="*", default=[], help="make checkpoints of so many layers")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="a folder; repeatable")
    parser.add_argument("--recipe", default="onnx-int4")
    parser.add_argument("--target", help="target of the recipe, where it has several")
    parser.add_argument("--method", choices=["rtn", "mse"], action="append", help="repeatable; default mse")
    parser.add_argument("--no-run", action="store_true", help="also make every export without running the result")
    parser.add_argument("--genai", type=Path, metavar="PYTHON", help="interpreter that has onnxruntime-genai")
    parser.add_argument("--scratch", type=Path, help="folder for checkpoints and bundles, some gigabytes")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "export")
    return parser.parse_args()


def sources(given: argparse.Namespace, folder: Path) -> list[Path]:
    """Checkpoints, made where they are not given."""
    found = []
    for layers in given.layers:
        made = folder / f"{given.preset}-{layers}"
        command = [
            sys.executable,
            str(HERE / "make_checkpoint.py"),
            given.preset,
            str(made),
            "--layers",
            str(layers),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(made)
    return [*found, *given.checkpoint]


def export(source: Path, given: argparse.Namespace, method: str, folder: Path, *, run: bool) -> Cost:
    """One export by our own command."""
    recipe = load_recipe(given.recipe)
    file = folder / "recipe.yaml"
    data = recipe.model_dump(mode="json", exclude_none=True)
    data["quantization"]["method"] = method
    file.write_text(json.dumps(data), encoding="utf-8")  # JSON is YAML
    out = folder / "bundle"
    command = [sys.executable, "-m", "helium_edge.cli.main", "export", str(source), "--recipe", str(file),
               "--no-parity", "-o", str(out)]  # fmt: skip
    command += [*(["--target", given.target] if given.target else []), *([] if run else ["--no-run"])]
    return watch(f"{recipe.name}, {method}{'' if run else ', not run'}", source, command, out)


def genai(source: Path, python: Path, folder: Path) -> Cost:
    """One export by the model builder of onnxruntime-genai, for which the checkpoint is called a llama.

    Its graph computes something else (Helium rotates interleaved pairs); the cost is that of the same weights.
    """
    renamed = folder / "llama"
    renamed.mkdir()
    for path in source.iterdir():
        (renamed / path.name).symlink_to(path.resolve())
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (renamed / "config.json").unlink()
    (renamed / "config.json").write_text(json.dumps(config), encoding="utf-8")
    out = folder / "genai"
    command = [str(python), "-m", "onnxruntime_genai.models.builder", "-i", str(renamed), "-o", str(out),
               "-p", "int4", "-e", "cpu", "-c", str(folder / "cache")]  # fmt: skip
    cost = watch("onnxruntime-genai builder, int4", source, command, out)
    shutil.rmtree(renamed)
    return cost


def watch(what: str, source: Path, command: list[str], out: Path) -> Cost:
    """Run a command, look at its memory all the time, and remove what it made."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    peaks = {"anonymous": 0, "mapped": 0, "total": 0}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        end = threading.Event()
        watcher = threading.Thread(target=sample, args=(process.pid, peaks, end))
        watcher.start()
        code = process.wait()
        end.set()
        watcher.join()
        if code:
            log.seek(0)
            raise SystemExit(
                f"{' '.join(command)}\nended with {code}:\n{log.read().decode(errors='replace')[-2000:]}"
            )
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    return Cost(
        what, config["num_hidden_layers"], sum(path.stat().st_size for path in source.glob("*.safetensors")), size,
        seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        peaks["anonymous"], peaks["mapped"], peaks["total"], 512 * (after.ru_oublock - before.ru_oublock),
    )  # fmt: skip


def sample(process: int, peaks: dict[str, int], end: threading.Event) -> None:
    """Remember the most memory that a process has, by kind."""
    while not end.wait(SAMPLE_SECONDS):
        try:
            lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
            found = {key: int(value.split()[0]) << 10 for key, value in (line.split(":", 1) for line in lines)
                     if key in ("RssAnon", "RssFile", "RssShmem")}  # fmt: skip
        except (OSError, ValueError):
            continue
        anonymous = found.get("RssAnon", 0)
        mapped = found.get("RssFile", 0) + found.get("RssShmem", 0)
        for name, value in (("anonymous", anonymous), ("mapped", mapped), ("total", anonymous + mapped)):
            peaks[name] = max(peaks[name], value)


def document(given: argparse.Namespace, costs: list[Cost]) -> str:
    """The results as Markdown."""
    rows = "\n".join(
        f"| {cost.what} | {cost.layers} | {cost.checkpoint_bytes / 1e9:.2f} | {cost.bundle_bytes / 1e9:.2f} | "
        f"{cost.seconds:.0f} | {cost.processor_seconds:.0f} | {cost.anonymous / 1e9:.2f} | "
        f"{cost.mapped / 1e9:.2f} | {cost.total / 1e9:.2f} | {cost.written / max(1, cost.bundle_bytes):.2f} |"
        for cost in costs
    )
    words = " ".join(["python benchmarks/export_cost.py", *(word.rpartition("/")[2] for word in sys.argv[1:])])
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    chart_line = f"\n![Peak memory against layers]({given.out.name}.svg)\n"
    return f"""# What an export costs

{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}, {platform.machine()}, {threads} processors, Python \
{platform.python_version()}; made by `{words}`.

Without the comparison (`--no-parity`). Where it does not say "not run" (`--no-run`), the graphs are run for the
golden trace. GB are 10^9 bytes; memory is the most seen at any moment, of each kind by itself; written is a
multiple of the result.

| export | layers | input GB | result GB | wall s | CPU s | anonymous GB | mapped GB | together GB | written |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
{rows}
{chart_line if len({cost.layers for cost in costs}) > 1 else ""}"""


def chart(costs: list[Cost], path: Path) -> None:
    """Peak memory against layers, where there are several numbers of them and matplotlib is installed."""
    if len({cost.layers for cost in costs}) < 2:
        return
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed: no chart", file=sys.stderr)
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    by_name: dict[str, list[Cost]] = {}
    for cost in costs:
        by_name.setdefault(cost.what, []).append(cost)
    for name, found in by_name.items():
        found.sort(key=lambda cost: cost.layers)
        axes.plot([c.layers for c in found], [c.anonymous / 1e9 for c in found], marker="o", label=name)
    axes.set_xlabel("layers")
    axes.set_ylabel("peak anonymous memory, GB")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    metadata: dict[str, Any] = {"Date": None}
    with matplotlib.rc_context({"svg.hashsalt": "export"}):
        FigureCanvasSVG(figure).print_svg(path, metadata=metadata)


if __name__ == "__main__":
    main()
