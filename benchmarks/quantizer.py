"""Speed and error of every quantization method and scheme on a matrix as large as Helium's MLP.

    python benchmarks/quantizer.py [--rows 7040] [--columns 2560] [--threads N]

Weights are normal with one outlier in a thousand, in bfloat16, as checkpoints hold them.
"""

from __future__ import annotations

import argparse
import time

import torch

from helium_edge.quant import METHODS
from helium_edge.quant.affine import relative_error
from helium_edge.recipe import Scheme

SCHEMES = (
    Scheme(bits=4, group_size=32),
    Scheme(bits=4, group_size=128),
    Scheme(bits=4, group_size=32, symmetric=False),
    Scheme(bits=8),
)
RUNS = 3


def make_weight(rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator) * 0.02
    outliers = torch.rand(rows, columns, generator=generator) < 1e-3
    return torch.where(outliers, weight * 8, weight).to(torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=7040)
    parser.add_argument("--columns", type=int, default=2560)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    weight = make_weight(args.rows, args.columns)
    print(f"torch {torch.__version__}, {args.rows} x {args.columns} bfloat16, {args.threads} threads")
    print("method  scheme           Mparam/s  relative error")
    for name, method in METHODS.items():
        for scheme in SCHEMES:
            times = []
            for _ in range(RUNS):
                start = time.perf_counter()
                quantized = method(weight, scheme)
                times.append(time.perf_counter() - start)
            rate = weight.numel() / min(times) / 1e6
            print(f"{name:<7} {scheme!s:<16} {rate:8.0f}  {relative_error(weight, quantized):.4f}")


if __name__ == "__main__":
    main()
