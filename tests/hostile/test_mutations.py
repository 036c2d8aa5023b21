"""Inputs damaged at random: no crash, no hang, no traceback, nothing half-written; what is accepted is whole."""

from __future__ import annotations

import importlib
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from helium_edge.cli.main import run

from helium_edge import first_run
from helium_edge.bundle import TargetSection, verify_bundle
from helium_edge.bundle.carriers import CARD
from helium_edge.bundle.graph_sections import GraphEntry
from helium_edge.errors import BundleError
from helium_edge.recipe import recipe_text
from tests.hostile.case import INPUT, OK, SHARDS, Sandbox, snapshot
from tests.hostile.catalogue_bundle import GENERATE, VERIFY, relist
from tests.hostile.client import Commands
from tests.hostile.mutate import mutate_bytes, mutate_file, mutate_value
from tests.unit.bundle.bundles import SIGNATURES, write_bundle

TOKEN = {"content": "<turn>", "lstrip": False, "rstrip": False, "normalized": False, "special": True}
TOKEN_FILES: dict[str, Any] = {
    "tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": TOKEN, "pad_token": None,
        "added_tokens_decoder": {"1": TOKEN | {"content": "<s>"}}, "extra_special_tokens": ["<turn>"],
        "chat_template": "{% for m in messages %}<turn>{{ m['role'] }}: {{ m['content'] }}{% endfor %}",
    },
    "special_tokens_map.json": {"bos_token": "<s>", "eos_token": TOKEN, "additional_special_tokens": ["<turn>"]},
    "added_tokens.json": {"<turn>": 4, "<other>": 5},
}  # fmt: skip
CHECKPOINT_FILES = ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "README.md",
                    "model.safetensors.index.json", SHARDS[1], *TOKEN_FILES)  # fmt: skip
BUNDLE_FILES = ("helium-edge.json", "decoder.onnx", "tokenizer.json", "genai_config.json", "weights.bin")
KINDS = (*CHECKPOINT_FILES, "recipe", *(f"bundle {name}" for name in BUNDLE_FILES))


def damaged_checkpoint(box: Sandbox, name: str, draw: random.Random) -> list[list[str]]:
    box.checkpoint(shards=1 if name == "model.safetensors" or draw.random() < 0.5 else 2)
    box.write("generation_config.json", {"do_sample": True, "temperature": 0.7, "top_k": 4, "eos_token_id": 2})
    box.write("README.md", "---\nlicense: apache-2.0\nlanguage: [en, fr]\n---\n# model\n")
    path = box.model / name
    if name in TOKEN_FILES:
        (box.model / "tokenizer_config.json").unlink(missing_ok=True)  # the others count only without its tokens
        box.write(name, TOKEN_FILES[name])
    elif not path.exists():
        shutil.rmtree(box.model)
        box.checkpoint(shards=2)
    mutate_file(path, draw)
    return [box.export(recipe=draw.choice(("onnx-fp32", "onnx-int4", "onnx-int8")))]


def damaged_recipe(box: Sandbox, draw: random.Random) -> list[list[str]]:
    box.checkpoint()
    text = recipe_text(draw.choice(("onnx-int4", "onnx-int8")))
    if draw.random() < 0.4:
        data = mutate_bytes(text.encode(), draw)
    else:
        changed = mutate_value(yaml.safe_load(text), draw)
        data = yaml.safe_dump(changed).encode("utf-8", "surrogatepass")
    (box.root / "mine.yaml").write_bytes(data)
    return [box.export(recipe="mine.yaml")]


def damaged_bundle(box: Sandbox, name: str, draw: random.Random) -> list[list[str]]:
    folder = box.bundle("bundle")
    before = (folder / name).read_bytes()
    mutate_file(folder / name, draw)
    if (folder / name).read_bytes() != before and name != "helium-edge.json" and draw.random() < 0.5:
        relist(folder)  # by somebody of bad will
    return [VERIFY, GENERATE, [*GENERATE, "--unverified"]]


def build(box: Sandbox, kind: str, draw: random.Random) -> list[list[str]]:
    if kind == "recipe":
        return damaged_recipe(box, draw)
    if kind.startswith("bundle "):
        return damaged_bundle(box, kind.removeprefix("bundle "), draw)
    return damaged_checkpoint(box, kind, draw)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs(commands: Commands, tmp_path: Path, pytestconfig: pytest.Config, kind: str) -> None:
    """`--hostile-inputs` of them over all kinds; a failure names the seed that makes it again."""
    first = pytestconfig.getoption("--hostile-seed")
    for number in range(max(1, pytestconfig.getoption("--hostile-inputs") // len(KINDS))):
        seed = f"{kind} {first + number}"
        root = tmp_path / "box"
        root.mkdir()
        for argv in build(Sandbox(root), kind, random.Random(seed)):
            before = snapshot(root)
            ending = commands.run(argv, root)
            assert ending.problems() == [], (seed, argv)
            after = snapshot(root)
            if ending.code == OK and argv[0] == "export":
                verify_bundle(root / "out")
                after = {path: facts for path, facts in after.items() if path.split("/")[0] != "out"}
            assert after == before, (seed, argv)
        shutil.rmtree(root)


def test_every_flipped_byte_of_a_bundle(commands: Commands, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Positions spread over all bytes of all files; all of them with a large `--hostile-inputs`."""
    folder = Sandbox(tmp_path).bundle("bundle")
    verify_bundle(folder)
    files = sorted(path for path in folder.iterdir() if path.name != CARD)
    draw = random.Random(0)
    for path in files:
        content = path.read_bytes()
        points = max(4, pytestconfig.getoption("--hostile-inputs") // len(files))
        places = range(len(content)) if points >= len(content) else draw.sample(range(len(content)), points)
        for at in places:
            flipped = bytearray(content)
            flipped[at] ^= 1 << draw.randrange(8)
            path.write_bytes(flipped)
            with pytest.raises(BundleError) as caught:
                verify_bundle(folder)
            assert path.name in caught.value.message
        path.write_bytes(content)
    verify_bundle(folder)


LOADERS = {
    "onnx": ("helium_edge.runtime.onnx_runner", "OnnxRunner"),
    "xnnpack": ("helium_edge.runtime.executorch_runner", "ExecutorchRunner"),
    "coreml": ("helium_edge.runtime.coreml_runner", "CoremlRunner"),
}


def fake_bundle(folder: Path, target: str) -> Path:
    """A bundle of a target whose graphs compute nothing."""
    if target == "onnx":
        return write_bundle(folder)
    graphs = [
        GraphEntry.from_signature("decoder.pte", SIGNATURES[f"{phase}.onnx"], method=phase)
        for phase in ("prefill", "decode")
    ]

    def meddle(partial: Path) -> None:
        for path in partial.glob("*.onnx"):
            path.unlink()
        (partial / "decoder.pte").write_bytes(b"no program")

    return write_bundle(
        folder, meddle=meddle, graphs=graphs, runtime="executorch", target=TargetSection(name=target, options={})
    )


@pytest.mark.parametrize("target", LOADERS)
def test_nothing_is_loaded_of_a_bundle_that_does_not_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    module, name = LOADERS[target]
    loaded = []

    def loader(*arguments: Any, **named: Any) -> Any:
        loaded.append(arguments)
        raise BundleError("loaded")

    monkeypatch.setattr(importlib.import_module(module), name, loader)
    monkeypatch.setattr(first_run, "_run_apart", lambda _: {})
    folder = fake_bundle(tmp_path / "b", target)
    shutil.copy(Path(__file__).parents[2] / "helium_edge/data/helium-tiny/tokenizer.json", folder)
    relist(folder)
    command = ["generate", str(folder), "a"]
    assert (run(command), len(loaded)) == (INPUT, 1)
    graph = next(path for path in folder.iterdir() if path.suffix in (".onnx", ".pte"))
    graph.write_bytes(graph.read_bytes() + b" ")
    assert (run(command), len(loaded)) == (INPUT, 1)
    assert (run(["parity", str(folder)]), len(loaded)) == (INPUT, 1)
    assert (run([*command, "--unverified"]), len(loaded)) == (INPUT, 2)
