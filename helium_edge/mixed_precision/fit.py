"""A recipe that loses least within a budget of bytes: `helium-edge recipes fit`."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from helium_edge.checkpoint import Checkpoint
from helium_edge.config import ModelConfig
from helium_edge.errors import ConfigError, RecipeError, UsageError
from helium_edge.exporting import ExportRequest, export_all, fit, split
from helium_edge.exporting.calibration import weight_texts
from helium_edge.exporting.source import open_source
from helium_edge.mixed_precision.groups import Group, groups_of
from helium_edge.mixed_precision.knapsack import Option, choose
from helium_edge.mixed_precision.losses import Losses, LossWalk, TwoTexts
from helium_edge.mixed_precision.rules import recipe_yaml, rules_for
from helium_edge.model.weights import read_weight
from helium_edge.parity import require_reference
from helium_edge.parity.check import check
from helium_edge.parity.report import ParityReport
from helium_edge.progress import SILENT, Progress
from helium_edge.quant import plan_weights
from helium_edge.quant.methods import CALIBRATED
from helium_edge.recipe import GROUP_SIZES, Calibration, Gates, Recipe, Scheme
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.tasks import LANGUAGE_MODEL

_JUDGED_EVERY = 5
"""Of so many windows of the text one is measured on, and the others are calibrated on."""

_JUDGED_TOKENS, _JUDGED_OF_LARGE = 3072, 768
_LARGE = 200_000_000
"""Parameters from which on a token takes so long that a few hundred must do."""

_LEAST_GATE = 0.003
"""Smallest gate of the divergence: that of the int8 recipes, below which activations count as well."""


@dataclass(frozen=True)
class FitRequest:
    """What a recipe is to be fitted to.

    Attributes:
        source: Folder, Hub id or `helium-tiny`.
        base: A recipe of one target: target, shapes, cache and options of calibration are kept, its rules are
            replaced, and weights are calibrated whatever its method.
        nbytes: Most bytes of graphs and weights.
        revision: Of a Hub id.
        calibration: Text to calibrate and to measure on; None is the built-in one.
        measure: Export by the result, and compare with the original.
    """

    source: str
    base: Recipe
    nbytes: int
    revision: str | None = None
    calibration: Path | None = None
    measure: bool = False


@dataclass(frozen=True)
class FittedRecipe:
    """A recipe within a budget.

    Attributes:
        recipe: The recipe.
        nbytes: Estimated bytes of graphs and weights.
        loss: Predicted mean KLD, the sum over all groups, in nats a token.
        base_nbytes: Of the base recipe.
        base_loss: Of the base recipe.
        chosen: Scheme and predicted loss of each group, in the order of the forward pass.
        measured_nbytes: All files of an export by it, tokenizer and the rest too; None where it was not asked for.
        measured_loss: Its mean KLD on the evaluation text, likewise.
    """

    recipe: Recipe
    nbytes: int
    loss: float
    base_nbytes: int
    base_loss: float
    chosen: tuple[tuple[Group, Scheme | None, float], ...]
    measured_nbytes: int | None = None
    measured_loss: float | None = None

    def text(self) -> str:
        """The recipe in YAML."""
        return recipe_yaml(self.recipe)


def fit_recipe(request: FitRequest, progress: Progress = SILENT) -> FittedRecipe:
    """Find the schemes that lose least within a budget.

    Args:
        request: What to fit to.
        progress: Receives stages.

    Raises:
        UsageError: The base has several targets, or not even the smallest schemes fit the budget.
        ConfigError: The model predicts no next token.
        RecipeError: The base does not fit the model.
        InputError: The checkpoint is unusable.
        MissingDependencyError: It is to be measured, and the extra `reference` is missing.
        ResourceError: Out of disk space or memory.
    """
    bases = split(request.base)
    if request.measure:
        require_reference()
    if len(bases) > 1:
        raise UsageError(
            f"recipe {request.base.name} has the targets {', '.join(bases)}",
            hint="sizes are those of one target: take a recipe with one",
        )
    progress.stage("read checkpoint")
    source = open_source(request.source, revision=request.revision)
    checkpoint = source.checkpoint
    config = checkpoint.config
    if config.task is not LANGUAGE_MODEL:
        raise ConfigError(
            f"config.json: {config.architecture}: losses are measured on next tokens, which it does not predict",
            hint="write the recipe by hand: docs/recipes.md",
        )
    budget = Budget(config, request.base)
    if not any(budget.candidates.values()):
        raise UsageError(
            f"recipe {request.base.name} keeps every matrix in float32: there is nothing to choose",
            hint="take a base that quantizes, such as onnx-int4",
        )
    if budget.smallest > request.nbytes:
        raise UsageError(
            f"--bytes {request.nbytes:,}: too few, with the smallest scheme for every matrix it takes "
            f"{budget.smallest:,}",
            hint=f"ask for --bytes {budget.smallest} or more",
        )
    tokenizer = Tokenizer(checkpoint.tokenizer_files()[0], source.companions.tokenizer.content)
    losses = measured_losses(checkpoint, tokenizer, request.base, budget, request.calibration, progress)
    found = budget.best(losses, request.nbytes)
    if not request.measure:
        return found
    return _measured(found, request, progress)


def measured_losses(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    base: Recipe,
    budget: Budget,
    calibration: Path | None,
    progress: Progress = SILENT,
) -> Losses:
    """What each group of matrices costs under each scheme that it can have.

    Args:
        checkpoint: The original.
        tokenizer: Of the model.
        base: Its options of calibration count.
        budget: Knows the schemes.
        calibration: Text to calibrate and to measure on; None is the built-in one.
        progress: Receives a stage.

    Raises:
        UsageError: The text cannot be read, or holds nothing to calibrate on.
        CheckpointError: A weight cannot be read or is not finite.
    """
    config, options = checkpoint.config, base.quantization.calibration or Calibration()
    texts = weight_texts(tokenizer, config, options.tokens, calibration)
    progress.stage("measure losses", config.num_hidden_layers + 1, "layers")
    walk = LossWalk(config, _Originals(checkpoint), budget.candidates, _two(texts, config), options.damping)
    return walk.run(progress)


class Budget:
    """Bytes of a bundle by the schemes of its groups.

    Args:
        config: The model.
        base: The recipe whose rules are replaced.

    Attributes:
        candidates: Schemes that each group can have on the target; none where the base keeps it in float32.
        smallest: Bytes where every group takes its smallest scheme.
        base_nbytes: Bytes by the base recipe.

    Raises:
        RecipeError: The recipe does not fit the model.
    """

    def __init__(self, config: ModelConfig, base: Recipe) -> None:
        self._config = config
        self._base = base
        self._groups = groups_of(config)
        fit(config, base)
        schemes = {planned.name: planned.scheme for planned in plan_weights(config, base.quantization)}
        self._given = {group: schemes[group.names[0]] for group in self._groups}
        self.base_nbytes = self._total(self._given)
        self.candidates = {group: self._possible(group) for group in self._groups}
        self._first = {group: found[0] if found else None for group, found in self.candidates.items()}
        self._first_nbytes = self._total(self._first)
        self._one = dataclasses.replace(config, num_hidden_layers=1)
        like = {group: self._like(group) for group in groups_of(self._one)}
        self._one_first = {group: self._first[other] for group, other in like.items()}
        self._one_nbytes = self._total(self._one_first, self._one)
        self._prices: dict[tuple[str, Scheme], int] = {}
        self.smallest = self._first_nbytes + sum(
            min(self._price(group, scheme) for scheme in found)
            for group, found in self.candidates.items()
            if found
        )

    def best(self, losses: Losses, nbytes: int) -> FittedRecipe:
        """The recipe with the smallest sum of losses within a budget, which is at least `smallest`."""
        groups = [group for group, found in self.candidates.items() if found]
        prices = {group: [self._price(group, scheme) for scheme in self.candidates[group]] for group in groups}
        lowest = {group: min(found) for group, found in prices.items()}
        items = [
            [
                Option(price - lowest[group], losses[group][scheme])
                for scheme, price in zip(self.candidates[group], prices[group], strict=True)
            ]
            for group in groups
        ]
        room, total = nbytes - self.smallest, nbytes + 1
        schemes = dict(self._first)
        while total > nbytes:  # what is shared between kinds, as padding, no price knows
            picks = choose(items, max(room, 0))
            assert picks is not None
            schemes |= {group: self.candidates[group][pick] for group, pick in zip(groups, picks, strict=True)}
            total = self._total(schemes)
            if room <= 0:
                break
            room -= max(total - nbytes, 0)
        loss, base_loss = _sum(losses, schemes), _sum(losses, self._given)
        update = {
            "name": f"{self._base.name[:60]}-fit",
            "description": f"fitted to {nbytes:,} bytes: predicted mean KLD {loss:.3g}",
            "gates": _gates(self._base.gates, loss, base_loss),
        }
        chosen = tuple((group, scheme, _loss(losses, group, scheme)) for group, scheme in schemes.items())
        return FittedRecipe(
            recipe=self._recipe(schemes).model_copy(update=update),
            nbytes=total,
            loss=loss,
            base_nbytes=self.base_nbytes,
            base_loss=base_loss,
            chosen=chosen,
        )

    def _possible(self, group: Group) -> list[Scheme]:
        given = self._given[group]
        if given is None:
            return []
        every = [Scheme(bits=4, group_size=size) for size in sorted(GROUP_SIZES, reverse=True)] + [Scheme(bits=8)]
        return [scheme for scheme in dict.fromkeys([*every, given]) if self._carries(group, scheme)]

    def _carries(self, group: Group, scheme: Scheme) -> bool:
        try:
            recipe, _ = fit(self._config, self._recipe({**self._given, **self._alike(group, scheme)}))
            plan_weights(self._config, recipe.quantization)
        except RecipeError:
            return False
        return True

    def _alike(self, group: Group, scheme: Scheme) -> dict[Group, Scheme]:
        """The scheme for all groups of a kind that are quantized."""
        return {
            other: scheme for other in self._groups if other.kind == group.kind and self._given[other] is not None
        }

    def _price(self, group: Group, scheme: Scheme) -> int:
        """Bytes of a group over those of its first candidate: in a model of one layer, since layers are alike."""
        key = group.kind, scheme
        if key not in self._prices:
            changed = {other: scheme for other in self._one_first if other.kind == group.kind}
            nbytes = self._total({**self._one_first, **changed}, self._one)
            self._prices[key] = nbytes - self._one_nbytes
        return self._prices[key]

    def _like(self, group: Group) -> Group:
        """A group of the model of this kind that has candidates, if there is any."""
        alike = [other for other in self._groups if other.kind == group.kind]
        return next((other for other in alike if self.candidates[other]), alike[0])

    def _total(self, schemes: Mapping[Group, Scheme | None], config: ModelConfig | None = None) -> int:
        """Bytes of graphs and weights."""
        config = config or self._config
        recipe, target = fit(config, self._recipe(schemes))
        weights = plan_weights(config, recipe.quantization)
        return sum(nbytes for _, nbytes in target.plan(config, recipe, weights))

    def _recipe(self, schemes: Mapping[Group, Scheme | None]) -> Recipe:
        quantization = self._base.quantization.model_copy(
            update={"method": CALIBRATED, "rules": rules_for(schemes)}
        )
        return self._base.model_copy(update={"quantization": quantization})


def _loss(losses: Losses, group: Group, scheme: Scheme | None) -> float:
    return 0.0 if scheme is None else losses[group][scheme]


def _sum(losses: Losses, schemes: Mapping[Group, Scheme | None]) -> float:
    return sum(_loss(losses, group, scheme) for group, scheme in schemes.items())


def _gates(gates: Gates, loss: float, base_loss: float) -> Gates:
    """Gates in proportion to what is predicted, and none of what is not and may be missed."""
    if gates.mean_kld is None:
        return gates
    worse = loss > base_loss
    return gates.model_copy(
        update={
            "mean_kld": max(round(gates.mean_kld * loss / base_loss, 4), _LEAST_GATE)
            if base_loss
            else gates.mean_kld,
            "top1": None if worse else gates.top1,
            "ppl_ratio": None if worse else gates.ppl_ratio,
        }
    )


def _two(texts: Sequence[Sequence[int]], config: ModelConfig) -> TwoTexts:
    """One text to calibrate on, and another to measure on."""
    judged = list(texts[_JUDGED_EVERY - 1 :: _JUDGED_EVERY]) or list(texts[-1:])
    calibration = [text for index, text in enumerate(texts) if (index + 1) % _JUDGED_EVERY] or judged
    left = _JUDGED_OF_LARGE if config.num_parameters > _LARGE else _JUDGED_TOKENS
    kept = []
    for text in judged:
        kept.append(text[:left])
        left -= len(kept[-1])
        if left < 1:
            break
    return TwoTexts(calibration, kept)


class _Originals:
    """Tensors of a checkpoint, in their stored type."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def read(self, name: str) -> Tensor:
        """A tensor, which is finite."""
        return read_weight(self._checkpoint, name)


def _measured(found: FittedRecipe, request: FitRequest, progress: Progress) -> FittedRecipe:
    """Export by the recipe, and compare the result with the original."""
    with tempfile.TemporaryDirectory(prefix="helium-edge-fit-") as folder:
        out = Path(folder) / "bundle"
        asked = ExportRequest(
            source=request.source,
            recipe=found.recipe,
            out=out,
            revision=request.revision,
            calibration=request.calibration,
            parity=False,
        )
        (result,) = export_all(asked, progress)
        report = check(result.bundle, checkpoint=request.source, progress=progress)
        assert isinstance(report, ParityReport)
        return dataclasses.replace(
            found, measured_nbytes=result.bundle_bytes, measured_loss=report.summary()["mean_kld"]
        )
