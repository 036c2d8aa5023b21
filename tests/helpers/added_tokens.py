"""Folders whose tokens stand in several files, and texts that hold them."""

from __future__ import annotations

import importlib.resources
import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from helium_edge.checkpoint import TOKENIZER_FILES
from helium_edge.texts import LANGUAGES, evaluation_text

TINY = Path(str(importlib.resources.files("helium_edge.data"))) / "helium-tiny"
TURNS = ("<|im_start|>", "<|im_end|>")


def token(content: str, **flags: bool) -> dict[str, Any]:
    """An added token as an object."""
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": content, **plain, **flags}


def tokenizer_folder(folder: Path, files: Mapping[str, Any], *, origin: Path = TINY) -> Path:
    """A tokenizer with other files beside its tokenizer.json, and what AutoTokenizer asks for.

    Args:
        folder: To be made.
        files: Content by name, as JSON; a function changes what the file holds.
        origin: A folder with a tokenizer.json.
    """
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        source = origin / name if (origin / name).is_file() else TINY / name
        shutil.copyfile(source, folder / name)
    for name, content in files.items():
        path = folder / name
        data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if isinstance(content, Callable):  # type: ignore[arg-type]
            content(data)
        else:
            data |= content
        path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return folder


def token_files(folder: Path) -> dict[str, Path]:
    """The files of a tokenizer that are in a folder, by name."""
    return {name: folder / name for name in TOKENIZER_FILES if (folder / name).exists()}


def texts_with(tokens: Sequence[str], count: int, *, seed: int = 0) -> list[str]:
    """Texts in six languages with tokens strewn in, at their ends, side by side, in words and cut into pieces."""
    source = random.Random(seed)
    words = [word for language in LANGUAGES for word in evaluation_text(language).split()]
    odd = ["\n", "\n\n", "  ", "\t", "🙂", "日本", "é", "▁", "<", ">", "|", "Ġ", ""]
    found = []
    for _ in range(count):
        parts = []
        for _ in range(source.randint(0, 9)):
            kind = source.random()
            if kind < 0.45:
                parts.append(source.choice(tokens))
            elif kind < 0.55:
                parts.append(source.choice(tokens)[: source.randint(1, 6)])
            elif kind < 0.85:
                parts.append(source.choice(words))
            else:
                parts.append(source.choice(odd))
            parts.append(source.choice(("", " ", "", "\n")))
        found.append("".join(parts))
    return found
