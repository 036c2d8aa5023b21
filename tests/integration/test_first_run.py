"""A bundle that ends the process that runs it, or keeps it, is met by a child."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from helium_edge import first_run, load
from helium_edge.bundle import Bundle, open_bundle
from helium_edge.bundle.manifest import MANIFEST_NAME
from helium_edge.bundle.seal import SEAL, sealed_json
from helium_edge.errors import BundleError, HeliumEdgeError, ResourceError
from helium_edge.first_run import ensure_runs, remember
from tests.helpers.bundles import bundle_recipe, export_bundle


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of random weights."""
    return export_bundle(tiny_checkpoint, bundle_recipe("onnx-int4"), tmp_path_factory.mktemp("e") / "b").folder


@pytest.fixture
def bundle(tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle that nobody has run here."""
    monkeypatch.setenv("HELIUM_EDGE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(exported, tmp_path / "b")
    return open_bundle(tmp_path / "b")


def child(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Let a script be the interpreter of the child."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(first_run.sys, "executable", str(program))


@pytest.mark.parametrize(
    ("script", "kind", "says"),
    [
        ("kill -SEGV $$", BundleError, "b: ends the process that runs it by SIGSEGV"),
        ("kill -FPE $$", BundleError, "b: ends the process that runs it by SIGFPE"),
        ("kill -XCPU $$", BundleError, r"b: takes more than \d+ s of processor time"),
        ("kill -KILL $$", ResourceError, "b: the system killed the process that ran it"),
        ("exit 7", BundleError, "b: ends the process that runs it with code 7"),
        ("sleep 100", BundleError, "b: does not come to an end"),
        ('echo \'{"type": "ResourceError", "message": "m", "hint": "h"}\'', ResourceError, "m"),
    ],
)
def test_how_a_child_ends_is_told(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    kind: type[HeliumEdgeError],
    says: str,
) -> None:
    if "sleep" in script:
        monkeypatch.setattr(first_run, "CPU_SECONDS", 0.01)
    child(monkeypatch, tmp_path, script)
    with pytest.raises(kind, match=f"^{says}"):
        ensure_runs(bundle)
    with pytest.raises(kind, match=f"^{says}"):  # nothing is remembered of it
        ensure_runs(bundle)


def test_a_bundle_runs_apart_once(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_runs(bundle)
    child(monkeypatch, tmp_path, "exit 1")
    ensure_runs(bundle)
    with pytest.raises(BundleError, match="with code 1"):  # what nobody held against the manifest
        ensure_runs(bundle, unverified=True)
    (bundle.folder / MANIFEST_NAME).write_text("{}")
    with pytest.raises(BundleError, match="with code 1"):  # another bundle
        ensure_runs(bundle)


def test_what_an_export_has_run_is_known(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, tmp_path, "exit 1")
    remember(bundle)
    ensure_runs(bundle)


def test_an_export_that_has_run_its_result_says_so(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIUM_EDGE_CACHE", str(tmp_path / "cache"))
    found = export_bundle(tiny_checkpoint, bundle_recipe("onnx-int4"), tmp_path / "b")
    child(monkeypatch, tmp_path, "exit 1")
    ensure_runs(open_bundle(found.folder))


def test_a_bundle_without_a_graph_for_both_phases_is_opened_once(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second program of ExecuTorch packs the weights once more for every method: too much for the limits."""
    opened: list[bool] = []
    monkeypatch.setattr(first_run, "_run_graphs", lambda _, *, static: opened.append(static))
    first_run.run_every_graph(bundle)
    assert opened == [False, True]
    graphs = tuple(graph for graph in bundle.manifest.graphs if graph.phase != "any")
    first_run.run_every_graph(
        dataclasses.replace(bundle, manifest=bundle.manifest.model_copy(update={"graphs": graphs}))
    )
    assert opened == [False, True, False]


def test_a_graph_that_takes_all_memory_is_refused(bundle: Bundle) -> None:
    """By operators that our graphs have, so that only running it tells."""
    reseal(bundle.folder, "decoder.onnx", lambda model: add_to_logits(model, [
        made("Range", ["start", "limit", "step"], "many"),
        made("Cast", ["many"], "real", to=onnx.TensorProto.FLOAT),
        made("ReduceMax", ["real"], "extra", keepdims=0),
    ], {"start": 0, "limit": 1 << 28, "step": 1}))  # fmt: skip
    with pytest.raises((BundleError, ResourceError), match=r"^b: |memory"):
        ensure_runs(open_bundle(bundle.folder))


def made(op_type: str, inputs: list[str], output: str, **attributes: int) -> onnx.NodeProto:
    """An operator with integers as attributes."""
    node = onnx.NodeProto(op_type=op_type, input=inputs, output=[output])
    for name, value in attributes.items():
        node.attribute.add(name=name, i=value, type=onnx.AttributeProto.INT)
    return node


@pytest.mark.parametrize("change", [
    lambda model: add_to_logits(model, [made("Mod", ["a", "b"], "extra")], {"a": 1, "b": 0}),
    lambda model: add_to_logits(model, [made("Loop", ["a", "b"], "extra")], {"a": 1, "b": 0}),
    lambda model: setattr(model.graph.node[0], "domain", "ai.onnx.contrib"),
    lambda model: model.training_info.add(),
], ids=["operator", "loop", "domain", "training"])  # fmt: skip
def test_what_no_graph_of_ours_has_is_not_even_tried(
    bundle: Bundle, change: Callable[[onnx.ModelProto], None]
) -> None:
    reseal(bundle.folder, "decoder.onnx", change)
    with pytest.raises(BundleError, match=r"^decoder\.onnx: .*which no graph of helium-edge has"):
        open_bundle(bundle.folder)


def add_to_logits(model: onnx.ModelProto, nodes: list[onnx.NodeProto], values: dict[str, int]) -> None:
    """Append nodes whose result `extra` is added to the logits."""
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["inner" if name == "logits" else name for name in node.output]
    graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in values.items())
    graph.node.extend([*nodes, made("Add", ["inner", "extra"], "logits")])


def reseal(folder: Path, name: str, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change a graph, and make all checksums anew."""
    model = onnx.load(str(folder / name), load_external_data=False)
    change(model)
    data = model.SerializeToString()
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
    del manifest[SEAL]
    (entry,) = (entry for entry in manifest["files"] if entry["path"] == name)
    entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST_NAME).write_text(sealed_json(manifest), encoding="utf-8")


def test_load_tries_a_bundle_of_somebody_else_in_a_child(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, tmp_path, "kill -SEGV $$")
    with pytest.raises(BundleError, match="ends the process that runs it by SIGSEGV"):
        load(bundle.folder)
    load(bundle.folder, trusted=True).close()
    remember(bundle)
    load(bundle.folder).close()
