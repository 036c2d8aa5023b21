"""Generated documents: read, or refused by one line; and the safetensors library as a second opinion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from helium_edge.bundle.manifest import Manifest, parse_manifest
from helium_edge.checkpoint import open_checkpoint
from helium_edge.checkpoint.header import read_header
from helium_edge.config import ModelConfig
from helium_edge.errors import BundleError, CheckpointError, ConfigError, HeliumEdgeError, InputError, RecipeError
from helium_edge.recipe import Recipe, load_recipe, parse_recipe, recipe_text
from helium_edge.runtime.tokenizer import Tokenizer
from tests.helpers.checkpoints import make_checkpoint, random_weights, tiny_config
from tests.hostile.case import INDEX, SHARDS
from tests.hostile.strategies import configs, edits, indices, safetensors_files
from tests.unit.bundle.test_manifest import WHOLE

T = TypeVar("T")
REGRESSIONS = sorted((Path(__file__).parent / "regressions").iterdir())
SMALL = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def generated(strategy: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`given` and settings: the same examples at each run, as many as `--hostile-examples` says."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        def run(pytestconfig: pytest.Config, tmp_path: Path) -> None:
            count = pytestconfig.getoption("--hostile-examples")

            @settings(max_examples=count, derandomize=True, database=None, suppress_health_check=SMALL)
            @given(strategy)
            def each(value: Any) -> None:
                check(value, tmp_path)

            each()

        run.__name__, run.__doc__ = check.__name__, check.__doc__
        return run

    return decorate


def outcome(read: Callable[[], T], kind: type[HeliumEdgeError]) -> T | None:
    """What was read, or None after a refusal of the right kind in one readable line; all else is a bug."""
    try:
        return read()
    except kind as error:
        text = str(error)
        assert text.isprintable()
        assert len(text) < 1200
        return None


@generated(configs())
def test_configs(data: dict[str, Any], folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(data), encoding="utf-8", errors="surrogatepass")
    config = outcome(lambda: ModelConfig.from_file(path), ConfigError)
    if config is not None:
        assert config.num_parameters > 0
        assert all(0 <= token < config.vocab_size for token in config.eos_token_ids)
        assert config.num_attention_heads * config.head_dim == config.hidden_size


@generated(safetensors_files())
def test_headers_against_the_library(data: bytes, folder: Path) -> None:
    """We read no file that it refuses, see what it sees, and refuse a sound one only for a key given twice."""
    path = folder / "x.safetensors"
    path.write_bytes(data)
    found = outcome(lambda: read_header(path), CheckpointError)
    try:
        with safe_open(path, framework="pt") as file:
            theirs = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError):
        assert found is None
        return
    if found is None:
        with pytest.raises(CheckpointError, match="stands twice"):
            read_header(path)
    else:
        assert {name: info.shape for name, info in found.items()} == theirs


NAMES = sorted(random_weights(tiny_config()))


@generated(indices(NAMES, list(SHARDS)))
def test_indices(data: Any, folder: Path) -> None:
    model = folder / "model"
    if not model.exists():
        make_checkpoint(model, shards=2, tokenizer=False)
    (model / INDEX).write_text(json.dumps(data), encoding="utf-8", errors="surrogatepass")
    checkpoint = outcome(lambda: open_checkpoint(str(model)), CheckpointError)
    if checkpoint is not None:
        assert set(checkpoint.weight_files) <= {INDEX, *SHARDS}


@generated(edits(json.loads(WHOLE.to_json())))
def test_manifests(data: Any, folder: Path) -> None:
    text = json.dumps(data).encode("utf-8", "surrogatepass")
    manifest = outcome(lambda: parse_manifest(text), BundleError)
    if manifest is not None:
        assert isinstance(manifest, Manifest)
        assert parse_manifest(manifest.to_json().encode()) == manifest


RECIPES = [yaml.safe_load(recipe_text(name)) for name in ("onnx-int4", "xnnpack-int8", "coreml-int4")]


@generated(st.one_of([edits(recipe) for recipe in RECIPES]))
def test_recipes(data: Any, folder: Path) -> None:
    text = yaml.safe_dump(data, allow_unicode=True)
    recipe = outcome(lambda: parse_recipe(text, where="mine.yaml"), RecipeError)
    if recipe is not None:
        assert Recipe.model_validate_json(recipe.canonical_json()) == recipe


READERS: dict[str, tuple[Callable[[Path], Any], type[HeliumEdgeError]]] = {
    "config": (ModelConfig.from_file, ConfigError),
    "header": (read_header, CheckpointError),
    "manifest": (lambda path: parse_manifest(path.read_bytes()), BundleError),
    "recipe": (lambda path: load_recipe(str(path)), RecipeError),
    "tokenizer": (lambda path: Tokenizer(path).encode("a" * 60 + "b"), InputError),
}


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.name)
def test_what_was_once_a_crash_or_a_hang(path: Path) -> None:
    """Files that a version once crashed on, took for ever over, or accepted; all are refused."""
    read, kind = READERS[path.name.split("-")[0]]
    assert outcome(lambda: read(path), kind) is None
