"""A recipe made to fit a model: one target, lengths that the model has."""

from __future__ import annotations

from helium_edge.config import ModelConfig
from helium_edge.errors import ConfigError, RecipeError
from helium_edge.recipe import Recipe, Targets
from helium_edge.targets import load_target
from helium_edge.targets.base import Target


def split(recipe: Recipe) -> dict[str, Recipe]:
    """A recipe for each target of a recipe, by the target's name."""
    targets = recipe.targets
    return {
        name: recipe.model_copy(update={"targets": Targets(**{name: getattr(targets, name)})})
        for name in targets.names()
    }


def fit(config: ModelConfig, recipe: Recipe) -> tuple[Recipe, Target]:
    """Cap a recipe's cache at the model's context, and check that its target can carry the model.

    A classifier or encoder has no cache: what counts is the length of a text, `prefill_len`.

    Raises:
        RecipeError: It cannot.
        ConfigError: The model cannot be exported with static shapes.
    """
    (name,) = recipe.targets.names()
    target = load_target(name)
    fitted = (_fit_decoder if config.task.has_cache else _fit_text)(config, recipe)
    target.check(config, fitted)
    return fitted, target


def _fit_decoder(config: ModelConfig, recipe: Recipe) -> Recipe:
    fitted = _reshaped(recipe, cache_len=min(recipe.shapes.cache_len, config.max_position_embeddings))
    shapes = fitted.shapes
    if shapes.prefill_len >= shapes.cache_len:
        raise RecipeError(
            f"recipe {recipe.name}: prefill_len {shapes.prefill_len} must be below the cache_len "
            f"{shapes.cache_len} (capped at the model's context of {config.max_position_embeddings})"
        )
    return fitted


def _fit_text(config: ModelConfig, recipe: Recipe) -> Recipe:
    if config.task.pools and config.pad_token_id is None:
        raise ConfigError(
            f"config.json: {config.architecture} without pad_token_id cannot be exported: texts shorter than the "
            "graph are padded",
            hint="set pad_token_id to the id of the tokenizer's padding token",
        )
    tokens = min(recipe.shapes.prefill_len, config.max_position_embeddings)
    fitted = _reshaped(recipe, prefill_len=tokens, cache_len=tokens)
    return fitted.model_copy(update={"kv_cache": "float32"})  # there is no cache


def _reshaped(recipe: Recipe, **lengths: int) -> Recipe:
    return recipe.model_copy(update={"shapes": recipe.shapes.model_copy(update=lengths)})
