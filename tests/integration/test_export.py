"""The whole path on real input: what is published, that it is the same each time, what failures leave behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helium_edge import check, export
from helium_edge.bundle import open_bundle, verify_bundle
from helium_edge.checkpoint import open_checkpoint
from helium_edge.errors import HeliumEdgeError, UsageError
from helium_edge.parity import LevelReport
from helium_edge.recipe import load_recipe
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import small_recipe
from tests.helpers.genai import genai_ids


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """helium-tiny through the recipe that ships, compared with the original on the way."""
    out = tmp_path_factory.mktemp("export") / "tiny-int4"
    result = export("helium-tiny", recipe="onnx-int4", out=out, threads=2)
    assert result.parity is not None
    assert result.parity.passed
    return out


def test_a_bundle_holds_what_a_host_needs(tiny_bundle: Path) -> None:
    expected = {
        "README.md", "config.json", "decode.onnx", "decoder.onnx", "genai.onnx", "genai_config.json",
        "generation_config.json", "helium-edge.json", "prefill.onnx", "special_tokens_map.json", "tokenizer.json",
        "tokenizer_config.json", "weights.bin",
    }  # fmt: skip
    assert {path.name for path in tiny_bundle.iterdir()} == expected
    assert [path.name for path in tiny_bundle.parent.iterdir()] == [tiny_bundle.name]
    verify_bundle(tiny_bundle)
    original = open_checkpoint("helium-tiny").folder
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"):
        assert (tiny_bundle / name).read_bytes() == (original / name).read_bytes()


def test_the_manifest_tells_what_was_done(tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    assert manifest.cache_len == 1024  # the recipe's 4096, capped at the model's context
    assert set(manifest.quantization.summary) == {"int4-g32", "int8"}
    assert manifest.golden is not None
    assert len(manifest.golden.greedy_ids) == 32
    assert manifest.parity is not None
    assert manifest.parity["passed"] is True
    text = json.dumps(json.loads((tiny_bundle / "helium-edge.json").read_text()))
    assert str(Path.home()) not in text
    assert "/tmp" not in text


def test_the_same_input_gives_the_same_bytes(tiny_bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "another-name"
    export("helium-tiny", recipe=load_recipe("onnx-int4"), out=again, threads=2)
    for path in sorted(tiny_bundle.iterdir()):
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


def test_parity_of_the_published_bundle(tiny_bundle: Path) -> None:
    """The static pair, too: the short check of `export` runs the graph that serves both phases."""
    report = check(tiny_bundle, tokens=500, threads=2, static=True)
    assert report.passed, report.failures
    assert [level.level for level in report.levels] == ["L0", "L1", "L2", "L3"]
    level = report.level("L3")
    assert isinstance(level, LevelReport)
    assert set(level.languages) == {"en", "fr", "de", "it", "pt", "es"}


def test_parity_refuses_another_checkpoint(tiny_bundle: Path, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other")
    with pytest.raises(HeliumEdgeError, match="not the file that the bundle was exported from") as info:
        check(tiny_bundle, checkpoint=str(other))
    assert info.value.exit_code == 3


def test_onnxruntime_genai_runs_the_bundle(tiny_bundle: Path) -> None:
    """It has no wheel for Python 3.10; where it is installed, it must generate the golden ids."""
    golden = open_bundle(tiny_bundle).manifest.golden
    assert golden is not None
    found = genai_ids(tiny_bundle, golden.prompt_ids, len(golden.greedy_ids), max_length=128)
    assert found == list(golden.greedy_ids)


def _break_shard(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _break_shape(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 4)
    save_file(tensors, path)


def _plant_nan(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, path)


def _only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _edit_config(**changes: object) -> object:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


BAD_CHECKPOINTS = {
    "missing folder": (lambda folder: folder.rename(folder.with_name("gone")), r"no such folder"),
    "truncated shard": (_break_shard, r"model\.safetensors"),
    "wrong shape": (_break_shape, r"model\.safetensors.*model\.layers\.1\.mlp\.up_proj\.weight"),
    "NaN": (_plant_nan, r"model\.safetensors.*model\.layers\.1\.mlp\.up_proj\.weight holds 1 NaN"),
    "pickle": (_only_pickle, r"pytorch_model\.bin"),
    "rope scaling": (_edit_config(rope_scaling={"rope_type": "yarn", "factor": 4.0}), r"rope_scaling"),
}


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_named_and_nothing_is_left(case: str, tmp_path: Path) -> None:
    damage, message = BAD_CHECKPOINTS[case]
    folder = make_checkpoint(tmp_path / "in" / "checkpoint")
    damage(folder)
    (tmp_path / "out").mkdir()
    with pytest.raises(HeliumEdgeError, match=message) as info:
        export(folder, recipe=small_recipe("onnx-int4"), out=tmp_path / "out" / "bundle", parity=False)
    assert info.value.exit_code == 3
    assert "\n" not in str(info.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_group_that_does_not_divide_is_a_recipe_error(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint")  # hidden_size 64
    recipe = small_recipe("onnx-int4", rules=[{"match": ".*", "scheme": "int4-g128"}])
    with pytest.raises(
        HeliumEdgeError, match=r"int4-g128 cannot take model\.embed_tokens\.weight: .* K = 64"
    ) as info:
        export(folder, recipe=recipe, out=tmp_path / "bundle", parity=False)
    assert info.value.exit_code == 2
    assert not (tmp_path / "bundle").exists()


def test_no_space_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """A file size limit stands for a full disk: writing weights.bin fails half way, as write(2) would."""
    folder = make_checkpoint(tmp_path / "checkpoint", vocab_size=2000)
    (tmp_path / "out").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(HeliumEdgeError, match=r"space|too large") as info:
            export(folder, recipe=small_recipe("onnx-fp32"), out=tmp_path / "out" / "bundle", parity=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert info.value.exit_code == 6
    assert list((tmp_path / "out").iterdir()) == []


_SLOW_EXPORT = """
import sys, time
from pathlib import Path
from helium_edge import export

class Slow:
    def stage(self, name, total=None, unit=""):
        self.name = name
    def advance(self, amount=1, note=""):
        print(f"{self.name}: {note}", flush=True)
        time.sleep(0.05)
    def tell(self, line):
        pass

export(sys.argv[1], recipe="onnx-int4", out=sys.argv[2], parity=False, progress=Slow())
"""


def test_a_killed_export_is_taken_up_again(tmp_path: Path) -> None:
    out = tmp_path / "out" / "bundle"
    out.parent.mkdir()
    command = [sys.executable, "-c", _SLOW_EXPORT, "helium-tiny", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("quantize and write: model.layers.3"):
                process.kill()
                break
    store = out.parent / ".bundle.store"
    kept = {path.name: path.stat().st_mtime_ns for path in store.iterdir() if path.suffix == ".safetensors"}
    assert len(kept) > 20
    assert not out.exists()
    deadline, seen = time.monotonic() + 120, {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in process.stdout:
            for path in store.iterdir() if store.exists() else ():
                if path.suffix == ".safetensors":
                    seen[path.name] = path.stat().st_mtime_ns if path.exists() else 0
            assert time.monotonic() < deadline
    assert process.returncode == 0
    assert {name: seen[name] for name in kept} == kept  # taken up, not written anew
    assert sorted(os.listdir(out.parent)) == ["bundle"]
    verify_bundle(out)


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names of files are Unicode there")
@pytest.mark.parametrize("place", ["source", "out", "store"])
def test_a_name_that_is_not_utf8_is_refused_as_such(tiny_checkpoint: Path, tmp_path: Path, place: str) -> None:
    name = tmp_path / os.fsdecode(b"mod\xe8le")
    if place == "source":
        shutil.copytree(tiny_checkpoint, name)
    paths = {"source": tiny_checkpoint, "out": tmp_path / "out", "store": tmp_path / "store"} | {place: name}
    with pytest.raises(UsageError, match=r"mod\\udce8le.* is not UTF-8"):
        export(
            paths["source"], recipe="onnx-int4", out=paths["out"], store=paths["store"], run=False, parity=False
        )
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_written_to_meanwhile_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Else the manifest would name the hash of other bytes than were read."""
    source = Path(shutil.copytree(tiny_checkpoint, tmp_path / "c"))

    class Writer:
        def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
            if name == "describe":
                os.utime(source / "model.safetensors", (1, 1))

        def advance(self, amount: int = 1, note: str = "") -> None: ...

        def tell(self, line: str) -> None: ...

    with pytest.raises(HeliumEdgeError, match=r"model\.safetensors: changed while the checkpoint was in use"):
        export(source, recipe=small_recipe("onnx-int8"), out=tmp_path / "b", parity=False, progress=Writer())
    assert not (tmp_path / "b").exists()
