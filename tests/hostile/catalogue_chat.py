"""Class 9, chat templates and prompt caches of strangers."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.case import CATALOGUE, OK, USAGE, Sandbox

CHAT = "9. Chat templates and prompt caches"
add = CATALOGUE.add
HEADER = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
_UNUSABLE = "no data form, with the reason in a warning; hosts refuse to chat"


# -- templates of a checkpoint: the export never hangs; what is no data is told, what is no template refused


def _template(what: str, content: str | bytes, *says: str, code: int = OK) -> None:
    @add(CHAT, f"template: {what}", *says, code=code, note="" if says else _UNUSABLE)
    def _(box: Sandbox) -> None:
        box.checkpoint()
        box.write(TEMPLATE, content)


_template(
    "{% for %} without end",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i %}{% endfor %}{% endfor %}",
)
_template("{{ 9 ** 9 ** 9 }}", "{{ 9 ** 9 ** 9 }}")
_template("range(10**9)", "{{ range(10**9) | list }}")
_template("a text of 4 GiB", "{{ 'x' * 2**32 }}")
_template("16 million characters piece by piece", "{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}")
_template("a recursive macro", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}")
_template("20,000 brackets deep", "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}")
_template("the way out of the sandbox by classes", "{{ ''.__class__.__mro__[1].__subclasses__() }}")
_template("the way out of the sandbox by attr", "{{ messages | attr('__class__') | attr('__base__') }}")
_template("the way out of the sandbox by format", "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}")
_template("the way out of the sandbox by globals", "{{ lipsum.__globals__['os'].system('touch pwned') }}")
_template("it changes the messages", "{{ messages.append(1) }}")
_template("an include", "{% include '/etc/passwd' %}")
_template("an import", "{% import 'os' as os %}{{ os }}")
_template("a syntax error", "{% if %}")
_template("raise_exception with a text of many lines", "{{ raise_exception('a\nb\x1b[31m' * 5000) }}")
_template("empty", "")
_template("not UTF-8", b"\xff\xfe{{ x }}", TEMPLATE, "no UTF-8", code=3)
_template("4 MiB", "x" * (4 << 20), TEMPLATE, "too many", code=3)


def _config(what: str, found: Any, *says: str) -> None:
    @add(CHAT, f"{HEADER}: {what}", HEADER, *says)
    def _(box: Sandbox) -> None:
        box.checkpoint()
        box.write(HEADER, {"chat_template": found})


_config("chat_template is a number", 7, "must be a text")
_config("a template without a name", [{"template": "x"}], "must be a text")
_config("a template of 1 MiB", "x" * (1 << 20), "bytes")
_config("100 templates", [{"name": f"t{at}", "template": "x"} for at in range(100)], "too many")


@add(CHAT, "additional_chat_templates: a name with a blank", "additional_chat_templates", "no name")
def _(box: Sandbox) -> None:
    box.checkpoint()
    (box.model / "additional_chat_templates").mkdir()
    box.write("additional_chat_templates/a b.jinja", "x")


@add(CHAT, "additional_chat_templates: a link", "evil.jinja", "is a link")
def _(box: Sandbox) -> None:
    box.checkpoint()
    (box.model / "additional_chat_templates").mkdir()
    (box.model / "additional_chat_templates" / "evil.jinja").symlink_to("/etc/passwd")


@add(CHAT, "additional_chat_templates: a hidden file of macOS", code=OK, note="left alone")
def _(box: Sandbox) -> None:
    box.checkpoint()
    (box.model / "additional_chat_templates").mkdir()
    box.write("additional_chat_templates/._x.jinja", b"\xff")


@add(CHAT, "chat with a bundle of a base model", "no chat template")
def _(box: Sandbox) -> list[str]:
    box.bundle("bundle")
    return ["generate", "bundle", "--chat", "Hello"]


# -- prompt caches


def _cache(what: str, change: Callable[[bytes], bytes], *says: str) -> None:
    @add(CHAT, f"prompt cache: {what}", "cache.safetensors", *says)
    def _(box: Sandbox) -> list[str]:
        folder = box.bundle("bundle")
        (box.root / "cache.safetensors").write_bytes(change(prompt_cache(folder)))
        return ["generate", "bundle", "a", "--load-cache", "cache.safetensors", "--max-new-tokens", "1"]


def prompt_cache(bundle: Path, ids: tuple[int, ...] = (1, 5, 7)) -> bytes:
    """A sound prompt cache of a bundle, made without running it."""
    import numpy as np
    from safetensors.numpy import save

    from helium_edge.bundle import manifest_hash, open_bundle

    opened = open_bundle(bundle)
    cache = opened.manifest.decoder_spec().cache
    tensors: dict[str, Any] = {"ids": np.array(ids, np.int32)}
    for layer in range(cache.layers):
        for part in ("key", "value"):
            shape = (cache.num_key_value_heads, len(ids), cache.head_dim)
            tensors[f"layers.{layer}.{part}"] = np.zeros(shape, cache.dtype)
    metadata = {"format": "helium-edge/prompt-cache", "version": "1", "bundle": manifest_hash(opened)}
    return bytes(save(tensors, metadata))


def _edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """The file with another header over the same data."""

    def edit(data: bytes) -> bytes:
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[end:]

    return edit


def _with_ids(*ids: int) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        end = 8 + int.from_bytes(data[:8], "little")
        start = end + json.loads(data[8:end])["ids"]["data_offsets"][0]
        return data[:start] + struct.pack(f"<{len(ids)}i", *ids) + data[start + 4 * len(ids) :]

    return edit


@add(CHAT, "prompt cache: sound", code=OK)
def _(box: Sandbox) -> list[str]:
    (box.root / "cache.safetensors").write_bytes(prompt_cache(box.bundle("bundle")))
    return ["generate", "bundle", "a", "--load-cache", "cache.safetensors", "--max-new-tokens", "1"]


_cache("empty", lambda data: b"", "no safetensors file")
_cache("cut in the header", lambda data: data[:40], "truncated")
_cache("cut one byte before the end", lambda data: data[:-1], "truncated")
_cache("one byte too many", lambda data: data + b"x", "safetensors")
_cache("a header beyond the file", lambda data: struct.pack("<Q", 1 << 40) + data[8:], "header")
_cache("a header of 2^63 bytes", lambda data: struct.pack("<Q", 1 << 63) + data[8:], "header")
_cache("another format", _edited(lambda h: h["__metadata__"].update(format="x")), "no prompt cache")
_cache("no metadata", _edited(lambda h: h.pop("__metadata__")), "no prompt cache")
_cache("another version", _edited(lambda h: h["__metadata__"].update(version="9" * 300)), "version")
_cache(
    "the hash of another bundle", _edited(lambda h: h["__metadata__"].update(bundle="0" * 64)), "another bundle"
)
_cache("a wrong type", _edited(lambda h: h["layers.0.key"].update(dtype="I32")), "layers.0.key")
_cache("a wrong shape", _edited(lambda h: h["layers.0.key"]["shape"].reverse()), "layers.0.key")
_cache("a length that is NaN", _edited(lambda h: h["ids"].update(shape=[float("nan")])), "ids")
_cache("a negative length", _edited(lambda h: h["ids"].update(shape=[-3])), "ids")
_cache("ids as float32", _edited(lambda h: h["ids"].update(dtype="F32")), "token ids")
_cache("a tensor less", _edited(lambda h: h.pop("layers.0.key")), "safetensors")
_cache("a tensor too many", _edited(lambda h: h.update(x={"dtype": "I8", "shape": [0], "data_offsets": [0, 0]})))
_cache("a negative id", _with_ids(1, -5), "-5", "outside the vocabulary")
_cache("an id beyond the vocabulary", _with_ids(1, 2**31 - 1), "2147483647", "outside the vocabulary")


@add(CHAT, "prompt cache: more tokens than slots", "cache.safetensors", "token ids")
def _(box: Sandbox) -> list[str]:
    (box.root / "cache.safetensors").write_bytes(prompt_cache(box.bundle("bundle"), (1,) * 4000))
    return ["generate", "bundle", "a", "--load-cache", "cache.safetensors"]


@add(CHAT, "prompt cache: a folder", "cache.safetensors")
def _(box: Sandbox) -> list[str]:
    box.bundle("bundle")
    (box.root / "cache.safetensors").mkdir()
    return ["generate", "bundle", "a", "--load-cache", "cache.safetensors"]


@add(CHAT, "prompt cache: saved where no folder is", "nowhere", code=USAGE)
def _(box: Sandbox) -> list[str]:
    box.bundle("bundle")
    return ["generate", "bundle", "a", "--max-new-tokens", "1", "--save-cache", "nowhere/c"]
