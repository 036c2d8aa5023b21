"""The tokens that the files of a checkpoint name, in the order and with the rules of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from helium_edge.documents import DocumentError, parse_json, read_document, shorten
from helium_edge.errors import InputError
from helium_edge.runtime.llama_tokenizer import CLASSES, DEFAULTS, is_rebuilt, rebuild

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
SPECIAL_MAP, ADDED = "special_tokens_map.json", "added_tokens.json"

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens that every tokenizer of transformers may have."""

MAX_BYTES = 1 << 24
MAX_TOKENS = 65_536
"""Tokens that may be added; each of them makes an entry of the merged file."""

_FLAGS = ("add_bos_token", "add_eos_token")
"""Settings whose names end like those of tokens; beside a `tokenizer.json` they say nothing."""

_ATTRIBUTES = ("single_word", "lstrip", "rstrip", "normalized", "special")

# Classes that take tokenizer.json as it is.
_PLAIN_CLASSES = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")


@dataclass
class DeclaredTokens:
    """Tokens that transformers adds to `tokenizer.json` when it loads a folder.

    Attributes:
        by_id: Tokens with the id that a file gives them.
        special: Named special tokens, in the order in which they are added; a text stays a text.
        extra: Further special tokens, likewise.
        named: Text of each named special token.
        sources: Files that named a token.
        rebuilt: What to add them to where transformers does not take the folder's `tokenizer.json` as it is.
        warnings: A line each.
    """

    by_id: dict[int, Any] = field(default_factory=dict)
    special: list[Any] = field(default_factory=list)
    extra: list[Any] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    rebuilt: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)


def read_declared(files: Mapping[str, Path], tokenizer: Mapping[str, Any]) -> DeclaredTokens:
    """Read which tokens the files name.

    Args:
        files: Those of a checkpoint's tokenizer, by name.
        tokenizer: The parsed `tokenizer.json`.

    Raises:
        InputError: A file is unreadable, or what it says is no token.
    """
    found = DeclaredTokens()
    settings = _read(files.get(CONFIG))
    if is_rebuilt(settings, tokenizer):
        found.rebuilt = rebuild(settings, tokenizer)
        settings = DEFAULTS | settings
    _check_class(found, settings)
    legacy = "added_tokens_decoder" not in settings
    # These files count only where tokenizer_config.json has no `added_tokens_decoder`.
    special_map = _read(files.get(SPECIAL_MAP)) if legacy else {}
    if special_map:
        found.sources.append(SPECIAL_MAP)
    stated = _state(settings, special_map)
    if legacy:
        found.by_id = _legacy_ids(found, files.get(ADDED), tokenizer, stated.special_texts())
    else:
        found.by_id = dict(_decoder_ids(settings["added_tokens_decoder"]))
    padding = tokenizer.get("padding")
    if "pad_token" not in stated.named and isinstance(padding, dict):
        stated.named["pad_token"] = padding.get("pad_token")
    pairs = {key: stated.named.get(key) for key in NAMED} | stated.own
    named = {key: _raw(key, value) for key, value in pairs.items() if value is not None}
    found.extra = [_raw("extra_special_tokens", value) for value in stated.extra]
    found.named = {key: str(token) for key, token in named.items()}
    if settings.get("tokenizer_class") in CLASSES:
        found.named = {key: text for key, text in DEFAULTS.items() if key not in settings} | found.named
    if settings and (not legacy or named or found.extra):
        found.sources.insert(0, CONFIG)
    by_text = {str(token.content): token for token in found.by_id.values()}
    found.special = [by_text.get(str(token), token) for token in named.values()]
    count = len(found.by_id) + len(found.special) + len(found.extra)
    if count > MAX_TOKENS:
        raise InputError(f"{CONFIG}: names {count} tokens, the limit is {MAX_TOKENS}")
    return found


@dataclass
class _Stated:
    """Special tokens as the two files write them.

    Attributes:
        named: By the names that every tokenizer may have.
        own: By names of their own, in the order in which they are added.
        extra: Without a name.
        listed: Those of them under the name of transformers 5.
        objects: Names of those in `named` that stand as objects in tokenizer_config.json.
    """

    named: dict[str, Any]
    own: dict[str, Any]
    extra: list[Any]
    listed: list[Any]
    objects: frozenset[str]

    def special_texts(self) -> set[str]:
        """Texts that make a token of `added_tokens.json` a special one."""
        named = [value for key, value in self.named.items() if key not in self.objects]
        texts = [value.get("content") if isinstance(value, dict) else value for value in named]
        return {text for text in (*texts, *self.listed) if isinstance(text, str)}


def _state(settings: Mapping[str, Any], special_map: Mapping[str, Any]) -> _Stated:
    """`tokenizer_config.json` under what `special_tokens_map.json` says, in the order of transformers."""
    values = dict(settings)
    if "additional_special_tokens" in values and not values.get("extra_special_tokens"):
        values["extra_special_tokens"] = values.pop("additional_special_tokens")
    first = {key: values.pop(key) for key in _own_names(values) if isinstance(values[key], str)}
    for key in ("model_specific_special_tokens", "extra_special_tokens"):
        if isinstance(values.get(key), dict):
            first |= values.pop(key)
    objects = frozenset(key for key in NAMED if isinstance(values.get(key), dict) and key not in special_map)
    for key, value in special_map.items():
        old = values.get(key)
        if key == "extra_special_tokens" and isinstance(value, list) and isinstance(old or [], list):
            values[key] = [*(old or []), *(token for token in value if token not in (old or []))]
        else:
            values[key] = value
    if isinstance(values.get("extra_special_tokens"), dict):
        first |= values.pop("extra_special_tokens")
    listed = values.get("extra_special_tokens") or []
    extra = values.get("extra_special_tokens", values.get("additional_special_tokens")) or []
    if not isinstance(extra, list):
        raise InputError(f"{CONFIG}: extra_special_tokens is neither a list nor an object of tokens")
    own = {key: values[key] for key in _own_names(values) if key in special_map or _is_token(values[key])}
    return _Stated({key: values[key] for key in NAMED if key in values}, own | first, extra, listed, objects)


def _own_names(values: Mapping[str, Any]) -> list[str]:
    return [key for key in values if key.endswith("_token") and key not in (*NAMED, *_FLAGS)]


def _is_token(value: Any) -> bool:
    """Whether the value of a name that is not one of `NAMED` is a token to transformers."""
    return isinstance(value, str) or (isinstance(value, dict) and value.get("__type") == "AddedToken")


def _check_class(found: DeclaredTokens, settings: Mapping[str, Any]) -> None:
    """Say so where transformers would not take tokenizer.json as it is."""
    name = settings.get("tokenizer_class")
    if isinstance(name, str) and name not in _PLAIN_CLASSES and found.rebuilt is None:
        found.warnings.append(
            f"{CONFIG}: tokenizer_class = {shorten(name)} may build its own tokenizer in transformers; the one of "
            f"the bundle is that of {TOKENIZER}"
        )
    if settings.get("split_special_tokens") is True:
        found.warnings.append(
            f"{CONFIG}: split_special_tokens = true stands in no {TOKENIZER}: hosts must leave special tokens "
            "in a text as text"
        )


def _decoder_ids(entries: Any) -> Iterator[tuple[int, Any]]:
    """`added_tokens_decoder`: tokens by their ids."""
    if not isinstance(entries, dict):
        raise InputError(f"{CONFIG}: added_tokens_decoder is no object of tokens")
    for key, value in entries.items():
        if not (key.isascii() and key.isdecimal() and len(key) < 10):
            raise InputError(f"{CONFIG}: added_tokens_decoder has {shorten(repr(key))} for a token id")
        if not isinstance(value, dict):
            raise InputError(f"{CONFIG}: added_tokens_decoder.{key} is no object with the content of a token")
        yield int(key), _token(CONFIG, f"added_tokens_decoder.{key}", value, special=False)


def _legacy_ids(
    found: DeclaredTokens, path: Path | None, tokenizer: Mapping[str, Any], special: set[str]
) -> dict[int, Any]:
    """`added_tokens.json`, and over it the added tokens of tokenizer.json itself."""
    tokens: dict[int, Any] = {}
    listing = _read(path)
    for text, index in listing.items():
        if type(index) is not int or not 0 <= index < 1 << 31:
            raise InputError(f"{ADDED}: {shorten(repr(text))} has no token id")
        is_special = text in special
        tokens[index] = _make(ADDED, shorten(text), text, special=is_special, normalized=not is_special)
    if listing:
        found.sources.append(ADDED)
    for entry in tokenizer.get("added_tokens") or []:
        if isinstance(entry, dict) and type(entry.get("id")) is int:
            tokens[entry["id"]] = _token(TOKENIZER, "added_tokens", entry, special=False)
    return tokens


def _token(where: str, what: str, value: Any, *, special: bool = True) -> Any:
    """A token that is written as a text or as an object; texts are special tokens."""
    if isinstance(value, str):
        return _make(where, what, value, special=True)
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise InputError(
            f"{where}: {what} = {shorten(repr(value))} is neither a text nor an object with a content"
        )
    flags = {key: value[key] for key in _ATTRIBUTES if key in value}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise InputError(f"{where}: {what} has a flag that is neither true nor false")
    return _make(where, what, value["content"], **({"special": special} | flags))


def _raw(what: str, value: Any) -> Any:
    """A text as it is, an object as a token: transformers adds a text to a token of the same text again."""
    token = _token(CONFIG, what, value)
    return value if isinstance(value, str) else token


def _make(where: str, what: str, content: str, **flags: bool) -> Any:
    try:
        content.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {what} is not valid Unicode") from error
    return AddedToken(content, **flags)


def _read(path: Path | None) -> dict[str, Any]:
    """An object; an empty one where there is no file."""
    if path is None:
        return {}
    try:
        data = parse_json(read_document(path, MAX_BYTES))
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read: {error.strerror}") from error
    except DocumentError as error:
        raise InputError(f"{path.name}: {error}", hint=error.hint) from error
    if not isinstance(data, dict):
        raise InputError(f"{path.name}: the top level must be an object, found {type(data).__name__}")
    return data
