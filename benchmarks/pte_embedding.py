"""What an embedding of int8 rows costs in ExecuTorch, by the quantized operator and by portable ones alone.

    python benchmarks/pte_embedding.py [--rows 48000] [--width 2560] [--repeats 200]

`quantized` is `quantized_decomposed::embedding_byte`, which a bundle has and a runtime must be linked with;
`portable` looks rows and scales up by `aten::embedding` and multiplies, which every runtime carries. Both are
lowered by ExecuTorch itself and take turns; what is printed is the median of a call for one token, and for 128.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

TOKENS = (1, 128)


class Quantized(nn.Module):
    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    def forward(self, ids: Tensor) -> Tensor:
        row: Tensor = torch.ops.quantized_decomposed.embedding_byte(self.codes, self.scales, None, -128, 127, ids)
        return row


class Portable(Quantized):
    def forward(self, ids: Tensor) -> Tensor:
        rows = nn.functional.embedding(ids, self.codes).to(torch.float32)
        return rows * nn.functional.embedding(ids, self.scales[:, None])


def write(module: nn.Module, tokens: int, path: Path) -> list[str]:
    """Lower a module; returns its operators."""
    from executorch.exir import EdgeCompileConfig, to_edge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.zeros(1, tokens, dtype=torch.int64),)
        edge = to_edge(
            torch.export.export(module, example), compile_config=EdgeCompileConfig(_check_ir_validity=False)
        )
        program = edge.to_executorch()
    path.write_bytes(program.buffer)
    plan = program.executorch_program.execution_plan[0]
    return [f"{operator.name}.{operator.overload}" for operator in plan.operators]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=48_000)
    parser.add_argument("--width", type=int, default=2_560)
    parser.add_argument("--repeats", type=int, default=200)
    args = parser.parse_args()
    import executorch.kernels.quantized  # noqa: F401 - registers the operator
    from executorch.exir.passes._quant_patterns_and_replacements import embedding_byte  # noqa: F401
    from executorch.runtime import Runtime

    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(-128, 128, (args.rows, args.width), dtype=torch.int8, generator=draw)
    scales = torch.rand(args.rows, generator=draw) / 100
    with tempfile.TemporaryDirectory() as name:
        for tokens in TOKENS:
            methods = {}
            for module in (Quantized(codes, scales), Portable(codes, scales)):
                kind = type(module).__name__.lower()
                path = Path(name) / f"{kind}-{tokens}.pte"
                print(f"{kind} of {tokens}: {', '.join(write(module, tokens, path))}")
                methods[kind] = Runtime.get().load_program(path).load_method("forward")
            ids = [torch.randint(0, args.rows, (1, tokens), generator=draw) for _ in range(args.repeats)]
            seconds: dict[str, list[float]] = {kind: [] for kind in methods}
            for each in ids:
                found = {}
                for kind, method in methods.items():
                    start = time.perf_counter()
                    found[kind] = method.execute([each])[0]
                    seconds[kind].append(time.perf_counter() - start)
                assert torch.equal(found["quantized"], found["portable"])
            medians = {kind: statistics.median(values) for kind, values in seconds.items()}
            print(
                f"{tokens} tokens: quantized {1e6 * medians['quantized']:.1f} us, portable "
                f"{1e6 * medians['portable']:.1f} us, equal results"
            )


if __name__ == "__main__":
    main()
