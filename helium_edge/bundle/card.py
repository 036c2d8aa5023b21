"""The model card: `README.md` of a bundle, with the front matter that the Hugging Face Hub reads.

Everything in it comes from the manifest, the folder and the README of the checkpoint, so it is reproducible.
"""

from __future__ import annotations

import importlib.resources
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import yaml

from helium_edge import durable
from helium_edge.bundle.carriers import CARD
from helium_edge.bundle.genai import beyond_genai
from helium_edge.bundle.manifest import Manifest
from helium_edge.bundle.verify import GENAI_CONFIG, scan_folder
from helium_edge.documents import parse_yaml, read_document
from helium_edge.errors import CLONE
from helium_edge.tasks import ENCODER, LANGUAGE_MODEL, SEQUENCE_CLASSIFICATION, TEXT_TASKS, TOKEN_CLASSIFICATION

TEMPLATE = "card.md.txt"

_MAX_README_BYTES = 1 << 20
_MAX_FRONT_MATTER = 1 << 14
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WORD = re.compile(r"[\w.-]{1,64}")

_LABELS = 'classify . "Hello"'
_USE = {
    LANGUAGE_MODEL: "generate . {prompt} --max-new-tokens 64",
    SEQUENCE_CLASSIFICATION: _LABELS,
    TOKEN_CLASSIFICATION: _LABELS,
    ENCODER: "",
}
"""The command that runs a bundle, by task."""

_STEPS = (
    "read `helium-edge.json`, allocate the cache that `cache` describes, run the prompt through the graph of\n"
    "phase `prefill` (or `any`) in chunks of at most {tokens} tokens, then the graph of phase "
    "`decode` (or `any`)\nonce per token."
)
_ONCE = (
    "read `helium-edge.json`, pad the ids of a text on the right with `tokens.pad` to {tokens},\n"
    "and run the graph of phase `classify` once."
)
_LOOP = {LANGUAGE_MODEL: _STEPS, **dict.fromkeys(TEXT_TASKS, _ONCE)}
"""How an app runs it, by task."""

# Its tokenizer takes the file for BPE, or has no byte fallback, by the class in tokenizer_config.json
# (tests/integration/test_genai_tokenizer.py). Releases before 0.12.2 want logits of every token.
_GENAI = """

With onnxruntime-genai 0.12.2 or newer, `onnxruntime_genai.Model(".")` loads `genai.onnx`. It needs token ids: make
them with the `tokenizers` library from `tokenizer.json`; its own tokenizer does not read this one."""


@dataclass(frozen=True)
class CheckpointCard:
    """What a checkpoint's README declares in its front matter; empty where it declares nothing."""

    license: str | None = None
    languages: tuple[str, ...] = ()


def read_checkpoint_card(folder: Path) -> CheckpointCard:
    """Read licence and languages from a checkpoint's `README.md`; one that says neither is no error."""
    try:
        text = read_document(folder / CARD, _MAX_README_BYTES).decode("utf-8")
        match = re.match(r"---\r?\n(.*?)\r?\n---\s", text, re.DOTALL)
        front = match[1] if match else ""
        data = parse_yaml(front) if len(front) <= _MAX_FRONT_MATTER else None
    except (OSError, ValueError):  # a DocumentError is a ValueError
        return CheckpointCard()
    if not isinstance(data, dict):
        return CheckpointCard()
    licenses = _words(data.get("license"))
    return CheckpointCard(license=licenses[0] if licenses else None, languages=_words(data.get("language")))


def _words(value: Any) -> tuple[str, ...]:
    """A word or a list of words; anything else is dropped, since it goes into another file's front matter."""
    values = value if isinstance(value, list) else [value]
    return tuple(word for word in values if isinstance(word, str) and _WORD.fullmatch(word))


def write_card(manifest: Manifest, card: CheckpointCard, folder: Path) -> None:
    """Write the model card of the bundle that is in `folder`, complete but for this file and the manifest."""
    sizes = {path: (folder / path).stat().st_size for path in scan_folder(folder).files}
    durable.write_file(folder / CARD, render_card(manifest, card, sizes).encode("utf-8"))


def render_card(manifest: Manifest, card: CheckpointCard, sizes: Mapping[str, int]) -> str:
    """The text of the model card; `sizes` are the bytes of the files by name."""
    source, memory = manifest.source, manifest.memory
    on_hub = _HUB_ID.fullmatch(source.checkpoint) is not None
    phases = sorted({graph.phase for graph in manifest.graphs})
    template = Template(importlib.resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.substitute(
        front_matter=_front_matter(manifest, card, on_hub=on_hub),
        name=manifest.name,
        checkpoint=source.checkpoint,
        revision=f" at revision `{source.revision}`" if source.revision else "",
        version=manifest.created_by.version,
        phases=f"{'graphs' if manifest.task.has_cache else 'graph'} of phase {', '.join(phases)}",
        cache=_cache(manifest),
        install=f"`pip install .` {CLONE}",
        use=_use(manifest),
        loop=_LOOP[manifest.task].format(tokens=manifest.prefill_len),
        runtime=manifest.runtime,
        recipe=manifest.quantization.recipe_name,
        summary=", ".join(
            f"{entry.weights} matrices in {scheme}" for scheme, entry in manifest.quantization.summary.items()
        ),
        calibration=_calibration(manifest),
        files=_table({f"`{path}`": size for path, size in sorted(sizes.items())}),
        memory=_table(
            {
                "weights, packed for the kernels": memory.packed_bytes,
                **({f"cache of {manifest.cache_len} tokens": memory.cache_bytes} if manifest.cache else {}),
                "activations": memory.activations_bytes,
                "together (estimated)": memory.total_bytes,
            }
        ),
        parity=_parity(manifest.parity),
        golden=_golden(manifest),
        genai=(_genai(manifest) if GENAI_CONFIG in sizes else "") + _left_out(manifest),
        license=f"`{card.license}`, as the source checkpoint." if card.license else "See the source checkpoint.",
    )


def _front_matter(manifest: Manifest, card: CheckpointCard, *, on_hub: bool) -> str:
    data: dict[str, Any] = {
        "base_model": manifest.source.checkpoint if on_hub else None,
        "base_model_relation": "quantized" if on_hub else None,
        "language": list(card.languages),
        "library_name": "helium-edge",
        "license": card.license,
        "pipeline_tag": manifest.task.pipeline_tag,
        "tags": ["helium", "onnx" if manifest.target.name == "onnx" else manifest.target.name, "on-device"],
    }
    known = {name: value for name, value in data.items() if value}
    return f"---\n{yaml.safe_dump(known, sort_keys=True, allow_unicode=True)}---\n"


def _calibration(manifest: Manifest) -> str:
    found = manifest.quantization.calibration
    if found is None:
        return ""
    return f",\ncalibrated on {found.tokens} tokens of text ({found.text})"


def _cache(manifest: Manifest) -> str:
    if manifest.cache is None:
        return f"for texts of at most {manifest.prefill_len} tokens"
    return f"with a KV cache of {manifest.cache_len} tokens that the host owns"


def _use(manifest: Manifest) -> str:
    command = _USE[manifest.task]
    prompt = shlex.quote(manifest.golden.prompt if manifest.golden else "Hello")
    return f"\nhelium-edge {command.format(prompt=prompt)}" if command else ""


def _table(rows: Mapping[str, int]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _golden(manifest: Manifest) -> str:
    if manifest.golden is None:
        return ""
    return (
        f"`golden` holds {len(manifest.golden.greedy_ids)} greedy tokens after a prompt, to check the loop of an "
        "app with."
    )


def _genai(manifest: Manifest) -> str:
    """How to run it on onnxruntime-genai, and what its config has no key for."""
    beyond = ", ".join(f"`{name}`" for name in beyond_genai(manifest.generation))
    return _GENAI + (f" Its config has no key for {beyond}: set them in the app." if beyond else "")


def _left_out(manifest: Manifest) -> str:
    """What of the checkpoint a host cannot do; nothing for most."""
    parts = []
    if manifest.generation.unsupported:
        names = ", ".join(f"`{name}`" for name in manifest.generation.unsupported)
        parts.append(
            f"The checkpoint's generation settings {names} are implemented by no host of this bundle:\n"
            "text is generated without them."
        )
    forbidden = manifest.tokens.forbidden
    if forbidden:
        ids = ", ".join(map(str, forbidden[:10])) + (", ..." if len(forbidden) > 10 else "")
        parts.append(
            f"The tokenizer has tokens that the model has no row for ({ids}): a text that holds one is refused."
        )
    if manifest.tokenizer.merged_from:
        names = ", ".join(f"`{name}`" for name in sorted(manifest.tokenizer.merged_from))
        parts.append(f"`{manifest.tokenizer.file}` is merged from {names} of the checkpoint.")
    return "".join(f"\n\n{part}" for part in parts)


def _parity(parity: Mapping[str, Any] | None) -> str:
    """A table of whatever figures the report holds, one row per group (`overall`, a language, ...)."""
    groups = dict(_groups(parity or {}, ""))
    if not groups:
        return "Not measured for this export; `helium-edge parity` measures it."
    columns = sorted({column for figures in groups.values() for column in figures})
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name, figures in groups.items():
        cells = [f"{figures[column]:.6g}" if column in figures else "" for column in columns]
        lines.append(f"| {name or 'overall'} | {' | '.join(cells)} |")
    return "Against the original checkpoint, on text:\n\n" + "\n".join(lines)


def _groups(node: Mapping[str, Any], name: str) -> Iterator[tuple[str, dict[str, float]]]:
    figures = {key: value for key, value in node.items() if type(value) in (int, float)}
    # Counts alone say nothing of accuracy.
    if any(type(value) is float for value in figures.values()):
        yield name, figures
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _groups(value, key)
