"""The settings of a `generation_config.json`, one by one: those that hosts implement, and the rest by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from helium_edge.documents import shorten
from helium_edge.errors import CheckpointError

DEFAULT_TOP_K = 50
"""What transformers takes while sampling where `top_k` is absent."""

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

MAX_LIST = 4096
"""Entries of `suppress_tokens` or `stop_strings`."""

MAX_STRING = 256
"""Characters of a stop string."""

MAX_TOKENS = 1 << 31

# Settings that change what is generated, with the values at which they do nothing.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "max_time": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "sequence_bias": ([], {}),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1,),
    "watermarking_config": (),
}

# Settings of other engines, which transformers ignores as well.
_ELSEWHERE = ("frequency_penalty", "logit_bias", "mirostat", "presence_penalty", "stop", "stop_token_ids", "tfs_z")


_SETTINGS = frozenset({
    "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size",
    "suppress_tokens", "max_new_tokens", "max_length", "stop_strings", *_UNSUPPORTED,
})  # fmt: skip

DEFAULT_MAX_LENGTH = 20
"""What transformers takes where nothing else is said; a config.json that lists every default has it."""


def legacy_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of generation in a parsed `config.json`, where transformers kept them before it had a file."""
    found = {name: value for name, value in config.items() if name in _SETTINGS}
    if found.get("max_length") == DEFAULT_MAX_LENGTH:
        del found["max_length"]
    return found


class Values:
    """Typed access to the fields of one file; every message names the file and the field.

    Args:
        data: The parsed file.
        where: Its name.

    Attributes:
        warnings: Lines collected so far.
    """

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self._data = data
        self._where = where
        self.warnings: list[str] = []

    def get(self, name: str) -> Any:
        """A value; None where it is absent or null, which are one to transformers."""
        return self._data.get(name)

    def given(self, name: str) -> bool:
        """Whether the field is there, if only as null."""
        return name in self._data

    def shown(self, name: str) -> str:
        """A value for a message."""
        return shorten(repr(self._data.get(name)))

    def warn(self, text: str) -> None:
        """Add a line."""
        self.warnings.append(f"{self._where}: {text}")

    def fail(self, name: str, allowed: str) -> CheckpointError:
        """The error of a value that is none of its kind."""
        return CheckpointError(f"{self._where}: {name} = {self.shown(name)} is not supported; allowed: {allowed}")

    def flag(self, name: str) -> bool:
        """A flag; False where absent."""
        found = self.get(name)
        if found is not None and not isinstance(found, bool):
            raise self.fail(name, "true or false")
        return bool(found)

    def number(self, name: str) -> float | None:
        """A finite number."""
        found = self.get(name)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not _is_finite(found):
            raise self.fail(name, "a finite number")
        return float(found)

    def integer(self, name: str) -> int | None:
        """A whole number that hosts can count to."""
        found = self.get(name)
        if found is None:
            return None
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if type(found) is not int or not -MAX_TOKENS < found < MAX_TOKENS:
            raise self.fail(name, f"a whole number below {MAX_TOKENS}")
        return found


def read_settings(values: Values) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings that hosts implement, and the names of those that they do not.

    Values at which a setting does nothing are left out of the result, as are those that mean nothing.

    Raises:
        CheckpointError: A value is of the wrong type.
    """
    settings: dict[str, Any] = {}
    if values.flag("do_sample"):
        settings |= _sampling(values)
    settings |= _penalties(values) | _lengths(values)
    strings = _stop_strings(values)
    if strings:
        settings["stop_strings"] = strings
    foreign = [name for name in _ELSEWHERE if values.get(name)]
    if foreign:
        values.warn(f"{', '.join(foreign)}: of another engine, ignored as transformers ignores it")
    return settings, tuple(name for name in _UNSUPPORTED if _acts(values.get(name), _UNSUPPORTED[name]))


def _sampling(values: Values) -> dict[str, Any]:
    """What applies while sampling: temperature, then top-k, top-p, min-p."""
    found: dict[str, Any] = {"do_sample": True, "top_k": DEFAULT_TOP_K}
    temperature = values.number("temperature")
    if temperature is not None and temperature <= 0:
        values.warn(f"temperature = {temperature:g} samples nothing; replaced by greedy decoding")
        found = {"do_sample": False}
    elif temperature is not None:
        found["temperature"] = temperature
    top_k = values.integer("top_k")
    if top_k is not None and top_k < 0:
        values.warn(f"top_k = {top_k} is of another engine, where it keeps all tokens; replaced by 0, which does")
    top_p = values.number("top_p")
    if top_p is not None and not 0 < top_p <= 1:
        kept = (
            "the most likely token alone: replaced by greedy decoding"
            if top_p == 0
            else "replaced by 1, all tokens"
        )
        values.warn(f"top_p = {top_p:g} is outside (0, 1]; {kept}")
        found["do_sample"] = found["do_sample"] and top_p != 0
    min_p = values.number("min_p")
    if min_p is not None and not 0 <= min_p <= 1:
        values.warn(f"min_p = {min_p:g} is outside [0, 1]; replaced by 0, all tokens")
    if not found["do_sample"]:
        return {"do_sample": False}
    if top_k is not None:
        found["top_k"] = max(top_k, 0)
    if top_p is not None and 0 < top_p < 1:
        found["top_p"] = top_p
    if min_p is not None and 0 < min_p <= 1:
        found["min_p"] = min_p
    return found


def _penalties(values: Values) -> dict[str, Any]:
    """What applies to greedy decoding as well."""
    found: dict[str, Any] = {}
    penalty = values.number("repetition_penalty")
    if penalty is not None and penalty <= 0:
        values.warn(f"repetition_penalty = {penalty:g} is no penalty; replaced by 1, none")
    elif penalty is not None and penalty != 1:
        found["repetition_penalty"] = penalty
    size = values.integer("no_repeat_ngram_size")
    if size is not None and size < 0:
        values.warn(f"no_repeat_ngram_size = {size} is no length; replaced by 0, none")
    elif size:
        found["no_repeat_ngram_size"] = size
    tokens = values.get("suppress_tokens")
    if tokens is not None and not (isinstance(tokens, list) and len(tokens) <= MAX_LIST):
        raise values.fail("suppress_tokens", f"a list of at most {MAX_LIST} token ids")
    if any(type(token) is not int for token in tokens or ()):
        raise values.fail("suppress_tokens", "a list of token ids")
    real = tuple(sorted({token for token in tokens or () if 0 <= token < MAX_TOKENS}))
    if real:
        found["suppress_tokens"] = real
    return found


def _lengths(values: Values) -> dict[str, Any]:
    """How many tokens: `max_new_tokens` wins over `max_length`, as in transformers."""
    found: dict[str, Any] = {}
    for name in ("max_new_tokens", "max_length"):
        limit = values.integer(name)
        if limit is not None and limit < 1:
            values.warn(f"{name} = {limit} is no number of tokens; ignored")
        elif limit is not None and not found:
            found[name] = limit
    return found


def _stop_strings(values: Values) -> tuple[str, ...]:
    found = values.get("stop_strings")
    strings = [found] if isinstance(found, str) else found
    if strings is None:
        return ()
    allowed = f"a text or a list of at most {MAX_LIST} texts of at most {MAX_STRING} characters"
    if not isinstance(strings, list) or len(strings) > MAX_LIST:
        raise values.fail("stop_strings", allowed)
    if not all(isinstance(text, str) and len(text) <= MAX_STRING for text in strings):
        raise values.fail("stop_strings", allowed)
    if any(not text for text in strings):
        values.warn("stop_strings holds an empty text, which would stop at once; left out")
    return tuple(dict.fromkeys(text for text in strings if text))


def _acts(found: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether a setting is at a value that does something."""
    return found is not None and not any(found == value for value in neutral)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False
