"""The sections of `helium-edge.json` as frozen models; those of graphs and cache are in `graph_sections`.

Field names and units are a contract with hosts in other languages (see `manifest`). Readers ignore fields they do
not know, so later minor versions may add some.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from helium_edge.config import ModelConfig
from helium_edge.errors import UPGRADE, BundleError
from helium_edge.recipe import Recipe
from helium_edge.schemas import Count, Items, Size, first_problem
from helium_edge.tasks import TextTaskName

if TYPE_CHECKING:
    from helium_edge.checkpoint.generation_file import GenerationFile

PATH_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"
"""Relative, POSIX, no hidden names: a path of this form cannot leave the bundle on any system."""

TokenId = Count
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
BundlePath = Annotated[str, Field(pattern=PATH_PATTERN, max_length=255)]
DtypeName = Annotated[str, Field(pattern=r"^[a-z]+[0-9]*$")]


class Section(BaseModel):
    """Base of all sections: frozen, strictly typed, tolerant of unknown fields, no NaN or infinity."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def recipe_sha256(recipe: Recipe) -> str:
    """Hash of a recipe's canonical JSON, which is what makes two recipes the same."""
    return hashlib.sha256(recipe.canonical_json().encode()).hexdigest()


def _six_digits(value: float) -> float:
    """Round a measured figure, so that its last bits do not make equal exports differ."""
    return float(f"{value:.6g}")


class CreatedBy(Section):
    """What wrote the bundle; holds no time, path or command, so that exports are reproducible."""

    tool: str = "helium-edge"
    version: str
    libraries: dict[str, str]
    """Version of each library that shaped the files, by package name."""


class TargetSection(Section):
    """The target that built the graphs, and its options, defaults included."""

    name: str
    options: dict[str, JsonValue]


class SourceSection(Section):
    """The checkpoint that was exported."""

    checkpoint: str
    """Hub id, name of a shipped checkpoint, or name of a local folder."""
    revision: str | None = None
    """Commit on the Hub; null for local folders."""
    license: str | None = None
    """As the checkpoint's README declares it; null when it does not."""
    files: dict[str, Sha256]
    """sha256 of each file that was read, by name."""


class RopeSection(Section):
    """Rotary position embedding, as the graphs apply it."""

    theta: float = Field(gt=0)
    layout: Literal["half_split", "interleaved"] = "half_split"
    """How cached keys pair their dimensions."""
    checkpoint_layout: Literal["half_split", "interleaved"]
    """How the checkpoint's q and k rows pair them; undo the reordering to compare cached keys with it."""
    in_graph: bool = True


class ModelSection(Section):
    """Facts of the model."""

    type: str
    """`model_type` of config.json."""
    architecture: str
    parameters: Size
    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    layers: Size
    heads: Size
    kv_heads: Size
    head_dim: Size
    max_position_embeddings: Size
    rope: RopeSection

    @classmethod
    def from_config(cls, config: ModelConfig) -> ModelSection:
        """The section of a model."""
        return cls(
            type=config.model_type,
            architecture=config.architecture,
            parameters=config.num_parameters,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_position_embeddings,
            rope=RopeSection(
                theta=config.rope_theta,
                checkpoint_layout="interleaved" if config.rope_interleaved else "half_split",
            ),
        )


class OutputSection(Section):
    """What a classifier or encoder returns."""

    kind: TextTaskName
    labels: Items[str]
    """Name of each logit, in order; empty for hidden states."""
    problem_type: str | None
    """How logits become scores: `multi_label_classification` a sigmoid of each, `regression` none; else, and when
    null, a softmax, or a sigmoid where there is one label."""

    @classmethod
    def from_config(cls, config: ModelConfig) -> OutputSection | None:
        """The section of a model; None for a language model."""
        if config.task.has_cache:
            return None
        return cls(
            kind=cast("TextTaskName", config.task.name), labels=config.labels, problem_type=config.problem_type
        )


class TokensSection(Section):
    """Special token ids."""

    bos: TokenId | None
    eos: Items[TokenId]
    """Every id that ends generation."""
    pad: TokenId | None
    add_bos: bool
    """Whether a prompt starts with `bos`. The tokenizer file does it by itself: never add a second one."""
    forbidden: Items[TokenId] = ()
    """Ids that the tokenizer makes of some text and the model has no row for: refuse a text that holds one."""

    @classmethod
    def from_config(cls, config: ModelConfig, *, add_bos: bool, forbidden: Sequence[int] = ()) -> TokensSection:
        """The section of a model; `add_bos` and `forbidden` come from its tokenizer."""
        return cls(
            bos=config.bos_token_id,
            eos=config.eos_token_ids,
            pad=config.pad_token_id,
            add_bos=add_bos,
            forbidden=tuple(forbidden),
        )


class TokenizerSection(Section):
    """The tokenizer file, and what a host must implement to run it."""

    file: BundlePath = "tokenizer.json"
    kind: str
    """Model of the tokenizer: `unigram`, `bpe`, `wordpiece` or `wordlevel`."""
    byte_fallback: bool
    """Whether unknown characters become byte tokens, so that a character may span several tokens."""
    merged_from: dict[str, Sha256] = Field(default_factory=dict)
    """sha256 of each file of the checkpoint that the tokenizer file was merged from; empty where it is a copy."""


class SchemeSummary(Section):
    """Weights that share one numeric format."""

    weights: Size
    parameters: Size
    bytes: Size


class WeightReportLike(Protocol):
    """What is read of a weight's quantization report."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def scheme(self) -> str: ...  # noqa: D102

    @property
    def relative_error(self) -> float: ...  # noqa: D102

    @property
    def nbytes(self) -> int: ...  # noqa: D102


class CalibrationSection(Section):
    """The text that the integers were calibrated on, and what they came to."""

    text: str
    """The built-in text, or the name of a file."""
    text_sha256: Sha256
    """Of the token ids, as a JSON array of arrays."""
    tokens: Size
    damping: float = Field(gt=0)
    """Added to the diagonal of each Hessian, in its mean."""
    rounds: Count
    """Of scale refit and code descent."""
    folds: bool
    """Whether large channels were moved into the weights that read them: norm gains are then not the
    checkpoint's."""
    digests: dict[str, Sha256]
    """sha256 of each tensor as it was exported, by its name: scheme, codes, scales and zero points of a matrix,
    the real values of others. Parity holds the files against them."""


class QuantizationSection(Section):
    """How the matrices were quantized; norm gains and biases are always float32."""

    recipe_name: str
    recipe_sha256: Sha256
    """Of the recipe's canonical JSON."""
    recipe: dict[str, JsonValue]
    """The whole recipe with every default filled in."""
    summary: dict[str, SchemeSummary]
    """Matrices by scheme (`int4-g32`, `int8`, ..., `float32`)."""
    excluded: Items[str]
    """Matrices that stay float32."""
    fingerprint: str
    """Identifies the codes and scales: equal for bundles that carry the same integers, whatever the target."""
    calibration: CalibrationSection | None = None
    """Null where the integers follow from the weights alone."""
    weights_bytes: Count
    """Codes, scales, zero points and float32 matrices together."""
    mean_relative_error: float = Field(ge=0)
    """rms(w - dequantized) / rms(w), averaged over the quantized matrices by size."""
    worst_relative_error: float = Field(ge=0)
    worst_weight: str | None
    """The matrix with the largest error; null when nothing is quantized."""

    def to_recipe(self) -> Recipe:
        """The recipe.

        Raises:
            BundleError: It is none of this version.
        """
        try:
            return Recipe.model_validate_json(json.dumps(self.recipe))
        except ValidationError as error:
            place, problem = first_problem(error, self.recipe)
            raise BundleError(
                f"the recipe in the manifest is none of this version: {place}: {problem}",
                hint=UPGRADE,
            ) from error

    @classmethod
    def from_reports(
        cls,
        recipe: Recipe,
        reports: Iterable[WeightReportLike],
        *,
        fingerprint: str,
        calibration: CalibrationSection | None = None,
    ) -> QuantizationSection:
        """Summarise the store's reports of all matrices."""
        reports = list(reports)
        counts: dict[str, list[int]] = {}
        for report in reports:
            entry = counts.setdefault(report.scheme, [0, 0, 0])
            for index, amount in enumerate((1, math.prod(report.shape), report.nbytes)):
                entry[index] += amount
        quantized = [report for report in reports if report.scheme != "float32"]
        worst = max(quantized, key=lambda report: report.relative_error, default=None)
        elements = sum(math.prod(report.shape) for report in quantized)
        total = sum(report.relative_error * math.prod(report.shape) for report in quantized)
        return cls(
            recipe_name=recipe.name,
            recipe_sha256=recipe_sha256(recipe),
            recipe=recipe.model_dump(mode="json"),
            summary={
                scheme: SchemeSummary(weights=weights, parameters=parameters, bytes=nbytes)
                for scheme, (weights, parameters, nbytes) in sorted(counts.items())
            },
            excluded=tuple(report.name for report in reports if report.scheme == "float32"),
            fingerprint=fingerprint,
            calibration=calibration,
            weights_bytes=sum(report.nbytes for report in reports),
            mean_relative_error=_six_digits(total / elements) if elements else 0.0,
            worst_relative_error=_six_digits(worst.relative_error) if worst else 0.0,
            worst_weight=worst.name if worst else None,
        )


class GenerationSection(Section):
    """Sampling defaults, greedy unless the checkpoint says otherwise."""

    do_sample: bool = False
    temperature: float = Field(default=1.0, ge=0)
    top_k: Count = 0
    """0 keeps all tokens."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    """0 keeps all tokens."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    no_repeat_ngram_size: Count = 0
    """0 allows all runs of tokens."""
    suppress_tokens: Items[TokenId] = ()
    """Ids that are never chosen."""
    stop_strings: Items[Annotated[str, Field(min_length=1)]] = ()
    """Texts that end a generation; hosts do not show them."""
    max_new_tokens: Size = 256
    max_length: Size | None = None
    """Most tokens of prompt and answer together; null leaves it to `max_new_tokens`."""
    unsupported: Items[str] = ()
    """What else the checkpoint asks for and no host of ours does, by name."""

    @classmethod
    def from_file(cls, file: GenerationFile) -> GenerationSection:
        """The section of a checkpoint."""
        settings = dict(file.settings)
        if "max_length" in settings:
            settings["max_new_tokens"] = settings["max_length"]
        return cls(**settings, unsupported=file.unsupported)


class MemorySection(Section):
    """Estimated memory of a running bundle, in bytes."""

    weights_bytes: Count
    """Weights on disk; pages of them that the runtime maps can be reclaimed, so they are not in the total."""
    packed_bytes: Count
    """Weights in the form that the kernels read, held in memory."""
    cache_bytes: Count
    activations_bytes: Count
    total_bytes: Count

    @classmethod
    def estimate(
        cls, *, weights_bytes: int, packed_bytes: int, cache_bytes: int, activations_bytes: int
    ) -> MemorySection:
        """Add up what cannot be reclaimed."""
        return cls(
            weights_bytes=weights_bytes,
            packed_bytes=packed_bytes,
            cache_bytes=cache_bytes,
            activations_bytes=activations_bytes,
            total_bytes=packed_bytes + cache_bytes + activations_bytes,
        )


class FileEntry(Section):
    """One file of the bundle."""

    path: BundlePath
    bytes: Count
    sha256: Sha256
