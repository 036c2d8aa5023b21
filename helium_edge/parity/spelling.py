"""The spellings of one config.json: what transformers 5 writes, transformers 4 reads wrongly and without a word.

transformers 5 keeps theta in `rope_parameters`. transformers 4 stores that field, does not use it, and computes
RoPE with theta 100,000, the default. Both read `rope_theta`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helium_edge.checkpoint import TOKENIZER_FILES
from helium_edge.checkpoint.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from helium_edge.documents import parse_json

if TYPE_CHECKING:
    from helium_edge.checkpoint import Checkpoint

CONFIG_FILE = "config.json"


@contextmanager
def folder_for_transformers(checkpoint: Checkpoint, version: str) -> Iterator[Path]:
    """The checkpoint's folder, or one like it whose config.json this version of transformers understands.

    The other folder is temporary: links to the files of the first, and a config.json in the spelling of
    transformers 4. What theta is comes from the file itself, not from how we read it, so that a reference stays
    independent of our reading; the fields that need no other spelling are those of the file.

    Args:
        checkpoint: The original.
        version: `transformers.__version__`.

    Yields:
        A folder to load from; gone after the block, which open files and mappings survive.
    """
    config = parse_json((checkpoint.folder / CONFIG_FILE).read_bytes())
    old = int(version.partition(".")[0]) < 5 and isinstance(config.get("rope_parameters"), dict)
    # With an adapter in it, transformers loads that too if it can, and leaves it out without a word if it cannot.
    if not old and checkpoint.adapter is None:
        yield checkpoint.folder
        return
    own = {ADAPTER_CONFIG, ADAPTER_WEIGHTS}
    with tempfile.TemporaryDirectory(prefix="helium-edge-") as temporary:
        folder = Path(temporary)
        for name in (*checkpoint.weight_files, *TOKENIZER_FILES, "generation_config.json"):
            if name in own:
                continue
            found = checkpoint.find_file(name)
            if found is not None:
                (folder / name).symlink_to(found.resolve())
        text = json.dumps(spelled_as_4(config) if old else config, indent=2)
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
        yield folder


def spelled_as_4(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json of transformers 5 as transformers 4 would have written it, as far as RoPE goes."""
    other = {name: value for name, value in config.items() if name != "rope_parameters"}
    scaling = dict(config["rope_parameters"])
    theta = scaling.pop("rope_theta", None)
    if theta is not None:
        other["rope_theta"] = theta
    if scaling.get("rope_type", "default") != "default":
        other["rope_scaling"] = scaling
    return other
