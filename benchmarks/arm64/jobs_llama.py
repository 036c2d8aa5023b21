"""Single operators as llama.cpp builds them, at the same sizes as ours, to be counted beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from arm64.jobs import CHUNK, COLUMNS, HEAD_DIM, HEADS, INNER, WIDTH, Counted, values
from arm64.operators import Job, Output

TYPES = ("q4_0", "q4_K", "q6_K", "q8_0")
"""Of weights, as ggml names them."""
CONTEXTS = (255, 767)
"""Tokens in the cache of a step: with its own the memory is full, which llama.cpp takes in steps of 256."""


def llama_jobs(_: Path) -> Iterator[Counted]:
    """Say how to run operators on ggml, which reads no files."""
    for columns in COLUMNS:
        for kind in TYPES:
            for rows in (1, CHUNK):
                job = Job(
                    f"product-{kind}-{columns}", {"x": values((rows, WIDTH))}, {"y": Output((rows, columns))}
                )
                yield Counted("product", kind, rows, WIDTH * columns, job)
    for rows, contexts in ((1, CONTEXTS), (CHUNK, (0, 512))):
        for context in contexts:
            shape = (rows, HEADS * HEAD_DIM)
            inputs = {name: values(shape) for name in ("query", "key", "value")}
            job = Job(f"attention-{context}", inputs, {"attention": Output(shape)})
            yield Counted("attention", "float16", rows, HEADS * context, job)
    for kind, width in (("norm", WIDTH), ("activation", INNER)):
        for rows in (1, CHUNK):
            inputs = {name: values((rows, width)) for name in ("a", "b")}
            yield Counted(kind, "", rows, 0, Job(kind, inputs, {"y": Output((rows, width))}))
