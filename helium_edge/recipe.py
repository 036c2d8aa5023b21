"""Recipes: what to export and how, as typed, frozen data read from YAML.

A recipe says what (schemes per weight, shapes, gates) and knows no method, packing, graph or runtime; the options
of a target are validated by the target's own model. Rules are ordered, the first match wins, and a pattern must
match the whole weight name. An unknown key is an error.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import SchemaError, SchemaValidator, core_schema

from helium_edge.documents import DocumentError, parse_yaml, read_document
from helium_edge.errors import RecipeError, UsageError, did_you_mean
from helium_edge.registry import TARGETS, options_of
from helium_edge.schemas import StrictModel
from helium_edge.signature import LogitsMode

MAX_RECIPE_BYTES = 1 << 15
"""Recipes are a page of text; the limit keeps YAML tricks from costing anything."""

MAX_RULES = 256
MAX_PATTERN = 512
"""Characters of a pattern."""

GROUP_SIZES = (32, 64, 128)

KvCacheFormat = Literal["float32", "float16", "int8"]
"""Numeric format of keys and values in the cache. CoreML keeps float16 where float32 is asked for."""


class Scheme(StrictModel):
    """Numeric format of one weight.

    Args:
        bits: 4 or 8.
        group_size: Weights along K that share one scale; None is one scale per output channel.
        symmetric: Whether the zero point is fixed at 0. Asymmetric is int4 only.
    """

    bits: Literal[4, 8]
    group_size: int | None = None
    symmetric: bool = True

    @model_validator(mode="after")
    def _check(self) -> Scheme:
        if self.bits == 4 and self.group_size not in GROUP_SIZES:
            raise ValueError(f"int4 needs group_size {', '.join(map(str, GROUP_SIZES))}; found {self.group_size}")
        if self.bits == 8 and self.group_size is not None:
            raise ValueError("int8 is per output channel: leave group_size out")
        if self.bits == 8 and not self.symmetric:
            raise ValueError("int8 is symmetric: leave symmetric out")
        return self

    def __str__(self) -> str:
        group = "" if self.group_size is None else f"-g{self.group_size}"
        return f"int{self.bits}{group}{'' if self.symmetric else '-asym'}"


_RULE = re.compile(r"^quantization\.rules\.(\d+)(\.|$)")
_SCHEME_NAME = re.compile(r"int([48])(?:-g(\d{1,4}))?(-asym)?")


def parse_scheme(value: Any) -> Any:
    """Turn the short spelling (`int4-g32`, `int4-g128-asym`, `int8`) into fields; leave the rest alone."""
    if not isinstance(value, str):
        return value
    match = _SCHEME_NAME.fullmatch(value)
    if match is None:
        raise ValueError(f"unknown scheme {value!r}; write int8, int4-g32, int4-g64, int4-g128 or int4-g32-asym")
    bits, group, asym = match.groups()
    return {"bits": int(bits), "group_size": int(group) if group else None, "symmetric": asym is None}


SchemeField = Annotated[Scheme, BeforeValidator(parse_scheme)]


class Rule(StrictModel):
    """One line of the quantization plan: weights that fully match `match` get `scheme`, or stay unquantized.

    Args:
        match: Regular expression over the whole weight name, in the syntax of Rust's `regex`: Python's, without
            look-around and back-references. That engine takes linear time whatever the pattern, so that a recipe
            from somewhere cannot hang the export.
        scheme: The format; exactly one of `scheme` and `skip` is given.
        skip: True keeps the weight in float32, on purpose.
        fallback: Format used, and reported, where the group size of `scheme` does not divide K.
    """

    match: Annotated[str, Field(max_length=MAX_PATTERN)]
    scheme: SchemeField | None = None
    skip: bool = False
    fallback: SchemeField | None = None

    @model_validator(mode="after")
    def _check(self) -> Rule:
        if (self.scheme is None) != self.skip:
            raise ValueError("a rule has either a scheme or skip: true")
        _whole_match(self.match)
        return self

    def matches(self, name: str) -> bool:
        """Whether the pattern matches the whole name."""
        return _whole_match(self.match).isinstance_python(name)


@functools.lru_cache(maxsize=1024)
def _whole_match(pattern: str) -> SchemaValidator:
    """What accepts the names that a pattern matches whole.

    Raises:
        ValueError: It is no regular expression.
    """
    try:
        _compile(pattern)  # by itself, so that no bracket of it pairs with one of ours
        return _compile(rf"\A(?:{pattern})\z")
    except SchemaError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in lines if line.startswith("error: ")), lines[-1]).removeprefix("error: ")
        raise ValueError(f"match {pattern!r} is no regular expression: {reason}") from error


def _compile(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(strict=True, pattern=pattern, regex_engine="rust-regex"))


class Calibration(StrictModel):
    """Options of `method: calibrated`.

    Args:
        tokens: About how many tokens of text to calibrate on.
        rounds: Rounds of scale refit and code descent; None is 2, and 1 of a model of more than 200 M parameters.
        damping: Added to the diagonal of the Hessian, in its mean: less trust in a short text.
        folds: Move large channels into the weights that read them first, which changes nothing else.
    """

    tokens: int = Field(default=8192, ge=256, le=1 << 20)
    rounds: int | None = Field(default=None, ge=0, le=8)
    damping: float = Field(default=0.1, ge=1e-4, le=1)
    folds: bool = True


class Quantization(StrictModel):
    """How weights are quantized; the registry of methods lives in `quant`.

    Args:
        method: Name of the method.
        calibration: Options of the method `calibrated`, and of no other; None is all its defaults.
        rules: The format of each weight; the first match wins.
    """

    method: str = "mse"
    calibration: Calibration | None = None
    rules: tuple[Rule, ...] = Field(min_length=1, max_length=MAX_RULES)

    @model_validator(mode="after")
    def _check(self) -> Quantization:
        if self.calibration is not None and self.method != "calibrated":
            raise ValueError(f"calibration has no meaning under method: {self.method}")
        return self

    @model_serializer(mode="wrap")
    def _leave_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without options that are not given: what needs none stays readable for earlier versions."""
        found: dict[str, Any] = handler(self)
        if self.calibration is None:
            found.pop("calibration", None)  # where defaults are left out, it already is
        return found

    def rule_for(self, name: str) -> Rule:
        """The first rule whose pattern matches the whole name.

        Raises:
            RecipeError: No rule matches; nothing is ever left unquantized silently.
        """
        for rule in self.rules:
            if rule.matches(name):
                return rule
        raise RecipeError(
            f"no quantization rule matches the weight {name}",
            hint="add a rule for it, with a scheme or with skip: true",
        )


_Options = TypeVar("_Options", bound=BaseModel)


class _Targets(StrictModel):
    """The targets to write, each with its options; at least one."""

    @model_validator(mode="after")
    def _check(self) -> _Targets:
        if not self.names():
            raise ValueError(f"name at least one target: {', '.join(type(self).model_fields)}")
        return self

    def names(self) -> tuple[str, ...]:
        """Targets that are asked for."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)

    def options(self, name: str, kind: type[_Options]) -> _Options:
        """Options of a target, by its own model; the defaults where the recipe does not name it."""
        found: _Options | None = getattr(self, name, None)
        return kind() if found is None else found


if TYPE_CHECKING:
    Targets = _Targets
else:
    # A field for each target that is registered, validated by the model of its own.
    Targets = create_model(
        "Targets", __base__=_Targets, **{name: (options_of(name) | None, None) for name in TARGETS}
    )


class Shapes(StrictModel):
    """Static shapes; `cache_len` is capped at the model's context when exporting."""

    prefill_len: int = Field(default=128, ge=1, le=4096)
    cache_len: int = Field(default=4096, ge=2, le=1 << 20)


class TaskDrop(StrictModel):
    """What benchmarks may lose against the original, in points; None is no gate. Only what surely lost more fails.

    Args:
        mean: Of the mean over tasks.
        any: Of any one task.
    """

    mean: float | None = Field(default=None, gt=0, le=100)
    any: float | None = Field(default=None, gt=0, le=100)

    @model_validator(mode="after")
    def _check(self) -> TaskDrop:
        if self.mean is None and self.any is None:
            raise ValueError("name at least one of mean and any")
        return self


class Gates(StrictModel):
    """What parity against the original checkpoint must reach; None is reported and not gated.

    Args:
        mean_kld: Upper bound of the mean Kullback-Leibler divergence, in nats per token.
        top1: Lower bound of the share of positions whose most likely token agrees.
        ppl_ratio: Upper bound of perplexity over the reference's perplexity.
        max_logit_error: Upper bound of max |delta logit| / rms(logit).
        hidden_cosine: Lower bound of the mean cosine similarity of hidden states, for a model that returns them.
        near_tie: A disagreement is no failure of `top1` where the reference's best token leads by less than this
            share of rms(logit). The default is what rounding of float32 does; quantized recipes allow 0.02, which
            is two tokens whose probabilities differ by about a tenth.
        task_drop: What `helium-edge eval` judges by; parity does not.
    """

    mean_kld: float | None = Field(default=None, gt=0)
    top1: float | None = Field(default=None, gt=0, le=1)
    ppl_ratio: float | None = Field(default=None, gt=1)
    max_logit_error: float | None = Field(default=None, gt=0)
    hidden_cosine: float | None = Field(default=None, gt=0, le=1)
    near_tie: float = Field(default=1e-3, gt=0, le=0.1)
    task_drop: TaskDrop | None = None

    @model_serializer(mode="wrap")
    def _leave_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a gate that is not given: recipes without one keep their hash."""
        found: dict[str, Any] = handler(self)
        if self.task_drop is None:
            found.pop("task_drop", None)  # nor where nothing that is None was asked for
        return found


class Recipe(StrictModel):
    """One export, complete: see docs/recipes.md for the annotated form.

    `kv_cache: float16` keeps keys and values in half the bytes; `int8` as codes with one scale per channel,
    calibrated on text. Neither has a meaning for a classifier or encoder.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    description: str = ""
    targets: Targets
    shapes: Shapes = Shapes()
    logits: LogitsMode = "last"
    kv_cache: KvCacheFormat = "float32"
    quantization: Quantization
    gates: Gates = Gates()

    def canonical_json(self) -> str:
        """The recipe with every default filled in, in one fixed spelling: what hashes and manifests use."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def override(self, targets: Sequence[str] = (), **shapes: int | None) -> Recipe:
        """A copy for other targets, and of other shapes.

        Args:
            targets: Write for these alone, with defaults where the recipe does not configure one; empty keeps all.
            shapes: `cache_len`, `prefill_len`; None keeps what the recipe says.

        Raises:
            UsageError: No such target.
            ValidationError: A shape out of its range.
        """
        for target in targets:
            if target not in Targets.model_fields:
                raise UsageError(f"no target {target!r}", hint=did_you_mean(target, Targets.model_fields))
        data = self.model_dump(mode="json")
        data["shapes"].update({key: value for key, value in shapes.items() if value is not None})
        if targets:
            data["targets"] = {target: data["targets"][target] or {} for target in targets}
        return Recipe.model_validate_json(json.dumps(data))

    def fast(self) -> Recipe:
        """A copy that needs no text and takes seconds: `mse` in place of `calibrated`, and twice the divergence.

        A recipe of another method stays as it is.
        """
        if self.quantization.method != "calibrated":
            return self
        kld = self.gates.mean_kld
        gates = {"mean_kld": None if kld is None else _FAST_LOSS * kld}
        return self.model_copy(
            update={
                "quantization": self.quantization.model_copy(update={"method": "mse", "calibration": None}),
                "gates": self.gates.model_copy(update=gates),
            }
        )


_FAST_LOSS = 2.0
"""How much more divergence `fast` allows. helium-tiny loses 2.7 times as much by a scale search as calibrated, and
the gates of the shipped recipes are nearly twice what it loses calibrated."""


def parse_recipe(text: str, *, where: str) -> Recipe:
    """Read a recipe from YAML text; `where` names the file in messages.

    Raises:
        RecipeError: Not YAML, an unknown key (with the closest known one), or a value that is not allowed.
    """
    try:
        data = parse_yaml(text)
    except DocumentError as error:
        raise RecipeError(f"{where}: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{where}: a recipe is a mapping of keys, found {type(data).__name__}")
    try:
        # Through JSON: strict mode then takes YAML lists for tuples and nothing else loosely.
        return Recipe.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise _recipe_error(error, data, where) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where}: only plain YAML values are allowed: {error}") from error


def _recipe_error(error: ValidationError, data: Any, where: str) -> RecipeError:
    problems = error.errors(include_url=False)
    # A misspelt key also leaves its right spelling missing: name the misspelt one.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    path = [str(part) for part in first["loc"]]
    place = ".".join(path) or "top level"
    rule = _RULE.match(place)
    if rule is not None:  # they count from 1, as `recipes check` shows them
        place = f"quantization rule {int(rule[1]) + 1}{': ' if rule[2] else ''}{place[rule.end() :]}"
    if first["type"] == "extra_forbidden":
        return RecipeError(f"{where}: unknown key {place!r}", hint=did_you_mean(path[-1], _keys_beside(path)))
    if first["type"] == "missing":
        return RecipeError(f"{where}: the key {place!r} is missing")
    found = json.dumps(_written(data, first["loc"], first["input"]), default=str)
    found = found if len(found) <= 60 else found[:57] + "..."
    message = first["msg"].removeprefix("Value error, ")
    return RecipeError(f"{where}: {place} = {found}: {message}")


def _written(data: Any, path: Sequence[int | str], parsed: Any) -> Any:
    """What the file has at a place; `parsed` where it has none, as in a part that a check looks at whole."""
    try:
        for step in path:
            data = data[step]
    except (KeyError, IndexError, TypeError):
        return parsed
    return data


def _keys_beside(path: list[str]) -> list[str]:
    """Known keys of the mapping that holds the last part of `path`."""
    model: type[BaseModel] = Recipe
    by_key: dict[str, type[BaseModel]] = {
        "targets": Targets, **{name: options_of(name) for name in TARGETS},
        "shapes": Shapes, "quantization": Quantization, "calibration": Calibration, "rules": Rule,
        "scheme": Scheme, "fallback": Scheme, "gates": Gates, "task_drop": TaskDrop,
    }  # fmt: skip
    for part in path[:-1]:
        model = by_key.get(part, model)
    return list(model.model_fields)


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = importlib.resources.files("helium_edge.recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """YAML text of a shipped recipe.

    Raises:
        RecipeError: No recipe of that name.
    """
    if name not in recipe_names():
        raise RecipeError(f"no recipe named {name!r}", hint=did_you_mean(name, recipe_names()))
    resource = importlib.resources.files("helium_edge.recipes").joinpath(f"{name}.yaml")
    return resource.read_text(encoding="utf-8")


def load_recipe(name_or_file: str) -> Recipe:
    """Load a shipped recipe by name, or a YAML file by path (anything with a slash or .yaml/.yml).

    Raises:
        RecipeError: Unknown name, unreadable file or malformed recipe.
    """
    if "/" not in name_or_file and not name_or_file.endswith((".yaml", ".yml")):
        return parse_recipe(recipe_text(name_or_file), where=f"recipe {name_or_file}")
    path = Path(name_or_file)
    try:
        if not path.is_file():
            raise RecipeError(f"{path}: no such recipe file", hint="`helium-edge recipes` lists the shipped ones")
        text = read_document(path, MAX_RECIPE_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError, DocumentError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"{path}: not readable: {reason}") from error
    return parse_recipe(text, where=str(path))
