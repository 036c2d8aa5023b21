"""What a target is: it checks a recipe, says what it will write, and writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from helium_edge.bundle import Bundle, GraphEntry
from helium_edge.config import ModelConfig
from helium_edge.model.kv_cache import KvScales
from helium_edge.quant import PlannedWeight, QuantizedStore
from helium_edge.quant.activations import Arithmetic, Processor
from helium_edge.recipe import Recipe
from helium_edge.runtime.runner import CachedRunner
from helium_edge.runtime.text_runner import TextRunner
from helium_edge.signature import CacheSpec, GraphSignature, TextSignature
from helium_edge.targets.artifact import Artifact
from helium_edge.targets.debug import DebugProgram
from helium_edge.targets.summary import MethodSummary

TEXT_STEM = "classifier"
"""Name of the one file with a graph of the bundle of a classifier or encoder, without its suffix."""


@dataclass(frozen=True)
class BuiltGraph:
    """One graph that hosts run.

    Attributes:
        file: Where it is.
        method: The method within the file; None for ONNX.
        signature: Inputs and outputs.
        operators: Kernels that it calls, as the runtime spells them, sorted.
        libraries: What an app links for them beside the runtime itself, sorted.
        planned_outputs: What it returns lies in memory of the program's own.
    """

    file: str
    method: str | None
    signature: GraphSignature | TextSignature
    operators: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    planned_outputs: bool = False


class Target(Protocol):
    """One runtime's format; a new one is a package and a line in `helium_edge/registry.py`.

    Attributes:
        name: Key in a recipe's `targets`.
        runtime: The runtime that loads what it writes, as the manifest spells it.
        libraries: Packages whose versions decide the bytes written; recorded in the manifest.
        real: Type in which its files hold scales and real values.
        can_localise: Whether `debug` cuts its graphs into stages.
        timed_elsewhere: Where its speed is to be measured, as the hint of an error; empty where what runs it here
            is what runs it on a device.
        runs_on_android: Whether the Android demo runs its bundles.
    """

    name: str
    runtime: str
    libraries: tuple[str, ...]
    real: torch.dtype
    can_localise: bool
    timed_elsewhere: str
    runs_on_android: bool

    def check(self, config: ModelConfig, recipe: Recipe) -> None:
        """Refuse what this target cannot carry, before any work is done.

        Raises:
            RecipeError: The recipe asks for it.
            ConfigError: The model needs it.
        """
        ...

    def min_runtime(self, config: ModelConfig, recipe: Recipe) -> str | None:
        """The oldest version of the runtime that is known to run what it writes; None where any does."""
        ...

    def cache(self, config: ModelConfig, recipe: Recipe) -> CacheSpec:
        """The cache of the graphs it writes for a language model; other models have none."""
        ...

    def plan(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> list[tuple[str, int]]:
        """Names and estimated sizes in bytes of the files it will write."""
        ...

    def memory(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> dict[str, int]:
        """Estimated bytes on the device, by part: `weights` as kernels hold them, `cache`, `activations`."""
        ...

    def build_memory(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> int:
        """Estimated bytes that `build` holds on the host at its peak, beside one weight at a time."""
        ...

    def build(
        self,
        store: QuantizedStore,
        recipe: Recipe,
        folder: Path,
        on_weight: Callable[[str], None],
        scales: KvScales | None = None,
    ) -> list[BuiltGraph]:
        """Write the graphs and their weights into an empty folder.

        Args:
            store: The weights.
            recipe: What to write.
            folder: Where.
            on_weight: Called with the name of each matrix.
            scales: Of an int8 cache, which a language model with `kv_cache: int8` has.

        Returns:
            The graphs that follow our contract; files for other hosts may lie beside them.
        """
        ...

    def debug(self, bundle: Bundle, *, static: bool = False) -> list[DebugProgram]:
        """The graphs of a bundle of this target, cut into stages; together they serve prefill and decode.

        Args:
            bundle: The bundle.
            static: Take the graphs of static shape even where one graph serves both phases.

        Raises:
            BundleError: A file is not readable, or its graphs are not built as ours are.
            MissingDependencyError: Packages that run it are not installed.
            UsageError: Bundles of this target cannot be cut.
        """
        ...

    def arithmetic(
        self, recipe: Recipe, plan: Sequence[PlannedWeight], processor: Processor | None = None
    ) -> Arithmetic:
        """What its kernels do to activations, for parity's yardstick.

        Args:
            recipe: What was exported.
            plan: The scheme of each matrix, the embedding first.
            processor: The kind of machine that runs it; None is this one.
        """
        ...

    def check_can_run(self) -> None:
        """Refuse early, without importing anything, where what runs its bundles is not installed.

        Raises:
            MissingDependencyError: It is not.
        """
        ...

    def load_runtime(self) -> None:
        """Import what an app has linked already, so that it counts neither as time nor as memory of a bundle."""
        ...

    def open_decoder(self, bundle: Bundle, *, threads: int, static: bool) -> CachedRunner:
        """Load the graphs of a language model; see `helium_edge.targets.loading.open_runner`."""
        ...

    def open_text_runner(self, bundle: Bundle, graph: GraphEntry, *, threads: int) -> TextRunner:
        """Load the one graph of a classifier or an encoder; see `helium_edge.targets.loading.open_text_runner`."""
        ...

    def summarize(self, bundle: Bundle) -> list[MethodSummary]:
        """What its graphs are made of, for `inspect`; nothing where files say it themselves.

        Raises:
            BundleError: A file is not readable.
        """
        ...

    def read_back(self, bundle: Bundle) -> Artifact:
        """The weights of a bundle of this target, read from its files.

        Raises:
            BundleError: A file is not readable, or its graphs are not built as ours are.
            MissingDependencyError: Packages that read it are not installed.
        """
        ...


def layer_width(config: ModelConfig) -> int:
    """Numbers of a token that are in memory at once in a layer.

    The input and output of a norm, beside q, k, v and the result of attention, or gate, up and their product.
    """
    attention, mlp = 2 * config.hidden_size + 2 * config.kv_size, 3 * config.intermediate_size
    return 2 * config.hidden_size + max(attention, mlp)


@runtime_checkable
class RowsTarget(Protocol):
    """A target whose shipped graphs can be asked for every row of a prefill."""

    def open_rows(self, bundle: Bundle, *, threads: int) -> CachedRunner:
        """Load the graphs of a language model; see `helium_edge.targets.loading.open_scoring_runner`."""
        ...
