"""What a case of the catalogue is, where cases are registered, and the sandbox that they are built in."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from tests.helpers.checkpoints import make_checkpoint, random_weights, tiny_config

SINGLE, INDEX, CONFIG, TOKENIZER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "tokenizer.json",
)
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
NORM, EMBEDDING, HEAD = "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"
SHAPES = ("--prefill-len", "8", "--cache-len", "32", "--no-parity")
OK, USAGE, INPUT, PARITY, FULL = 0, 2, 3, 4, 6


class Sandbox:
    """An empty folder with helpers to put a checkpoint into it and to spoil it."""

    template: ClassVar[Path | None] = None

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / "model"
        self.settings: dict[str, Any] = {}

    def checkpoint(self, **options: Any) -> Path:
        return make_checkpoint(self.model, **options)

    def write(self, name: str, content: bytes | str | Any) -> Path:
        """Write a file of the checkpoint; what is neither bytes nor text is written as JSON."""
        self.model.mkdir(exist_ok=True)
        path = self.model / name
        if not isinstance(content, (bytes, str)):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    def edit(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change a JSON file of the checkpoint in place."""
        data = json.loads((self.model / name).read_text(encoding="utf-8"))
        change(data)
        self.write(name, data)

    def header(self, file: str = SINGLE) -> tuple[dict[str, Any], bytes]:
        """Header and data of a safetensors file."""
        content = (self.model / file).read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        return json.loads(content[8:end]), content[end:]

    def raw(self, header: dict[str, Any] | str, data: bytes, file: str = SINGLE) -> None:
        """Write a safetensors file from its parts, whatever they are."""
        text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8", "surrogatepass")
        self.write(file, struct.pack("<Q", len(text)) + text + data)

    def tensor(self, name: str, tensor: torch.Tensor | None, **options: Any) -> None:
        """Write a checkpoint in which one tensor is another, or none."""
        from safetensors.torch import save_file

        self.checkpoint(**options)
        weights = random_weights(tiny_config(**options))
        weights.pop(name, None)
        if tensor is not None:
            weights[name] = tensor
        save_file(weights, self.model / SINGLE, metadata={"format": "pt"})

    def bundle(self, name: str) -> Path:
        """A sound bundle in the sandbox; made once and copied."""
        if Sandbox.template is None:
            raise RuntimeError("no bundle has been made")
        return Path(shutil.copytree(Sandbox.template, self.root / name))

    def export(self, *, recipe: str = "onnx-fp32", out: str = "out", model: str = "model") -> list[str]:
        return ["export", model, "--recipe", recipe, *SHAPES, "-o", out]


Build = Callable[[Sandbox], "list[str] | None"]


@dataclass(frozen=True)
class Case:
    """One row of the catalogue.

    Attributes:
        group: The class of faults.
        name: What is wrong, or odd.
        build: Makes it in a sandbox and returns the command; None is an export of the checkpoint.
        code: How the command must end.
        says: What its message must hold: the file, and the tensor or key where there is one.
        note: What the table says of it besides.
    """

    group: str
    name: str
    build: Build
    code: int = INPUT
    says: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Elsewhere:
    """A row that a test with another harness shows."""

    group: str
    name: str
    outcome: str
    test: str


@dataclass
class Catalogue:
    """All rows, in order."""

    cases: list[Case] = field(default_factory=list)
    elsewhere: list[Elsewhere] = field(default_factory=list)

    def add(
        self, group: str, name: str, *says: str, code: int = INPUT, note: str = ""
    ) -> Callable[[Build], Build]:
        """Register the decorated function as the case's `build`."""

        def register(build: Build) -> Build:
            self.cases.append(Case(group, name, build, code, says, note))
            return build

        return register

    def refer(self, group: str, name: str, outcome: str, test: str) -> None:
        """Register a row that is shown by `test`, as `file::function`."""
        self.elsewhere.append(Elsewhere(group, name, outcome, test))


CATALOGUE = Catalogue()


def snapshot(root: Path) -> dict[str, tuple[Any, ...]]:
    """What lies below a folder: kinds, sizes, times and bytes; links are not followed."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            status = path.lstat()
            plain = path.is_file() and not path.is_symlink() and status.st_size < 1 << 24
            content = hashlib.sha256(path.read_bytes()).hexdigest() if plain else ""
            times = 0 if path.is_dir() else status.st_mtime_ns
            found[str(path.relative_to(root))] = (status.st_mode, path.is_dir() or status.st_size, times, content)
    return found
