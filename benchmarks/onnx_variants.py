"""Decode and prefill of one ONNX bundle under several settings, as ratios: the figures of docs/performance.md.

    python benchmarks/onnx_variants.py BUNDLE [VARIANT ...] [--depths 0] [--prefill 0] [--rounds 20] [--profile]

A variant is `KEY=VALUE,...`: a session entry of ONNX Runtime, or an environment variable if it is in capitals;
`gate_up` stacks the gate and up matrices into one MatMulNBits. `base`, the bundle as it is, comes first and can
be given again: two of the same kind show how small a difference this machine can see. Every variant has a
process of its own; they take turns, and what is reported is the ratio within a turn, with its quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

STEPS, WARM = 4, 2
GATE_UP = "gate_up"


def stack_gate_up(source: Path, to: Path) -> None:
    """Write decoder.onnx and its weights with gate and up of each layer as one matrix."""
    import onnx_ir as ir

    model = ir.load(source / "decoder.onnx")
    graph = model.graph
    for node in list(graph):
        if node.op_type != "MatMulNBits" or node.graph is None:
            continue
        pair = [use.node for use in node.inputs[0].uses() if use.node.op_type == "MatMulNBits"]
        if len(pair) != 2:
            continue
        weights = []
        for part in (1, 2):
            array = np.concatenate([other.inputs[part].const_value.numpy() for other in pair])
            tensor = ir.tensor(array, name=f"{node.inputs[part].name}.stacked")
            value = ir.Value(
                name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
            )
            graph.register_initializer(value)
            weights.append(value)
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        attributes["N"] = 2 * attributes["N"]
        product = ir.node("MatMulNBits", [node.inputs[0], *weights], attributes, domain="com.microsoft")
        split = ir.node("Split", [product.outputs[0]], {"axis": -1, "num_outputs": 2}, num_outputs=2)
        graph.insert_before(node, [product, split])
        for other, output in zip(pair, split.outputs, strict=True):
            ir.convenience.replace_all_uses_with(other.outputs[0], output)
        dropped = {other.inputs[part].name for other in pair for part in (1, 2)}
        graph.remove(pair, safe=True)
        for name in dropped:
            del graph.initializers[name]
    ir.save(model, to / "decoder.onnx", external_data="weights.bin")


def work(folder: Path, graphs: Path, config: dict[str, str], threads: int) -> None:
    """One variant: read `decode|prefill DEPTH COUNT` lines, write milliseconds."""
    from helium_edge.bundle import open_bundle
    from helium_edge.runtime.onnx_runner import OnnxRunner

    spec = open_bundle(folder, unverified=True).manifest.decoder_spec()
    runner = OnnxRunner(graphs, {"any": "decoder.onnx"}, spec, threads=threads, session_config=config)
    values = np.random.default_rng(0).standard_normal(1 << 16, np.float32)
    for buffer in runner.cache_buffers:
        buffer[...] = np.resize(values, buffer.shape)
    print(json.dumps([]), flush=True)
    for line in sys.stdin:
        kind, depth, count = line.split()
        times = []
        for _ in range(int(count)):
            runner.seek(int(depth))
            start = time.perf_counter()
            runner.decode(17) if kind == "decode" else runner.prefill([17] * spec.prefill_len)
            times.append(1000 * (time.perf_counter() - start))
        print(json.dumps(times), flush=True)


class Variant:
    """The process of one variant."""

    def __init__(self, text: str, bundle: Path, scratch: Path, threads: int) -> None:
        pairs = [part.split("=", 1) for part in text.split(",") if "=" in part]
        graphs = bundle
        if GATE_UP in text.split(","):
            graphs = Path(tempfile.mkdtemp(dir=scratch))
            stack_gate_up(bundle, graphs)
        config = {key: value for key, value in pairs if not key.isupper()}
        environment = {key: value for key, value in pairs if key.isupper()}
        command = [
            sys.executable,
            __file__,
            "--worker",
            str(bundle),
            str(graphs),
            json.dumps(config),
            str(threads),
        ]
        self.text = text
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        self._read()

    def _read(self) -> list[float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.text}: the process ended")
        return list(json.loads(line))

    def times(self, kind: str, depth: int) -> list[float]:
        """Milliseconds of one turn."""
        count, warm = (STEPS + WARM, WARM) if kind == "decode" else (1, 0)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind} {depth} {count}\n")
        self._process.stdin.flush()
        return self._read()[warm:]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(variants: list[Variant], kind: str, depth: int, rounds: int) -> None:
    """Alternate, then print one line a variant."""
    taken: list[list[float]] = [[] for _ in variants]
    ratios: list[list[float]] = [[] for _ in variants]
    for turn in range(rounds):
        order = range(len(variants)) if turn % 2 == 0 else reversed(range(len(variants)))
        medians = {}
        for index in order:
            time.sleep(0.03)  # threads of the last one have stopped spinning
            times = variants[index].times(kind, depth)
            taken[index] += times
            medians[index] = statistics.median(times)
        for index, median in medians.items():
            ratios[index].append(medians[0] / median)
    for variant, times, ratio in zip(variants, taken, ratios, strict=True):
        low, middle, high = statistics.quantiles(ratio, n=4)
        median = statistics.median(times)
        print(
            f"{kind:8}{depth:6}  {median:9.2f} ms  {middle:6.3f} [{low:.3f} {high:.3f}]  {variant.text}",
            flush=True,
        )


def profile(bundle: Path, threads: int) -> None:
    """Print the time of each operator in the median decode step at context 0."""
    from helium_edge.bundle import open_bundle
    from helium_edge.runtime import onnx_runner

    plain = onnx_runner._session_options

    def profiled(count: int, config: Any) -> Any:
        options = plain(count, config)
        options.enable_profiling, options.profile_file_prefix = True, str(Path(scratch) / "ort")
        return options

    with tempfile.TemporaryDirectory() as scratch:
        onnx_runner._session_options = profiled
        spec = open_bundle(bundle, unverified=True).manifest.decoder_spec()
        runner = onnx_runner.OnnxRunner(bundle, {"any": "decoder.onnx"}, spec, threads=threads)
        outside = []
        for _ in range(20):
            runner.reset()
            start = time.perf_counter()
            runner.decode(17)
            outside.append(1e6 * (time.perf_counter() - start))
        events = json.loads(Path(runner._sessions["any"].end_profiling()).read_text())
    runs = [event for event in events if event.get("name") == "model_run"]
    middle = sorted(range(5, len(runs)), key=lambda index: runs[index]["dur"])[(len(runs) - 5) // 2]
    run, spent, calls = runs[middle], Counter[str](), Counter[str]()
    for event in events:
        inside = run["ts"] <= event["ts"] <= run["ts"] + run["dur"]
        if inside and event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["args"]["op_name"]
            if name == "MatMulNBits":
                name += f" to {next(iter(event['args']['output_type_shape'][0].values()))[-1]}"
            spent[name] += event["dur"]
            calls[name] += 1
    print(f"step {outside[middle] / 1000:.2f} ms, of which session {run['dur'] / 1000:.2f}, kernels", end=" ")
    print(f"{spent.total() / 1000:.2f}")
    for name, time_spent in spent.most_common():
        print(f"{name:40}{calls[name]:5}{time_spent / 1000:9.2f} ms {time_spent / run['dur']:7.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("variants", nargs="*")
    parser.add_argument("--depths", default="0", help="contexts of decode steps")
    parser.add_argument("--prefill", default="", help="contexts of prefill calls")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="only the time of each operator at context 0")
    arguments = parser.parse_args()
    if arguments.profile:
        profile(arguments.bundle, arguments.threads)
        return
    with tempfile.TemporaryDirectory(dir=arguments.bundle.resolve().parent) as scratch:
        texts = ["base", *arguments.variants]
        variants = [Variant(text, arguments.bundle, Path(scratch), arguments.threads) for text in texts]
        for kind, depths in (("decode", arguments.depths), ("prefill", arguments.prefill)):
            for depth in filter(None, depths.split(",")):
                compare(variants, kind, int(depth), arguments.rounds)
        for variant in variants:
            variant.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
