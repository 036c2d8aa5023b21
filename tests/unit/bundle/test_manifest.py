from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_edge.bundle.manifest import Manifest, parse_manifest, read_manifest
from helium_edge.bundle.schema import document_schema
from helium_edge.bundle.sections import FileEntry
from helium_edge.errors import BundleError
from helium_edge.signature import GraphSignature, cache_spec
from tests.unit.bundle.bundles import CACHE, CONFIG, SIGNATURES, make_manifest

OPTIONAL = {
    "chat", "head", "parity", "golden", "schema_version", "schema", "manifest_sha256", "runtime_min_version",
}  # fmt: skip
NAMES = [*SIGNATURES, "config.json", "tokenizer.json", "weights.bin"]
WHOLE = make_manifest().with_files(
    FileEntry(path=name, bytes=index, sha256="0" * 64) for index, name in enumerate(NAMES)
)


def document() -> dict[str, Any]:
    return json.loads(WHOLE.to_json())


def parse(data: Any) -> Manifest:
    return parse_manifest(json.dumps(data).encode())


def change(data: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    node: Any = data
    *parents, last = place.split(".")
    for part in parents:
        node = node[int(part) if part.isdigit() else part]
    if isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value
    return data


def test_a_manifest_survives_writing_and_reading() -> None:
    text = WHOLE.to_json()
    again = parse_manifest(text.encode())
    assert again == WHOLE
    assert again.to_json() == text


def test_the_text_has_sorted_keys_a_final_newline_and_plain_unicode() -> None:
    text = WHOLE.to_json()
    data = json.loads(text, object_pairs_hook=lambda pairs: [key for key, _ in pairs] or {})
    assert data == sorted(data)
    assert text.endswith("}\n")
    assert "Grüße" in text
    assert '"schema": "helium-edge/bundle"' in text


def test_files_are_sorted_whatever_order_they_come_in() -> None:
    entries = [FileEntry(path=name, bytes=1, sha256="0" * 64) for name in ("b.bin", "a/c.bin", "a.bin")]
    assert [entry.path for entry in make_manifest().with_files(entries).files] == ["a.bin", "a/c.bin", "b.bin"]


def test_the_fields_that_hosts_read() -> None:
    """Literal names, written by hand: a rename in the models must fail here."""
    data = document()
    assert set(data) == {
        "schema", "schema_version", "name", "created_by", "runtime", "target", "source", "model", "tokens",
        "tokenizer", "quantization", "head", "graphs", "cache", "logits", "prefill_len", "cache_len", "generation",
        "memory", "parity", "golden", "files", "manifest_sha256", "runtime_min_version", "chat",
    }  # fmt: skip
    graph = data["graphs"][0]
    assert set(graph) == {
        "file", "method", "phase", "tokens", "cache_len", "inputs", "outputs", "planned_outputs", "free_rows",
        "required_operators", "required_libraries",
    }  # fmt: skip
    assert (graph["file"], graph["method"], graph["phase"], graph["tokens"]) == (
        "prefill.onnx",
        None,
        "prefill",
        8,
    )
    assert graph["inputs"][0] == {"name": "input_ids", "role": "tokens", "dtype": "int64", "shape": [1, 8]}
    assert data["graphs"][2]["inputs"][0]["shape"] == [1, "T"]
    assert data["graphs"][2]["tokens"] is None
    assert [each["free_rows"] for each in data["graphs"]] == [False, False, True]
    assert data["graphs"][2]["outputs"][0]["shape"] == [1, 1, 160]  # of one row, by which older hosts allocate
    assert graph["inputs"][3] == {
        "name": "past_key_values.0.key", "role": "past_key", "dtype": "float32", "shape": [1, 2, 32, 16],
    }  # fmt: skip
    assert graph["outputs"][0] == {"name": "logits", "role": "logits", "dtype": "float32", "shape": [1, 1, 160]}
    assert data["cache"] == {
        "update": "in_place", "layout": ["batch", "kv_head", "slot", "head_dim"], "shape": [1, 2, 32, 16],
        "dtype": "float32", "layers": 1, "bytes_per_token": 256, "total_bytes": 8192, "keys": "post_rope",
        "scales": None,
    }  # fmt: skip
    assert data["model"]["rope"] == {
        "theta": 100000.0, "layout": "half_split", "checkpoint_layout": "interleaved", "in_graph": True,
    }  # fmt: skip
    assert data["tokens"] == {"bos": 1, "eos": [2], "pad": 3, "add_bos": True, "forbidden": []}
    assert set(data["files"][0]) == {"path", "bytes", "sha256"}
    assert data["memory"]["total_bytes"] == 9000 + 8192 + 1000


def test_quantization_is_summed_up_by_scheme() -> None:
    section = document()["quantization"]
    assert section["summary"] == {
        "float32": {"weights": 1, "parameters": 10240, "bytes": 40960},
        "int4-g32": {"weights": 1, "parameters": 6144, "bytes": 3840},
        "int8": {"weights": 1, "parameters": 10240, "bytes": 10880},
    }
    assert section["excluded"] == ["lm_head.weight"]
    assert section["weights_bytes"] == 40960 + 3840 + 10880
    assert section["worst_weight"] == "model.layers.0.mlp.up_proj.weight"
    assert section["worst_relative_error"] == 0.08
    assert section["mean_relative_error"] == pytest.approx((0.01 * 10240 + 0.08 * 6144) / 16384, rel=1e-5)
    assert section["recipe"]["targets"]["onnx"]["dialect"] == "contrib"


def test_the_schema_is_one_and_accepts_what_is_written() -> None:
    schema = json.loads(document_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(document())


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("prefill_len", 0, "prefill_len: 0 is less than the minimum"),
        ("prefill_len", 8.5, "prefill_len: 8.5 is not of type 'integer'"),
        ("prefill_len", 8.0, "prefill_len: 8.0 is not of type 'integer'"),
        ("prefill_len", "8", "prefill_len: '8' is not of type 'integer'"),
        ("prefill_len", True, "prefill_len: True is not of type 'integer'"),
        ("prefill_len", 2**53, "prefill_len: "),
        ("graphs", [], "graphs: [] should be non-empty"),
        ("graphs.1.phase", "warmup", "graphs[1].phase: 'warmup' is not one of"),
        ("graphs.1.inputs.0.shape.0", 1.5, "graphs[1].inputs[0].shape[0]"),
        ("graphs.1.inputs.0.dtype", "Float 32", "graphs[1].inputs[0].dtype"),
        ("cache.update", "magic", "cache.update: 'magic' is not one of"),
        ("cache.keys", "pre_rope", "cache.keys: 'post_rope' was expected"),
        ("tokens.eos", None, "tokens.eos: None is not of type 'array'"),
        ("files.0.sha256", "AB" * 32, "files[0].sha256"),
        ("files.0.bytes", -1, "files[0].bytes: -1 is less than"),
        ("golden.prompt_ids", [], "golden"),
        ("model", 7, "model: 7 is not of type 'object'"),
        ("name", "x" * 5000, "name: 'xxx"),
    ],
)
def test_a_violation_is_named_by_its_field_in_one_short_line(place: str, value: Any, says: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse(change(document(), place, value))
    assert says in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 250


@pytest.mark.parametrize("field", sorted(document().keys() - OPTIONAL))
def test_a_missing_field_is_named(field: str) -> None:
    data = document()
    del data[field]
    with pytest.raises(BundleError, match=f"'{field}' is a required property"):
        parse(data)


@pytest.mark.parametrize(
    "path",
    ["../weights.bin", "a/../../b", "/etc/passwd", "C:/x", "C:\\x", "a\\b", ".", "..", "", "a//b", "a/", ".hidden",
     "a/.ssh", "~/x", "a\nb", "a\x00b", "x" * 256, "weights.bin\n"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["files.0.path", "graphs.0.file", "tokenizer.file"])
def test_a_path_that_is_no_plain_relative_one_is_refused(path: str, place: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse(change(document(), place, path))
    assert "\n" not in caught.value.message


@given(st.text(max_size=40))
def test_no_accepted_path_leaves_the_folder(path: str) -> None:
    try:
        entry = FileEntry(path=path, bytes=1, sha256="0" * 64)
    except ValueError:
        return
    root = Path("/bundle/root")
    assert root in (root / entry.path).parents
    assert ".." not in entry.path.split("/")
    assert not set(entry.path) & set("\\:\x00 ")


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("files.1", document()["files"][0], "one file twice"),
        ("files.1.path", document()["files"][0]["path"].upper(), "one file twice"),
        ("files.1.path", "HELIUM-EDGE.json", "the manifest itself"),
        ("graphs.0.file", "other.onnx", "graphs[0].file = 'other.onnx' is not among the files"),
        ("tokenizer.file", "other.json", "tokenizer.file = 'other.json' is not among the files"),
        ("graphs.1", document()["graphs"][0], "two entries of one phase"),
        ("graphs.0.tokens", 4, "prefill_len = 8, but the prefill graphs take up to 4 tokens"),
        ("prefill_len", 16, "prefill_len = 16, but the prefill graphs take up to 8 tokens"),
        ("cache_len", 33, "cache_len = 33"),
        ("cache.total_bytes", 8193, "cache.bytes_per_token"),
        ("cache.bytes_per_token", 255, "cache.bytes_per_token"),
        ("cache.shape", [2, 2, 32, 16], "cache.shape"),
        ("cache.shape", [2, 32, 16], "cache.shape"),
        ("cache.layout", ["slot", "batch", "kv_head", "head_dim"], "cache.layout"),
        ("cache.dtype", "int3", "cache.dtype = 'int3'"),
        ("tokens.eos", [2, 160], "tokens.eos holds the id 160"),
        ("tokens.bos", 160, "tokens.bos holds the id 160"),
        ("golden.greedy_ids", [7, 999], "golden holds the id 999"),
        ("golden.margins", [0.5], "1 margins do not fit 2 greedy ids"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(place: str, value: Any, says: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse(change(document(), place, value))
    assert says in caught.value.message


def test_a_minor_version_with_more_fields_is_read() -> None:
    data = document() | {"schema_version": "1.99", "voice": {"speaker": 3}}
    data["cache"]["paging"] = "none"
    data["graphs"][0]["inputs"][1]["role"] = "a_role_of_tomorrow"
    data["files"][0]["required_by"] = ["onnx"]
    manifest = parse(data)
    assert manifest.schema_version == "1.99"
    assert manifest.cache.to_spec() == CACHE
    assert manifest.graphs[0].inputs[1].role == "a_role_of_tomorrow"


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("2.0", "made by a newer helium-edge"),
        ("11.3", "made by a newer helium-edge"),
        ("0.9", "no longer read"),
        ("one", "is no version"),
        ("9" * 6000, "is no version"),
        ("", "is no version"),
        (1.0, "is no version"),
        (None, "is no version"),
    ],
)
def test_other_major_versions_are_refused_before_anything_else(version: Any, says: str) -> None:
    # The rest may have any form in another major version.
    with pytest.raises(BundleError) as caught:
        parse({"schema": "helium-edge/bundle", "schema_version": version, "files": "elsewhere"})
    assert says in caught.value.message


def test_a_newer_major_version_says_to_update() -> None:
    with pytest.raises(BundleError) as caught:
        parse(document() | {"schema_version": "2.0"})
    assert "git pull" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not readable as JSON"),
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 200_000, "not readable as JSON"),
        (b'{"schema": "helium-edge/bundle", "schema": 1}', "'schema' stands twice"),
        (b'{"schema": NaN}', "NaN is no JSON number"),
        (b'{"n": ' + b"9" * 6000 + b"}", "not readable as JSON"),
        (b"[]", "not a helium-edge manifest"),
        (b'{"schema": "other"}', "not a helium-edge manifest"),
        (b"null", "not a helium-edge manifest"),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse_manifest(data, where="x.json")
    assert caught.value.message.startswith("x.json: ")
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "helium-edge.json"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(BundleError, match="are too many"):
        read_manifest(path)


def _places(node: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place, *(inner for key in keys for inner in _places(node[key], (*place, key)))]


def outcome(data: bytes) -> Manifest | str:
    """The manifest, or the message that refuses it; any other exception is a bug."""
    try:
        return parse_manifest(data)
    except BundleError as error:
        return error.message


PLACES = _places(document())[1:]
SCHEMA = jsonschema.Draft202012Validator(json.loads(document_schema()))
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150)
@given(st.sampled_from(PLACES), ANYTHING)
def test_whatever_stands_in_any_place_is_read_or_refused(place: tuple[Any, ...], value: Any) -> None:
    data: Any = document()
    node = data
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    found = outcome(json.dumps(data).encode())
    # One validation, that of the models, refuses all that the published schema does.
    if isinstance(found, Manifest) and place != ("manifest_sha256",):
        assert [error.message for error in SCHEMA.iter_errors(json.loads(json.dumps(data)))] == []
    if isinstance(found, Manifest):
        assert parse_manifest(found.to_json().encode()) == found
    else:
        assert "\n" not in found
        assert len(found) < 400


@settings(max_examples=150)
@given(st.integers(0, len(WHOLE.to_json()) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_damaged_bytes_are_read_or_refused(at: int, new: bytes, drop: int) -> None:
    data = WHOLE.to_json().encode()
    found = outcome(data[:at] + new + data[at + drop :])
    assert isinstance(found, Manifest) or "\n" not in found


@pytest.mark.parametrize("update", ["in_place", "append"])
@pytest.mark.parametrize("batched", [True, False])
def test_cache_and_graphs_turn_back_into_what_they_came_from(update: Any, batched: bool) -> None:
    cache = cache_spec(CONFIG, 32, update, batched=batched)
    signature = GraphSignature("prefill", 8, CONFIG.vocab_size, cache, logits="all")
    manifest = make_manifest(
        cache=type(WHOLE.cache).from_spec(cache),
        graphs=[type(WHOLE.graphs[0]).from_signature("prefill.onnx", signature)],
        logits="all",
    ).with_files(WHOLE.files)
    again = parse_manifest(manifest.to_json().encode())
    assert again.cache.to_spec() == cache
    assert again.graphs[0].input_specs() == signature.inputs()
    assert again.graphs[0].output_specs() == signature.outputs()
    spec = again.decoder_spec()
    assert (spec.vocab_size, spec.cache, spec.prefill_len, spec.logits) == (160, cache, 8, "all")
    assert again.graph_files() == {"prefill": "prefill.onnx"}
