"""Every way to damage a bundle that a reader must notice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from helium_edge.bundle import open_bundle, verify_bundle
from helium_edge.bundle.seal import sealed_json
from helium_edge.errors import BundleError
from tests.unit.bundle.bundles import SIGNATURES, model_proto, write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "b")


FILES = ["weights.bin", "prefill.onnx", "tokenizer.json", "config.json"]


def refused(folder: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        verify_bundle(folder)
    assert "\n" not in caught.value.message
    with pytest.raises(BundleError):
        open_bundle(folder)
    return caught.value


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "helium-edge.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(sealed_json(data))


def relist(folder: Path) -> None:
    """Make the manifest agree with the files, as an attacker would."""

    def edit(data: dict[str, Any]) -> None:
        for entry in data["files"]:
            content = (folder / entry["path"]).read_bytes()
            entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    edit_manifest(folder, edit)


def test_a_whole_bundle_passes_and_every_file_is_reported(bundle: Path) -> None:
    checks = verify_bundle(bundle)
    assert {check.subject for check in checks} == {path.name for path in bundle.iterdir()}
    assert [check.result for check in checks if check.subject == "decode.onnx"] == [
        f"{(bundle / 'decode.onnx').stat().st_size} bytes, sha256 as listed",
        "inputs and outputs as listed, 1 external tensors inside the bundle",
    ]
    opened = open_bundle(bundle)
    assert opened.folder == bundle
    assert opened.path("weights.bin").is_file()
    assert opened.manifest.name == "tiny-int4"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("position", [0, -1])
def test_a_flipped_bit(bundle: Path, name: str, position: int) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[position] ^= 1
    (bundle / name).write_bytes(content)
    assert f"{name} was changed" in refused(bundle).message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 1, -1])
def test_a_truncated_file(bundle: Path, name: str, keep: int) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:keep])
    assert f"{name} is truncated: {len(content[:keep])} bytes, listed {len(content)}" in refused(bundle).message


def test_a_longer_file(bundle: Path) -> None:
    with (bundle / "weights.bin").open("ab") as file:
        file.write(b"\0")
    assert "weights.bin has 8193 bytes, listed 8192" in refused(bundle).message


def test_two_files_swapped(bundle: Path) -> None:
    (bundle / "prefill.onnx").rename(bundle / "x")
    (bundle / "decode.onnx").rename(bundle / "prefill.onnx")
    (bundle / "x").rename(bundle / "decode.onnx")
    message = refused(bundle).message
    assert "prefill.onnx" in message
    assert "decode.onnx" in message


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert f"{name} is missing" in refused(bundle).message


@pytest.mark.parametrize("name", ["extra.bin", ".env", "sub/extra.bin"])
def test_an_extra_file(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("x")
    assert f"{name} is not listed" in refused(bundle).message


def test_an_extra_empty_folder(bundle: Path) -> None:
    (bundle / "sub").mkdir()
    assert "sub/ is not listed" in refused(bundle).message


def test_a_name_that_would_break_the_line_is_escaped(bundle: Path) -> None:
    (bundle / "two\nlines").write_text("x")
    assert r"'two\nlines' is not listed" in refused(bundle).message


@pytest.mark.parametrize("name", [*FILES, "helium-edge.json"])
def test_a_symbolic_link_even_to_the_same_bytes(bundle: Path, name: str) -> None:
    shutil.copyfile(bundle / name, bundle.parent / name)
    (bundle / name).unlink()
    (bundle / name).symlink_to(bundle.parent / name)
    assert f"{name} is a symbolic link" in refused(bundle).message


@pytest.mark.parametrize("name", [*FILES, "helium-edge.json"])
def test_a_hard_link(bundle: Path, name: str) -> None:
    os.link(bundle / name, bundle.parent / "elsewhere")
    assert f"{name} is a hard link" in refused(bundle).message


def test_a_linked_folder(bundle: Path) -> None:
    (bundle / "sub").symlink_to(bundle.parent)
    assert "sub is a symbolic link" in refused(bundle).message


def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(bundle: Path) -> None:
    (bundle / "config.json").unlink()
    os.mkfifo(bundle / "config.json")
    assert "config.json is no plain file" in refused(bundle).message


def test_many_problems_are_counted(bundle: Path) -> None:
    for name in ("weights.bin", "prefill.onnx", "decode.onnx", "config.json", "tokenizer.json"):
        (bundle / name).unlink()
    assert refused(bundle).message.endswith("and 2 more")


def test_no_manifest(bundle: Path) -> None:
    (bundle / "helium-edge.json").unlink()
    assert "holds no helium-edge.json" in refused(bundle).message


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_a_truncated_manifest(bundle: Path, keep: int) -> None:
    path = bundle / "helium-edge.json"
    path.write_bytes(path.read_bytes()[:keep])
    assert refused(bundle).message.startswith("helium-edge.json: not readable as JSON")


@pytest.mark.parametrize("path", ["../outside.bin", "sub/../../outside.bin", "{absolute}"])
def test_a_path_out_of_the_folder_is_refused_though_the_hash_is_right(bundle: Path, path: str) -> None:
    outside = bundle.parent / "outside.bin"
    outside.write_bytes(b"x")
    entry = {"path": path.format(absolute=outside), "bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    edit_manifest(bundle, lambda data: data["files"].append(entry))
    assert "allowed: a plain relative path inside the bundle" in refused(bundle).message


def test_a_file_listed_twice(bundle: Path) -> None:
    edit_manifest(bundle, lambda data: data["files"].append(data["files"][0]))
    assert "one file twice" in refused(bundle).message


def test_an_unlisted_file_cannot_be_used(bundle: Path) -> None:
    edit_manifest(bundle, lambda data: data["files"].pop())
    assert "weights.bin is not listed" in refused(bundle).message


def test_a_newer_major_version(bundle: Path) -> None:
    edit_manifest(bundle, lambda data: data.update(schema_version="2.0"))
    assert "newer helium-edge" in refused(bundle).message


@pytest.mark.parametrize(
    ("external", "says"),
    [
        ({"location": "../outside.bin"}, "'../outside.bin', which is no file of the bundle"),
        ({"location": "{absolute}"}, "which is no file of the bundle"),
        ({"location": ""}, "which is no file of the bundle"),
        ({"location": "sub/../weights.bin"}, "which is no file of the bundle"),
        ({"location": "helium-edge.json"}, "which is no file of the bundle"),
        ({"offset": 4097}, "are said to be 4096 bytes at 4097"),
        ({"offset": -4096}, "at -4096"),
        ({"offset": 1 << 70}, "are said to be"),
        ({"offset": "here"}, "not described in numbers"),
        ({"length": 4095}, "are said to be 4095 bytes"),
        ({"length": 8192}, "are said to be 8192 bytes"),
        ({"length": -1}, "are said to be -1 bytes"),
        ({"__class__": "x"}, "external data has the fields"),
        ({"basepath": "/"}, "external data has the fields"),
    ],
)
def test_weights_of_a_graph_outside_the_bundle(bundle: Path, external: dict[str, Any], says: str) -> None:
    (bundle.parent / "outside.bin").write_bytes(bytes(8192))
    if "location" in external:
        external = {"location": external["location"].format(absolute=bundle.parent / "outside.bin")}
    model = model_proto(SIGNATURES["decode.onnx"], **external)
    (bundle / "decode.onnx").write_bytes(model.SerializeToString())
    relist(bundle)
    message = refused(bundle).message
    assert message.startswith("decode.onnx: tensor w: ")
    assert says in message


def test_a_negative_dimension(bundle: Path) -> None:
    model = model_proto(SIGNATURES["decode.onnx"], length=-256)
    model.graph.initializer[0].dims[:] = [-1, 64]
    (bundle / "decode.onnx").write_bytes(model.SerializeToString())
    relist(bundle)
    assert "-256 bytes" in refused(bundle).message


@pytest.mark.parametrize("place", ["attribute", "subgraph", "function", "sparse", "list"])
def test_weights_hidden_in_a_node_are_found(bundle: Path, place: str) -> None:
    model = model_proto(SIGNATURES["decode.onnx"])
    hidden = onnx.TensorProto()
    hidden.CopyFrom(model_proto(SIGNATURES["decode.onnx"], location="../outside.bin").graph.initializer[0])
    kinds = {
        "attribute": onnx.AttributeProto.TENSOR,
        "list": onnx.AttributeProto.TENSORS,
        "sparse": onnx.AttributeProto.SPARSE_TENSOR,
        "subgraph": onnx.AttributeProto.GRAPH,
    }
    if place == "function":
        model.functions.add(name="f", domain="d").node.add(op_type="Constant").attribute.add(
            name="value"
        ).t.CopyFrom(hidden)
    else:
        attribute = model.graph.node.add(op_type="Add").attribute.add(name="a", type=kinds[place])
        if place == "attribute":
            attribute.t.CopyFrom(hidden)
        elif place == "list":
            attribute.tensors.add().CopyFrom(hidden)
        elif place == "sparse":
            attribute.sparse_tensor.values.CopyFrom(hidden)
        else:
            attribute.g.node.add(op_type="If").attribute.add(name="b").graphs.add().initializer.add().CopyFrom(
                hidden
            )
    (bundle / "decode.onnx").write_bytes(model.SerializeToString())
    relist(bundle)
    assert "which no graph of helium-edge has" in refused(bundle).message


def test_a_graph_that_is_no_onnx(bundle: Path) -> None:
    (bundle / "decode.onnx").write_bytes(b"\xff" * 100)
    relist(bundle)
    assert "decode.onnx: not readable as an ONNX graph" in refused(bundle).message


def test_a_graph_with_other_inputs_than_the_manifest_says(bundle: Path) -> None:
    shutil.copyfile(bundle / "prefill.onnx", bundle / "decode.onnx")
    relist(bundle)
    assert refused(bundle).message == (
        "decode.onnx: input 0 is input_ids int64[1, 8], the manifest says input_ids int64[1, 1]"
    )


def test_rows_that_the_manifest_does_not_call_free(bundle: Path) -> None:
    edit_manifest(bundle, lambda data: data["graphs"][2].update(free_rows=False))
    assert refused(bundle).message == (
        "decoder.onnx: input 2 is last_index int32['R'], the manifest says last_index int32[1]"
    )


def test_rows_that_are_not_free_whatever_the_manifest_says(bundle: Path) -> None:
    edit_manifest(bundle, lambda data: data["graphs"][0].update(free_rows=True))
    assert refused(bundle).message == (
        "prefill.onnx: input 2 is last_index int32[1], the manifest says last_index int32['R']"
    )


def test_a_graph_with_fewer_outputs_than_the_manifest_says(bundle: Path) -> None:
    model = model_proto(SIGNATURES["decode.onnx"])
    del model.graph.output[-1]
    (bundle / "decode.onnx").write_bytes(model.SerializeToString())
    relist(bundle)
    assert refused(bundle).message == "decode.onnx: has 2 outputs, the manifest says 3"


@pytest.mark.parametrize(
    ("genai", "says"),
    [
        ({"model": {"decoder": {"filename": "../evil.onnx"}}}, "'../evil.onnx' is no file of the bundle"),
        ({"model": {"decoder": {"pipeline": [{"a": {"filename": "/x"}}]}}}, "'/x' is no file of the bundle"),
        ({"model": {"decoder": {"session_options": {"custom_ops_library": "x.so"}}}}, "would load code"),
    ],
)
def test_a_genai_config_that_points_elsewhere(tmp_path: Path, genai: Any, says: str) -> None:
    with pytest.raises(BundleError) as caught:
        write_bundle(
            tmp_path / "b", meddle=lambda folder: (folder / "genai_config.json").write_text(json.dumps(genai))
        )
    assert says in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_unverified_opens_what_was_changed_but_not_what_has_no_manifest(bundle: Path) -> None:
    (bundle / "weights.bin").write_bytes(b"")
    assert open_bundle(bundle, unverified=True).manifest.cache_len == 32
    (bundle / "helium-edge.json").write_text("{}")
    with pytest.raises(BundleError):
        open_bundle(bundle, unverified=True)


def test_a_helpful_word_for_what_is_no_bundle(bundle: Path) -> None:
    root = bundle.parent
    (root / "checkpoint").mkdir()
    (root / "checkpoint" / "config.json").write_text("{}")
    (root / "checkpoint" / "model.safetensors").write_text("")
    (root / "b2.partial-00001234").mkdir()
    cases = {
        root / "nowhere": "no such folder",
        root: f"did you mean {bundle}?",
        bundle / "weights.bin": "is no bundle but a file",
        bundle / "decode.onnx": f"name its folder: {bundle}",
        bundle / "helium-edge.json": f"name its folder: {bundle}",
        root / "checkpoint": "export it first",
        root / "b2.partial-00001234": "did not end",
    }
    for path, says in cases.items():
        with pytest.raises(BundleError) as caught:
            open_bundle(path)
        assert says in str(caught.value), path
        assert caught.value.exit_code == 3
