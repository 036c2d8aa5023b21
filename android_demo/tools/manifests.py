"""Manifests for the Kotlin reader: one as it was exported, and that one broken in one place each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from helium_edge.bundle.manifest import parse_manifest
from helium_edge.errors import BundleError
from helium_edge.tasks import TextTaskName

DELETED = object()
MUTATIONS: list[tuple[str, Any]] = [
    *[
        (key, DELETED)
        for key in (
            "schema",
            "schema_version",
            "name",
            "runtime",
            "target",
            "model",
            "tokens",
            "tokenizer",
            "graphs",
            "cache",
        )
    ],
    *[
        (key, DELETED)
        for key in (
            "logits",
            "prefill_len",
            "cache_len",
            "generation",
            "memory",
            "graphs.0.file",
            "graphs.0.inputs",
        )
    ],
    *[
        (key, DELETED)
        for key in (
            "files.0.sha256",
            "cache.layers",
            "tokens.eos",
            "golden.margins",
            "tokenizer.file",
            "cache.keys",
            "generation.top_k",
            "generation.temperature",
        )
    ],
    *[
        (key, DELETED)
        for key in (
            "generation.top_p",
            "generation.do_sample",
            "generation.max_new_tokens",
            "cache.dtype",
            "files",
            "tokens.bos",
            "tokens.pad",
            "tokens.add_bos",
            "graphs.0.method",
            "graphs.0.tokens",
            "graphs.0.cache_len",
        )
    ],
    ("unknown_field", {"a": [1]}),
    ("cache.unknown", 1),
    ("golden", None),
    ("tokens.pad", None),
    ("tokens.bos", None),
    ("schema", "other"),
    ("schema_version", "1.99"),
    ("schema_version", "2.0"),
    ("schema_version", "10.0"),
    ("schema_version", "0.9"),
    ("schema_version", "1"),
    ("schema_version", 1.0),
    ("schema_version", "one"),
    ("name", ""),
    ("name", 5),
    ("graphs", []),
    ("graphs.0.phase", "train"),
    ("graphs.1.phase", "prefill"),
    ("graphs.0.tokens", 64),
    ("prefill_len", 64),
    ("graphs.0.tokens", 0),
    ("graphs.0.tokens", "128"),
    ("graphs.0.file", "missing.onnx"),
    ("graphs.0.inputs.0.shape", [1, 0]),
    ("graphs.0.inputs.0.shape", [1, -1]),
    ("graphs.0.inputs.0.shape", [1, 1.5]),
    ("graphs.0.inputs.0.role", "a_later_role"),
    ("graphs.2.free_rows", DELETED),
    ("graphs.2.free_rows", "yes"),
    ("graphs.2.free_rows", 1),
    ("graphs.0.planned_outputs", DELETED),
    ("graphs.0.planned_outputs", "yes"),
    ("graphs.0.planned_outputs", 1),
    ("cache.update", "copy"),
    ("cache.dtype", "bfloat16"),
    ("cache.layout", ["slot", "kv_head"]),
    ("cache.shape", [1, 2, 1024]),
    ("cache.shape", [2, 2, 1024, 64]),
    ("cache.shape", [1, 2, 512, 64]),
    ("cache.shape", []),
    ("cache.bytes_per_token", 1),
    ("cache.total_bytes", 7),
    ("cache.keys", "pre_rope"),
    ("cache.layers", 0),
    ("cache.layers", 7),
    ("cache_len", 0),
    ("cache_len", -1),
    ("cache_len", 1023),
    ("cache_len", True),
    ("cache_len", 2**53),
    ("prefill_len", 0),
    ("prefill_len", 1.5),
    ("logits", "first"),
    ("generation.temperature", -1),
    ("generation.top_p", 0),
    ("generation.top_p", 1.5),
    ("generation.top_k", -1),
    ("generation.max_new_tokens", 0),
    ("generation.do_sample", 1),
    ("memory.total_bytes", -5),
    ("tokens.eos", [4096]),
    ("tokens.bos", 5000),
    ("tokens.eos", 2),
    ("tokens.eos", []),
    ("golden.greedy_ids.0", 9999),
    ("golden.margins", [1.0]),
    ("golden.tolerances", {"same": 0.1}),
    ("golden.tolerances.other", -1.0),
    ("golden.prompt_ids", []),
    ("tokenizer.file", "other.json"),
    ("files.0.bytes", -1),
    ("files.0.sha256", "00"),
    ("files.0.sha256", "Z" * 64),
    *[
        ("files.0.path", path)
        for path in (
            "../a",
            "/etc/passwd",
            "a/../b",
            "a\\b",
            ".hidden",
            "a//b",
            "",
            "a\0b",
            "C:a",
            "a/",
            "é",
            "x" * 300,
        )
    ],
    ("graphs.0.file", "../prefill.onnx"),
    ("tokenizer.file", "/tokenizer.json"),
    ("files.1.path", "config.json"),
    ("files.1.path", "Config.JSON"),
    ("files.1.path", "Helium-Edge.json"),
    ("head", {"kind": "sequence_classification", "labels": ["a"], "problem_type": None}),
    ("head", {"kind": "language_model", "labels": [], "problem_type": None}),
    ("head", {"kind": "pairs", "labels": [], "problem_type": None}),
    ("files", []),
    ("files", {}),
]


def manifest_cases(path: Path) -> Iterator[dict[str, Any]]:
    """The manifest of a bundle as it is, and broken in one place each, with the verdict of the Python reader."""
    text = path.read_text(encoding="utf-8")
    yield verdict(text, "as exported")
    for what, broken in (
        ("cut in the middle", text[: len(text) // 2]),
        ("empty", ""),
        ("a list", "[]"),
        ("null", "null"),
        ("not JSON", "{'a': 1}"),
        ("a key twice", text.replace('"cache_len": 1024,', '"cache_len": 1024, "cache_len": 1024,', 1)),
        ("text after it", text + "x"),
        ("NaN", text.replace('"temperature": 1.0', '"temperature": NaN')),
        ("nested deeply", "[" * 5000),
    ):
        yield verdict(broken, what)
    for kind in get_args(TextTaskName):
        yield verdict(json.dumps(of_text_model(json.loads(text), kind)), f"a model of the kind {kind}")
    for place, value in MUTATIONS:
        document = json.loads(text)
        *parents, last = place.split(".")
        node = document
        for part in parents:
            node = node[int(part)] if part.isdigit() else node[part]
        key: Any = int(last) if last.isdigit() else last
        if value is DELETED:
            del node[key]
        else:
            node[key] = value
        yield verdict(json.dumps(document), f"{place} {'deleted' if value is DELETED else f'= {value!r}'}")


def of_text_model(document: dict[str, Any], kind: str) -> dict[str, Any]:
    """The same manifest of a model that takes a whole text, and has no cache."""
    graph = document["graphs"][0] | {"phase": "classify", "tokens": document["prefill_len"], "cache_len": None}
    graph["inputs"] = [entry for entry in graph["inputs"] if entry["role"] == "tokens"]
    graph["outputs"] = [entry for entry in graph["outputs"] if entry["role"] == "logits"]
    output = {"kind": kind, "labels": [] if kind == "hidden_states" else ["a", "b"], "problem_type": None}
    return document | {"graphs": [graph], "cache": None, "head": output, "golden": None}


def verdict(text: str, what: str) -> dict[str, Any]:
    try:
        task = parse_manifest(text.encode()).task.name
    except BundleError as error:
        kinds = {"newer helium-edge": "newer", "no longer read": "older", "plain relative path": "path"}
        return {
            "what": what,
            "text": text,
            "verdict": next((kind for words, kind in kinds.items() if words in error.message), "manifest"),
        }
    return {"what": what, "text": text, "verdict": "ok", "task": task}
