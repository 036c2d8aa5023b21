"""Class 8, artifacts: bundles that were damaged, or made by somebody of bad will."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from helium_edge.bundle.seal import sealed_json
from tests.helpers.hub_cache import to_hub_cache
from tests.hostile.case import CATALOGUE, INPUT, OK, Sandbox

BUNDLES = "8. Bundles"
MANIFEST = "helium-edge.json"
add, refer = CATALOGUE.add, CATALOGUE.refer
VERIFY = ["verify", "bundle"]
GENERATE = ["generate", "bundle", "a", "--max-new-tokens", "1"]
FILES = (
    "weights.bin",
    "decoder.onnx",
    "prefill.onnx",
    "decode.onnx",
    "genai.onnx",
    "genai_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "generation_config.json",
    MANIFEST,
)

Meddle = Callable[[Path], Any]


def _bundle(
    what: str, meddle: Meddle, *says: str, argv: list[str] = VERIFY, code: int = INPUT, note: str = ""
) -> None:
    @add(BUNDLES, what, *says, code=code, note=note)
    def _(box: Sandbox) -> list[str]:
        meddle(box.bundle("bundle"))
        return argv


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest and give it a right checksum again, as an attacker would."""
    data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    change(data)
    (folder / MANIFEST).write_text(sealed_json(data), encoding="utf-8")


def relist(folder: Path) -> None:
    """Make the manifest agree with the files."""

    def change(data: dict[str, Any]) -> None:
        for entry in data["files"]:
            content = (folder / entry["path"]).read_bytes()
            entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    edit_manifest(folder, change)


def _edited(what: str, change: Callable[[dict[str, Any]], Any], *says: str, **options: Any) -> None:
    _bundle(f"manifest: {what}", lambda folder: edit_manifest(folder, change), *(says or (MANIFEST,)), **options)


_bundle("intact", lambda folder: None, code=OK)


# -- damage, file by file


def _flip(name: str, where: str) -> Meddle:
    def meddle(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[{"first": 0, "middle": len(content) // 2, "last": -1}[where]] ^= 1
        (folder / name).write_bytes(content)

    return meddle


def _replaced(name: str, make: Callable[[Path, Path], Any]) -> Meddle:
    def meddle(folder: Path) -> None:
        moved = folder.parent / "moved"
        (folder / name).rename(moved)
        make(folder / name, moved)

    return meddle


for _name in FILES:
    _bundle(f"{_name}: a flipped bit in the middle", _flip(_name, "middle"), _name)
    _bundle(
        f"{_name}: one byte shorter",
        lambda folder, name=_name: os.truncate(folder / name, (folder / name).stat().st_size - 1),
        _name,
    )
    _bundle(f"{_name}: deleted", lambda folder, name=_name: (folder / name).unlink(), _name)
for _name in ("weights.bin", "decoder.onnx", MANIFEST):
    _bundle(f"{_name}: a flipped bit in the first byte", _flip(_name, "first"), _name)
    _bundle(f"{_name}: a flipped bit in the last byte", _flip(_name, "last"), _name)
    _bundle(
        f"{_name}: one byte longer",
        lambda folder, name=_name: (folder / name).write_bytes((folder / name).read_bytes() + b" "),
        _name,
    )
    _bundle(f"{_name}: empty", lambda folder, name=_name: (folder / name).write_bytes(b""), _name)
    _bundle(
        f"{_name}: a symbolic link to the same bytes",
        _replaced(_name, lambda path, moved: path.symlink_to(moved)),
        _name,
        "symbolic link",
    )
    _bundle(
        f"{_name}: a link to an endless device",
        _replaced(_name, lambda path, moved: path.symlink_to("/dev/zero")),
        _name,
        "symbolic link",
    )
    _bundle(
        f"{_name}: a FIFO",
        _replaced(_name, lambda path, moved: os.mkfifo(path)),
        MANIFEST if _name == MANIFEST else _name,
    )
    _bundle(f"{_name}: a folder", _replaced(_name, lambda path, moved: path.mkdir()), _name)
_bundle(
    "weights.bin: a hard link",
    lambda folder: os.link(folder / "weights.bin", folder.parent / "other"),
    "weights.bin",
    "hard link",
)


def _swap(folder: Path) -> None:
    (folder / "prefill.onnx").rename(folder / "x")
    (folder / "decode.onnx").rename(folder / "prefill.onnx")
    (folder / "x").rename(folder / "decode.onnx")


_bundle("two graphs swapped", _swap, "decode.onnx", "prefill.onnx")
_bundle(
    "two graphs swapped, the manifest made to agree",
    lambda folder: (_swap(folder), relist(folder)),
    "onnx",
    "the manifest says",
)
_bundle("an extra file", lambda folder: (folder / "evil.so").write_bytes(b"x"), "evil.so", "not listed")
_bundle("an extra hidden file", lambda folder: (folder / ".env").write_bytes(b"x"), ".env", "not listed")
_bundle("an extra folder", lambda folder: (folder / "sub").mkdir(), "sub/", "not listed")
_bundle("an extra link to the root", lambda folder: (folder / "root").symlink_to("/"), "root", "symbolic link")
_bundle("a file whose name is an escape sequence", lambda folder: (folder / "\x1b[31m").write_bytes(b"x"), "\\x1b")
_bundle("1,000 extra files", lambda folder: [(folder / f"x{i}").touch() for i in range(1000)], "and 997 more")


# -- what git, the Hub, archives and file managers leave


def _beside(path: str, content: bytes = b"x") -> Meddle:
    def meddle(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)

    return meddle


for _path in (
    ".gitattributes", ".gitignore", ".git/config", ".git", ".cache/huggingface/download/weights.bin.metadata",
    ".huggingface/x", ".DS_Store", "._weights.bin", "__MACOSX/._weights.bin", "Thumbs.db", "desktop.ini",
    ".nfs0000000000a1b2c300000001", "weights.bin~", ".config.json.swp", "LICENSE",
    "helium-edge.json.sig",
):  # fmt: skip
    _bundle(f"{_path} beside it", _beside(_path), code=OK, note="ignored, and named by verify")
_bundle(
    "README.md: edited", _beside("README.md"), code=OK, note="the card may be edited on the Hub; no host reads it"
)
_bundle("README.md: deleted", lambda folder: (folder / "README.md").unlink(), code=OK, note="likewise")
for _path in (".cache/evil.so", ".cache/huggingface.so", "sub/.git", ".gitattributes.so", ".nfs1"):
    _bundle(f"{_path} beside it", _beside(_path), _path.partition(".git")[0] or _path, "not listed")
for _path in (".git", ".DS_Store", ".cache", "README.md"):
    _bundle(
        f"{_path} is a link",
        lambda folder, path=_path: (
            (folder / path).unlink(missing_ok=True),
            (folder / path).symlink_to("/etc"),
        ),
        _path,
        "symbolic link",
    )
_bundle(".DS_Store is a FIFO", lambda folder: os.mkfifo(folder / ".DS_Store"), ".DS_Store", "no plain file")

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"
_bundle(
    "weights.bin: a Git LFS pointer", _beside("weights.bin", _POINTER), "weights.bin", "Git LFS", "git lfs pull"
)
_bundle(f"{MANIFEST}: a Git LFS pointer", _beside(MANIFEST, _POINTER), MANIFEST, "Git LFS", "git lfs pull")


# -- the Hub's cache


def _cached(what: str, meddle: Meddle, *says: str, **options: Any) -> None:
    def moved(folder: Path) -> None:
        snapshot = to_hub_cache(folder, folder.parent / "hub")
        meddle(snapshot)
        folder.symlink_to(snapshot)

    _bundle(f"in the Hub's cache: {what}", moved, *says, **options)


def _linked(name: str, target: str) -> Meddle:
    def meddle(snapshot: Path) -> None:
        outside = snapshot.parents[2] / "outside"
        (snapshot / name).resolve().replace(outside)
        (snapshot / name).unlink()
        shutil.copy(outside, snapshot.parents[1] / "outside")
        (snapshot / name).symlink_to(target)

    return meddle


_cached("verify", lambda snapshot: None, code=OK)
_cached("generate", lambda snapshot: None, argv=GENERATE, code=OK)
_cached(
    ".gitattributes is a blob",
    lambda folder: (folder / ".gitattributes").symlink_to((folder / MANIFEST).resolve()),
    code=OK,
)
for _name in ("weights.bin", MANIFEST):
    _cached(f"{_name} links out of the cache", _linked(_name, "../../../outside"), _name, "symbolic link")
    _cached(f"{_name} links out of the blobs", _linked(_name, "../../outside"), _name, "symbolic link")
    _cached(f"the blob of {_name} is lost", lambda folder, name=_name: (folder / name).resolve().unlink(), _name)
_cached(
    "a blob is a link",
    lambda folder: (
        (folder / "weights.bin").resolve().rename(folder / "x"),
        Path(os.readlink(folder / "weights.bin")).name,
        (folder.parents[1] / "blobs" / Path(os.readlink(folder / "weights.bin")).name).symlink_to("/dev/zero"),
        (folder / "x").unlink(),
    ),
    "weights.bin",
    "symbolic link",
)
_cached(
    "weights.bin links to a blob of other bytes",
    lambda folder: (
        (folder / "weights.bin").unlink(),
        (folder / "weights.bin").symlink_to((folder / MANIFEST).resolve()),
    ),
    "weights.bin",
)


# -- the manifest, its checksum made right again


def _listed(path: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda data: data["files"].append({"path": path, "bytes": 1, "sha256": "0" * 64})


for _path in ("../outside", "/etc/passwd", "a/../../outside", "C:\\x", "a\\b", ".hidden", "", "a//b"):
    _edited(f"a file named {_path!r}", _listed(_path), MANIFEST, "plain relative path")
_edited("a file listed twice", lambda data: data["files"].append(data["files"][0]), MANIFEST, "one file twice")
_edited("two names that differ in case only", _listed("WEIGHTS.bin"), MANIFEST, "one file twice")
_edited("lists itself", _listed(MANIFEST), MANIFEST, "the manifest itself")
_edited(
    "a graph out of the folder",
    lambda data: data["graphs"][0].update(file="../x.onnx"),
    MANIFEST,
    "graphs[0].file",
)
_edited("a graph that is not listed", lambda data: data["graphs"][0].update(file="x.onnx"), MANIFEST, "x.onnx")
_edited(
    "a tokenizer out of the folder", lambda data: data["tokenizer"].update(file="../t"), MANIFEST, "tokenizer.file"
)
_edited("a newer major version", lambda data: data.update(schema_version="2.0"), MANIFEST, "newer helium-edge")
_edited("an older major version", lambda data: data.update(schema_version="0.9"), MANIFEST, "no longer read")
_edited("a later minor version with more fields", lambda data: data.update(schema_version="1.9", voice=1), code=OK)
_edited("a version of 6,000 digits", lambda data: data.update(schema_version="9" * 6000), MANIFEST, "version")
_edited("another schema", lambda data: data.update(schema="x"), MANIFEST, "not a helium-edge manifest")
_edited("no graphs", lambda data: data.update(graphs=[]), MANIFEST, "graphs")
_edited("a cache of 2^53 bytes", lambda data: data["cache"].update(total_bytes=2**53 - 1), MANIFEST, "cache")
_edited("a shape with 2^53", lambda data: data["graphs"][0]["inputs"][0].update(shape=[1, 2**53 - 1]), "onnx")
_edited("a shape with -1", lambda data: data["graphs"][0]["inputs"][0].update(shape=[1, -1]), MANIFEST, "inputs")
_edited("another vocab_size", lambda data: data["model"].update(vocab_size=7), MANIFEST, "vocabulary")
_edited("100,000 files", lambda data: data.update(files=data["files"] * 8000), MANIFEST, "too many")
_edited(
    "an end token beyond the vocabulary", lambda data: data["tokens"].update(eos=[160]), MANIFEST, "tokens.eos"
)
_edited("a size that is a text", lambda data: data["files"][0].update(bytes="1"), MANIFEST, "files[0].bytes")
_bundle("manifest: 2 MiB", lambda folder: (folder / MANIFEST).write_bytes(b" " * (2 << 20)), MANIFEST, "too many")
_bundle("manifest: 100,000 lists deep", lambda folder: (folder / MANIFEST).write_bytes(b"[" * 100_000), MANIFEST)
_bundle(
    "manifest: a key given twice",
    lambda folder: (folder / MANIFEST).write_bytes(b'{"a": 1, "a": 2}'),
    MANIFEST,
    "stands twice",
)
_bundle(
    "manifest: edited without its checksum",
    lambda folder: (folder / MANIFEST).write_text(
        (folder / MANIFEST).read_text().replace('"max_new_tokens": 256', '"max_new_tokens": 257')
    ),
    MANIFEST,
    "was changed",
)
_bundle(
    "manifest: its checksum removed",
    lambda folder: (folder / MANIFEST).write_text(
        (folder / MANIFEST).read_text().replace("manifest_sha256", "manifest_sha257")
    ),
    MANIFEST,
    "checksum",
)


# -- graphs, the manifest made to agree


def _graph(what: str, change: Callable[[onnx.ModelProto], Any], *says: str, **options: Any) -> None:
    def meddle(folder: Path) -> None:
        model = onnx.load(str(folder / "decoder.onnx"), load_external_data=False)
        change(model)
        (folder / "decoder.onnx").write_bytes(model.SerializeToString())
        (folder.parent / "outside.bin").write_bytes(bytes(1 << 20))
        relist(folder)

    _bundle(f"decoder.onnx: {what}", meddle, "decoder.onnx", *says, **options)


def _external(**fields: str) -> Callable[[onnx.ModelProto], Any]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(item for item in model.graph.initializer if item.external_data)
        for field, value in fields.items():
            found = [entry for entry in tensor.external_data if entry.key == field]
            entry = found[0] if found else tensor.external_data.add(key=field)
            entry.value = value

    return change


_graph("weights in ../outside.bin", _external(location="../outside.bin"), "no file of the bundle")
_graph("weights in /etc/passwd", _external(location="/etc/passwd"), "no file of the bundle")
_graph("weights in the manifest", _external(location=MANIFEST), "no file of the bundle")
_graph("weights at a negative offset", _external(offset="-4096"), "-4096")
_graph("weights at an offset of 2^70", _external(offset=str(1 << 70)), "are said to be")
_graph("weights longer than the file", _external(length=str(1 << 40)), "are said to be")
_graph("a field that is none of external data", _external(__class__="x"), "has the fields")
_graph("another opset", lambda model: setattr(model.opset_import[0], "version", 9999), "opset", argv=GENERATE)
_graph("another IR version", lambda model: setattr(model, "ir_version", 9999), "", argv=GENERATE)
_graph(
    "an operator that does not exist", lambda model: setattr(model.graph.node[0], "op_type", "Evil"), argv=GENERATE
)
_graph(
    "an input of another type",
    lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", onnx.TensorProto.FLOAT),
    "the manifest says",
)
_graph("an output less", lambda model: model.graph.output.pop(), "the manifest says")
_bundle(
    "decoder.onnx: no graph at all",
    lambda folder: ((folder / "decoder.onnx").write_bytes(b"\xff" * 100), relist(folder)),
    "decoder.onnx",
    "not readable as an ONNX graph",
)
_bundle(
    "decoder.onnx: 100 MB",
    lambda folder: (os.truncate(folder / "decoder.onnx", 100 << 20), relist(folder)),
    "decoder.onnx",
    "too many",
)


def _genai(what: str, content: Any, *says: str) -> None:
    def meddle(folder: Path) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "genai_config.json").write_text(text)
        relist(folder)

    _bundle(f"genai_config.json: {what}", meddle, "genai_config.json", *says)


_genai("a graph out of the folder", {"model": {"decoder": {"filename": "../x.onnx"}}}, "../x.onnx")
_genai("an absolute graph", {"model": {"decoder": {"filename": "/x.onnx"}}}, "/x.onnx")
_genai("a graph that is a list", {"model": {"decoder": {"filename": ["genai.onnx"]}}}, "no file of the bundle")
_genai(
    "a library of operators", {"model": {"decoder": {"session_options": {"custom_ops_library": "x.so"}}}}, "code"
)
_genai("2 MiB", " " * (2 << 20), "too many")
_genai("100,000 lists deep", "[" * 100_000, "not readable as JSON")


def _tokenizer(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["normalizer"] = {"type": "Replace", "pattern": {"String": ""}, "content": "x"}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    relist(folder)


_bundle(
    "tokenizer.json: a normalizer that blows a text up",
    _tokenizer,
    "tokenizer.json",
    "times as long",
    argv=GENERATE,
)


# -- the choice of the user


def _zeros(folder: Path) -> None:
    path = folder / "weights.bin"
    path.write_bytes(bytes(path.stat().st_size))


_bundle("changed weights: generate", _zeros, "weights.bin", "was changed", argv=GENERATE)
_bundle("changed weights: parity", _zeros, "weights.bin", "was changed", argv=["parity", "bundle"])
_bundle(
    "changed weights: generate --unverified",
    _zeros,
    argv=[*GENERATE, "--unverified"],
    code=OK,
    note="the user insists",
)
_bundle(
    "changed manifest: generate --unverified",
    lambda folder: (folder / MANIFEST).write_text(
        (folder / MANIFEST).read_text().replace('"max_new_tokens": 256', '"max_new_tokens": 257')
    ),
    argv=[*GENERATE, "--unverified"],
    code=OK,
    note="the user insists",
)
_bundle(
    "changed graph: generate --unverified",
    lambda folder: (folder / "decoder.onnx").write_bytes(b"\xff" * 100),
    "decoder.onnx",
    argv=[*GENERATE, "--unverified"],
)
_bundle(
    "weights cut: generate --unverified",
    lambda folder: os.truncate(folder / "weights.bin", 5000),
    "decoder.onnx",
    "weight",
    argv=[*GENERATE, "--unverified"],
)
_bundle(
    "no manifest: generate --unverified",
    lambda folder: (folder / MANIFEST).unlink(),
    MANIFEST,
    argv=[*GENERATE, "--unverified"],
)
_bundle("a folder that does not exist", shutil.rmtree, "no such folder")

refer(
    BUNDLES,
    "any flipped bit of any byte of a manifest",
    "refused",
    "tests/unit/bundle/test_seal.py::test_any_flipped_bit_of_any_byte_is_noticed",
)
refer(
    BUNDLES,
    "every byte of every file flipped",
    "refused, the file is named",
    "tests/hostile/test_mutations.py::test_every_flipped_byte_of_a_bundle",
)
refer(
    BUNDLES,
    "graphs and programs are loaded only after verification",
    "no loader is called",
    "tests/hostile/test_mutations.py::test_nothing_is_loaded_of_a_bundle_that_does_not_verify",
)
refer(
    BUNDLES,
    "decoder.pte of another config",
    "refused",
    "tests/integration/test_xnnpack_runner.py::test_a_program_of_other_shapes_is_refused",
)
refer(
    BUNDLES,
    "decoder.pte without the methods of the manifest",
    "refused, the method is named",
    "tests/integration/test_xnnpack_runner.py::test_missing_methods_are_named",
)
refer(
    BUNDLES,
    "weights hidden in attributes, subgraphs and functions of a graph",
    "found and refused",
    "tests/unit/bundle/test_verify.py::test_weights_hidden_in_a_node_are_found",
)
