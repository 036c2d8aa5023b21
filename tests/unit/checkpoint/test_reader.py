from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.errors import CheckpointError, ConfigError
from helium_edge.model.weights import matrix_names, read_weight, vector_names
from tests.helpers.checkpoints import make_checkpoint, random_weights, tiny_config, write_weights
from tests.unit.checkpoint.support import FIRST, INDEX, NORM, SECOND, SINGLE, refusal


def test_the_folder_must_have_a_config(single: Path) -> None:
    (single / "config.json").unlink()
    text = refusal(single, ConfigError)
    assert f"{single / 'config.json'}: no such file" in text
    assert "a checkpoint folder holds config.json and *.safetensors" in text


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "config.json: no such file" in refusal(tmp_path)


def test_no_weights(single: Path) -> None:
    (single / SINGLE).unlink()
    assert refusal(single) == f"{single}: has neither {SINGLE} nor {INDEX}"


def test_weights_of_other_names_are_shown(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    assert f"has neither {SINGLE} nor {INDEX}; found {FIRST}, {SECOND}" in refusal(sharded)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "x.ckpt", "x.pkl"])
def test_pickle_is_never_opened(single: Path, name: str) -> None:
    (single / SINGLE).rename(single / name)
    text = refusal(single)
    assert f"{single / name}: pickle files are never opened" in text
    assert "save_pretrained(NEW_FOLDER, safe_serialization=True)" in text


def test_pickle_beside_safetensors_is_left_alone(single: Path) -> None:
    os.mkfifo(single / "pytorch_model.bin")  # opening it would hang
    assert open_checkpoint(str(single)).tensors


def test_a_bundle_is_not_a_checkpoint(single: Path) -> None:
    (single / SINGLE).unlink()
    (single / "helium-edge.json").touch()
    assert "is an exported bundle" in refusal(single)


def test_single_and_sharded_at_once_are_ambiguous(sharded: Path) -> None:
    write_weights(sharded, random_weights(tiny_config()))
    assert f"holds both {SINGLE} and {INDEX}" in refusal(sharded)


def test_other_safetensors_beside_the_model_are_left_alone(single: Path) -> None:
    (single / "adapter_model.safetensors").write_bytes(b"garbage")
    assert open_checkpoint(str(single)).weight_files == (SINGLE,)


@pytest.mark.parametrize("name", ["config.json", SINGLE, "tokenizer.json"])
@pytest.mark.parametrize("kind", ["link", "link inside", "broken link", "loop", "fifo", "folder", "device"])
def test_only_regular_files_are_opened(single: Path, tmp_path: Path, name: str, kind: str) -> None:
    path = single / name
    if kind == "link":
        path.rename(tmp_path / name)
        path.symlink_to(tmp_path / name)
    elif kind == "link inside":
        path.rename(single / "other")
        path.symlink_to("other")
    else:
        path.unlink()
        {
            "broken link": lambda: path.symlink_to("nowhere"),
            "loop": lambda: path.symlink_to(path),
            "fifo": lambda: os.mkfifo(path),
            "folder": path.mkdir,
            "device": lambda: path.symlink_to("/dev/zero"),
        }[kind]()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(single)).tokenizer_files()
    expected = "is not a regular file" if kind in ("fifo", "folder") else "is a link, which is not followed"
    assert f"{path}: {expected}" in str(caught.value)


def test_the_folder_itself_may_be_a_link(single: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(single)
    assert open_checkpoint(str(tmp_path / "link")).tensors


def test_hard_links_are_files(single: Path, tmp_path: Path) -> None:
    os.link(single / SINGLE, tmp_path / "other")  # package installers and caches do this
    assert open_checkpoint(str(single)).tensors


def test_tokenizer_files(single: Path) -> None:
    checkpoint = open_checkpoint(str(single))
    names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    assert checkpoint.tokenizer_files() == [single / name for name in names]
    (single / "special_tokens_map.json").unlink()
    assert checkpoint.tokenizer_files() == [single / name for name in names[:2]]
    (single / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: no such file"):
        checkpoint.tokenizer_files()


def test_find_file(single: Path) -> None:
    checkpoint = open_checkpoint(str(single))
    assert checkpoint.find_file("generation_config.json") is None
    (single / "generation_config.json").touch()
    assert checkpoint.find_file("generation_config.json") == single / "generation_config.json"


@pytest.mark.parametrize("shards", [1, 2])
def test_hashes(tmp_path: Path, shards: int) -> None:
    folder = make_checkpoint(tmp_path, shards=shards)
    (folder / "README.md").touch()
    hashes = open_checkpoint(str(folder)).hashes()
    weights = [SINGLE] if shards == 1 else [FIRST, SECOND, INDEX]
    tokenizer = ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    assert list(hashes) == sorted(["config.json", *weights, *tokenizer])
    for name, digest in hashes.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_an_unknown_tensor(tiny_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tiny: no tensor x\.weight"):
        open_checkpoint(str(tiny_checkpoint)).read("x.weight")


@pytest.mark.parametrize("change", ["gone", "cut", "other size", "other shape", "folder"])
def test_a_file_that_changes_underneath(single: Path, change: str) -> None:
    checkpoint = open_checkpoint(str(single))
    path = single / SINGLE
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif change == "other size":
        write_weights(single, random_weights(tiny_config(hidden_size=32, head_dim=8)))
    elif change == "other shape":
        write_weights(single, {NORM: torch.ones(8, 8, dtype=torch.bfloat16)})
    else:
        path.unlink()
        if change == "folder":
            path.mkdir()
    with pytest.raises(CheckpointError, match=rf"{SINGLE}: tensor {NORM} "):
        checkpoint.read(NORM)


def test_tensors_are_private(single: Path) -> None:
    before = (single / SINGLE).read_bytes()
    checkpoint = open_checkpoint(str(single))
    tensor = checkpoint.read(NORM)
    original = tensor.clone()
    tensor.zero_()
    assert torch.equal(checkpoint.read(NORM), original)
    assert (single / SINGLE).read_bytes() == before


def test_several_threads_read_at_once(sharded: Path) -> None:
    checkpoint = open_checkpoint(str(sharded))
    expected = random_weights(tiny_config())
    with ThreadPoolExecutor(4) as pool:
        for name, tensor in zip(expected, pool.map(checkpoint.read, expected), strict=True):
            assert torch.equal(tensor, expected[name])


def test_a_file_that_is_cut_while_it_is_read_is_refused(single: Path) -> None:
    """A mapped one would end the process by SIGBUS."""
    checkpoint = open_checkpoint(str(single))
    os.truncate(single / SINGLE, (single / SINGLE).stat().st_size // 2)
    last = max(checkpoint.tensors, key=lambda name: checkpoint.tensors[name].offset)
    with pytest.raises(CheckpointError, match=f"{last} was cut while the checkpoint was in use"):
        checkpoint.read(last)


@pytest.mark.parametrize("name", [SINGLE, "config.json", "tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize("how", ["written", "replaced", "removed"])
def test_a_file_that_changes_in_use_is_named(single: Path, name: str, how: str) -> None:
    path = single / name
    for other in ("tokenizer.json", "generation_config.json"):
        (single / other).write_text("{}")
    checkpoint = open_checkpoint(str(single))
    checkpoint.check_unchanged()
    status, data = path.stat(), path.read_bytes()
    if how == "removed":
        path.unlink()
    elif how == "replaced":  # by the same bytes and times: that it is another file is all that tells
        (single / "new").write_bytes(data)
        os.utime(single / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(single / "new", path)
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"{name}: changed while the checkpoint was in use"):
        checkpoint.check_unchanged()


def test_nothing_stays_open(single: Path) -> None:
    checkpoint = open_checkpoint(str(single))
    before = len(os.listdir("/dev/fd"))
    tensors = [checkpoint.read(name) for name in checkpoint.tensors]
    assert len(os.listdir("/dev/fd")) == before
    assert tensors


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_weight_that_is_not_finite_is_named(single: Path, value: float, dtype: torch.dtype) -> None:
    weights = random_weights(tiny_config(), dtype=dtype)
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name][5, 7] = value
    weights[name][95, 63] = value
    write_weights(single, weights)
    checkpoint = open_checkpoint(str(single))
    with pytest.raises(CheckpointError) as caught:
        read_weight(checkpoint, name)
    assert str(caught.value).startswith(f"{SINGLE}: tensor {name} holds 2 NaN or infinite values of 6144;")
    read_weight(checkpoint, "model.layers.0.mlp.up_proj.weight")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_the_model_lists_every_tensor_of_the_file(tmp_path: Path, bias: bool, tied: bool) -> None:
    overrides: dict[str, Any] = {"attention_bias": bias, "mlp_bias": bias, "tie_word_embeddings": tied}
    checkpoint: Checkpoint = open_checkpoint(str(make_checkpoint(tmp_path, **overrides)))
    listed = [*matrix_names(checkpoint.config), *vector_names(checkpoint.config)]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(checkpoint.tensors) | {"lm_head.weight"}
    for name in listed:
        weight = read_weight(checkpoint, name)
        assert weight.dim() == (1 if name in vector_names(checkpoint.config) else 2)
    if tied:
        head = read_weight(checkpoint, "lm_head.weight")
        assert torch.equal(head, read_weight(checkpoint, "model.embed_tokens.weight"))


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_q_and_k_rows_and_only_they_are_reordered(tmp_path: Path, kind: str) -> None:
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path, attention_bias=True, mlp_bias=True)))
    order = [0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15]
    for name in checkpoint.tensors:
        stored, read = checkpoint.read(name), read_weight(checkpoint, name)
        if name.endswith((f"q_proj.{kind}", f"k_proj.{kind}")):
            rows = [head * 16 + row for head in range(stored.shape[0] // 16) for row in order]
            assert torch.equal(read, stored[rows]), name
        elif "q_proj" not in name and "k_proj" not in name:
            assert torch.equal(read, stored), name
