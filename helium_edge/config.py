"""`ModelConfig`: what a `config.json` says of a model, read strictly and without transformers.

Two families share one decoder: `helium` (helium-1-preview-2b) and `llama`, of which the later Helium models are
(helium-1-2b). `model_type` alone decides which one a checkpoint is. Owns the spelling differences between
transformers 4.x (`rope_theta`) and 5.x (`rope_parameters`), and the refusal of what no graph of ours implements.
Field names are those of `config.json`.

Source: transformers `configuration_helium.py` 4.49 to 5.23 (defaults are identical apart from RoPE),
`configuration_llama.py` 4.49 to 5.24.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helium_edge.documents import DocumentError, parse_json, read_document, shorten
from helium_edge.errors import ConfigError, did_you_mean, too_many_files
from helium_edge.tasks import TASKS, Task

MAX_CONFIG_BYTES = 1 << 20
"""A config.json is a few hundred bytes; anything above this is not one."""

MAX_DIMENSION = 1 << 24
"""Larger sizes belong to no model of this family and would only exhaust memory."""

MAX_LABELS = 1 << 12
"""Labels of a classifier; more of them are no labels."""

_BY_SUFFIX = {task.suffix: task for task in TASKS.values()}

ARCHITECTURES = {
    model_type: tuple(f"{prefix}{suffix}" for suffix in _BY_SUFFIX)
    for model_type, prefix in (("helium", "Helium"), ("llama", "Llama"))
}
"""Classes that can be exported, by `model_type`; the first is the one meant where config.json names none."""

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")

# Spellings that transformers maps to one function -> the name the graphs know.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
}

_WORKS = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in ARCHITECTURES.items())

# Classes around a model, which say nothing of what it is: of peft, of TRL, and the Auto classes of transformers.
_WRAPPER = re.compile(r"(Peft|Auto)Model\w*")

# Kinds of RoPE scaling whose factor 1 leaves every frequency as it is, bit for bit.
_PARTS = ("text_config", "llm_config", "language_config")
_EXACT_AT_ONE = ("linear", "dynamic")

NO_TOKEN = -1
"""How some configs spell that there is no such token."""

# Literal defaults of HeliumConfig; num_key_value_heads and head_dim are *not* derived from other fields.
_HELIUM_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 48000,
    "hidden_size": 2560,
    "intermediate_size": 7040,
    "num_hidden_layers": 24,
    "num_attention_heads": 20,
    "num_key_value_heads": 20,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-8,
    "tie_word_embeddings": False,
    "rope_theta": 100000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "pad_token_id": 3,
    "eos_token_id": 2,
    "bos_token_id": 1,
}

# Defaults of LlamaConfig; num_key_value_heads and head_dim are derived, see `_Reader.kv_heads`.
_LLAMA_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "pad_token_id": None,
    "eos_token_id": 2,
    "bos_token_id": 1,
}

_DEFAULTS = {"helium": _HELIUM_DEFAULTS, "llama": _LLAMA_DEFAULTS}


@dataclass(frozen=True)
class ModelConfig:
    """The facts of a model that graphs are built from; see `from_dict` for how they are checked.

    `rope_interleaved` says that the checkpoint pairs rotary dimensions (2i, 2i+1), as `model_type: helium`
    does; readers of weights undo it by reordering the q and k rows. `model_type: llama` pairs (i, i + D/2).
    """

    model_type: str
    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    labels: tuple[str, ...] = ()
    """Labels of a classifier, in the order of its logits."""
    problem_type: str | None = None
    """What a classifier was trained for, as config.json says: it decides how logits become scores."""
    score_bias: bool = False
    """Whether the classifier has a bias: only that of tokens."""
    names_class: bool = field(default=True, compare=False)
    """Whether config.json names the class; otherwise `architecture` is the language model of `model_type`."""
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """What was taken otherwise than it is written, a line each."""

    @property
    def task(self) -> Task:
        """What the model is for."""
        return _BY_SUFFIX[self.architecture.removeprefix("Helium").removeprefix("Llama")]

    @property
    def rope_interleaved(self) -> bool:
        """Whether the checkpoint's q and k rows are laid out for interleaved RoPE."""
        return self.model_type == "helium"

    @property
    def o_bias(self) -> bool:
        """Whether o_proj has a bias: with `attention_bias` in `llama`, never in `helium`."""
        return self.attention_bias and self.model_type == "llama"

    @property
    def kv_size(self) -> int:
        """Width of one key or value row: num_key_value_heads * head_dim."""
        return self.num_key_value_heads * self.head_dim

    @property
    def num_parameters(self) -> int:
        """Number of stored parameters, a tied head counted once."""
        h, kv, i = self.hidden_size, self.kv_size, self.intermediate_size
        attention = 2 * h * h + 2 * h * kv + (h + 2 * kv if self.attention_bias else 0) + h * self.o_bias
        mlp = 3 * h * i + (2 * i + h if self.mlp_bias else 0)
        has_lm_head = self.task.has_cache and not self.tie_word_embeddings
        embeddings = self.vocab_size * h * (2 if has_lm_head else 1)
        score = len(self.labels) * (h + self.score_bias)
        return self.num_hidden_layers * (attention + mlp + 2 * h) + h + embeddings + score

    @classmethod
    def from_file(cls, path: Path, *, architecture: str | None = None) -> ModelConfig:
        """Read a `config.json`.

        Args:
            path: The file.
            architecture: The class where the file names none; None is the language model of its `model_type`.

        Raises:
            ConfigError: The file is missing, too large, not JSON, or describes an unsupported model.
        """
        try:
            data = parse_json(read_document(path, MAX_CONFIG_BYTES))
        except FileNotFoundError as error:
            raise ConfigError(
                f"{path}: no such file", hint="a checkpoint folder holds config.json and *.safetensors"
            ) from error
        except OSError as error:
            raise too_many_files(error) or ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except DocumentError as error:
            raise ConfigError(f"{path}: {error}", hint=error.hint) from error
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: the top level must be an object, found {type(data).__name__}")
        return cls.from_dict(data, where=str(path), architecture=architecture)

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, where: str = "config.json", architecture: str | None = None
    ) -> ModelConfig:
        """Check and convert a parsed `config.json`; `where` names the file in messages, see also `from_file`.

        Raises:
            ConfigError: A field is of the wrong type, out of range, inconsistent or not implemented.
        """
        read = _Reader(data, where)
        model_type = read.model_type()
        named = read.architecture(model_type)
        architecture = named or architecture or ARCHITECTURES[model_type][0]
        read.refuse_unsupported()
        is_classifier = architecture.endswith("Classification")
        config = cls(
            model_type=model_type,
            architecture=architecture,
            vocab_size=read.size("vocab_size"),
            hidden_size=read.size("hidden_size"),
            intermediate_size=read.size("intermediate_size"),
            num_hidden_layers=read.size("num_hidden_layers"),
            num_attention_heads=read.size("num_attention_heads"),
            num_key_value_heads=read.kv_heads(),
            head_dim=read.head_dim(),
            hidden_act=read.activation(),
            max_position_embeddings=read.size("max_position_embeddings"),
            rms_norm_eps=read.positive("rms_norm_eps"),
            rope_theta=read.rope_theta(),
            attention_bias=read.flag("attention_bias"),
            mlp_bias=read.flag("mlp_bias"),
            tie_word_embeddings=read.flag("tie_word_embeddings"),
            bos_token_id=read.token("bos_token_id"),
            eos_token_ids=read.eos(),
            pad_token_id=read.token("pad_token_id"),
            labels=read.labels() if is_classifier else (),
            problem_type=read.problem_type() if is_classifier else None,
            score_bias=architecture.endswith("TokenClassification") and read.score_bias(),
            names_class=named is not None,
            warnings=tuple(read.warnings),
        )
        _check_consistency(config, where)
        return config


def _check_consistency(config: ModelConfig, where: str) -> None:
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    if heads * dim != config.hidden_size:
        raise ConfigError(
            f"{where}: num_attention_heads * head_dim = {heads} * {dim} = {heads * dim} must equal "
            f"hidden_size = {config.hidden_size}",
            hint="o_proj is hidden_size x hidden_size, so no other combination can run",
        )
    if heads % kv_heads:
        raise ConfigError(
            f"{where}: num_key_value_heads = {kv_heads} does not divide num_attention_heads = {heads}"
        )
    if dim % 2:
        raise ConfigError(f"{where}: head_dim = {dim} must be even, RoPE rotates pairs")


class _Reader:
    """Typed access to the fields of one config; every message names the file and the field."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self._data = data
        self._where = where
        self._defaults = _HELIUM_DEFAULTS
        self.warnings: list[str] = []

    def _fail(self, field: str, found: Any, allowed: str, hint: str = "") -> ConfigError:
        shown = repr(found)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return ConfigError(f"{self._where}: {field} = {shown} is not supported; allowed: {allowed}", hint=hint)

    def _get(self, field: str) -> Any:
        return self._data[field] if field in self._data else self._defaults[field]

    def model_type(self) -> str:
        found = self._data.get("model_type")
        if not isinstance(found, str) or found not in ARCHITECTURES:
            raise self._fail("model_type", found, ", ".join(ARCHITECTURES), _WORKS)
        self._defaults = _DEFAULTS[found]
        return found

    def architecture(self, model_type: str) -> str | None:
        """The class that the file names; None where it names none, or only a wrapper around one."""
        allowed = ARCHITECTURES[model_type]
        found = self._data.get("architectures")
        if found is None or found == []:
            return None
        if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], str):
            raise self._fail("architectures", found, ", ".join(allowed))
        if _WRAPPER.fullmatch(found[0]):
            return None
        if found[0] not in allowed:
            raise self._fail("architectures", found, ", ".join(allowed))
        return found[0]

    def refuse_unsupported(self) -> None:
        """Refuse what would change the maths or run foreign code."""
        parts = [name for name in _PARTS if isinstance(self._data.get(name), dict)]
        if parts and "hidden_size" not in self._data:
            raise ConfigError(
                f"{self._where}: the language model is described in {parts[0]}, as one part of another model",
                hint="save that part alone in transformers, with a config.json of its own",
            )
        if self._data.get("auto_map"):
            self.warnings.append(
                "config.json: auto_map names code, which is never run; the class is that of transformers, as "
                "without trust_remote_code"
            )
        if self._data.get("quantization_config"):
            found = self._data["quantization_config"]
            method = found.get("quant_method") if isinstance(found, Mapping) else None
            kind = f"the weights are quantized by {shorten(method)}: " if isinstance(method, str) else ""
            hint = f"{kind}bring the unquantized checkpoint; quantization is this tool's job"
            raise self._fail("quantization_config", found, "absent", hint)
        scaling = self._data.get("rope_scaling")
        if scaling not in (None, {}) and not _scales_nothing(scaling):
            raise self._fail("rope_scaling", scaling, "null, rope_type 'default', or a linear factor of 1")

    def size(self, field: str) -> int:
        found = self._get(field)
        if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= MAX_DIMENSION:
            raise self._fail(field, found, f"an integer from 1 to {MAX_DIMENSION}")
        return found

    def kv_heads(self) -> int:
        """num_key_value_heads; `llama` without one has as many as query heads."""
        if self._get("num_key_value_heads") is None and self._defaults["num_key_value_heads"] is None:
            return self.size("num_attention_heads")
        return self.size("num_key_value_heads")

    def head_dim(self) -> int:
        """head_dim; `llama` without one divides hidden_size by the query heads."""
        if self._get("head_dim") is None and self._defaults["head_dim"] is None:
            return max(1, self.size("hidden_size") // self.size("num_attention_heads"))
        return self.size("head_dim")

    def positive(self, field: str) -> float:
        return self._positive(field, self._get(field))

    def _positive(self, field: str, found: Any) -> float:
        number = not isinstance(found, bool) and isinstance(found, (int, float))
        if not number or not 0 < found <= sys.float_info.max:  # isfinite fails on integers beyond a float
            raise self._fail(field, found, "a finite number above 0")
        return float(found)

    def flag(self, field: str) -> bool:
        found = self._get(field)
        if not isinstance(found, bool):
            raise self._fail(field, found, "true or false")
        return found

    def activation(self) -> str:
        found = self._get("hidden_act")
        if not isinstance(found, str) or found not in ACTIVATIONS:
            hint = did_you_mean(found, ACTIVATIONS) if isinstance(found, str) else ""
            raise self._fail("hidden_act", found, ", ".join(ACTIVATIONS), hint)
        return ACTIVATIONS[found]

    def rope_theta(self) -> float:
        """Theta from the 5.x spelling, else from the 4.x one; both at once must agree."""
        parameters = self._data.get("rope_parameters")
        old = self._data.get("rope_theta")
        if parameters is None:
            return self._positive("rope_theta", self._get("rope_theta"))
        if not isinstance(parameters, dict) or not _scales_nothing(parameters):
            allowed = "an object with rope_type 'default', or with a linear factor of 1"
            raise self._fail("rope_parameters", parameters, allowed)
        theta = self._positive(
            "rope_parameters.rope_theta", parameters.get("rope_theta", old or self._defaults["rope_theta"])
        )
        if old is not None and self._positive("rope_theta", old) != theta:
            raise self._fail("rope_theta", old, f"the value of rope_parameters.rope_theta, {theta}")
        return theta

    def labels(self) -> tuple[str, ...]:
        """Labels from id2label, else as many as num_labels says, else two, as transformers names them."""
        count, listing = self._data.get("num_labels"), self._data.get("id2label")
        if count is not None and (type(count) is not int or not 1 <= count <= MAX_LABELS):
            raise self._fail("num_labels", count, f"an integer from 1 to {MAX_LABELS}")
        if listing is None:
            return tuple(f"LABEL_{index}" for index in range(2 if count is None else count))
        if not isinstance(listing, dict) or not 1 <= len(listing) <= MAX_LABELS:
            raise self._fail("id2label", listing, f"an object of 1 to {MAX_LABELS} labels")
        found = tuple(listing.get(str(index)) for index in range(len(listing)))
        names = tuple(name for name in found if isinstance(name, str))
        if len(names) != len(listing):
            raise self._fail("id2label", listing, f"a name for each of 0 to {len(listing) - 1}")
        if count is not None and count != len(names):
            raise self._fail("num_labels", count, f"{len(names)}, the number of labels in id2label")
        return names

    def problem_type(self) -> str | None:
        found = self._data.get("problem_type")
        if found is not None and (not isinstance(found, str) or found not in PROBLEM_TYPES):
            raise self._fail("problem_type", found, f"null, {', '.join(PROBLEM_TYPES)}")
        return found

    def score_bias(self) -> bool:
        """Whether the classifier of tokens has a bias; since transformers 5 it may have none."""
        found = self._data.get("token_classification_bias", True)
        if not isinstance(found, bool):
            raise self._fail("token_classification_bias", found, "true or false")
        return found

    def token(self, field: str) -> int | None:
        found = self._get(field)
        if found == NO_TOKEN and type(found) is int:
            self.warnings.append(f"config.json: {field} = {NO_TOKEN} is no token; taken as none")
            return None
        return None if found is None else self._token_id(field, found)

    def _token_id(self, field: str, found: Any) -> int:
        vocab = self.size("vocab_size")
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < vocab:
            beyond = type(found) is int and found >= vocab
            hint = (
                f"the embedding has {vocab} rows and none for it, as when a token was added and the embedding not "
                f"resized: set {field} to null, or call resize_token_embeddings in transformers"
            )
            raise self._fail(field, found, f"a token id from 0 to {vocab - 1}", hint if beyond else "")
        return found

    def eos(self) -> tuple[int, ...]:
        found = self._get("eos_token_id")
        if found is None:
            return ()
        values = found if isinstance(found, list) else [found]
        if any(value == NO_TOKEN and type(value) is int for value in values):
            self.warnings.append(f"config.json: eos_token_id = {NO_TOKEN} is no token; taken as none")
            values = [value for value in values if value != NO_TOKEN]
        return tuple(dict.fromkeys(self._token_id("eos_token_id", value) for value in values))


def _rope_type(parameters: Any) -> Any:
    if not isinstance(parameters, Mapping):
        return None
    return parameters.get("rope_type", parameters.get("type", "default"))


def _scales_nothing(parameters: Any) -> bool:
    """Whether RoPE parameters leave every frequency as it is."""
    kind = _rope_type(parameters)
    if kind == "default":
        return True
    factor = parameters.get("factor") if isinstance(parameters, Mapping) else None
    return kind in _EXACT_AT_ONE and type(factor) in (int, float) and factor == 1
