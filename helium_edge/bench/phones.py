"""How fast a bundle should be on a phone that nobody measured: a prediction, made of counts and two throughputs.

What operators of our bundles execute on ARM64 is counted on an emulated processor
(`benchmarks/arm64_instructions.py`) and kept in a table: instructions and bytes from memory for one more weight,
token of the cache, and call. A bundle is the sum of its operators; a phone is so many instructions and bytes a
second. What takes longer is taken to hide the other: time = max(instructions / rate, bytes / bandwidth).
docs/bench.md says how far that is to be trusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from helium_edge.bundle import Bundle
from helium_edge.config import ModelConfig
from helium_edge.errors import HeliumEdgeError, UsageError, did_you_mean
from helium_edge.quant import PlannedWeight, plan_weights
from helium_edge.recipe import Recipe
from helium_edge.targets import load_target
from helium_edge.targets.onnx.options import OnnxOptions
from helium_edge.targets.xnnpack.options import Options as XnnpackOptions

COSTS = Path(__file__).parent / "arm64_costs.json"
"""The table; benchmarks/arm64_instructions.py writes it."""

CONTEXTS = (0, 512, 2048)
CHUNK = 128
"""Tokens of the prefill that is predicted."""
_COUNTED_AT = 512
_NORM_WIDTH, _ACTIVATION_WIDTH = 2560, 7040
"""Widths at which norms and activations were counted."""

RUNTIMES = {"onnx": "onnx", "xnnpack": "pte"}
"""Names in the table, by target."""


@dataclass(frozen=True)
class Phone:
    """A phone, as two throughputs of four threads.

    Attributes:
        title: For people.
        cpu: Whose counts are taken: `cortex-a76` (dot product) or `i8mm`.
        instructions: A second.
        bandwidth: Bytes a second.
    """

    title: str
    cpu: str
    instructions: float
    bandwidth: float


PHONES = {
    "snapdragon-8-gen-3": Phone("Snapdragon 8 Gen 3, 4 threads", "i8mm", 24e9, 40e9),
    "pixel-8": Phone("Pixel 8 (Tensor G3), 4 threads", "i8mm", 17e9, 28e9),
    "cortex-a78": Phone("two Cortex-A78 of 2.4 GHz, LPDDR4X", "cortex-a76", 11e9, 11e9),
}
"""The first is set by what ExecuTorch publishes for Llama 3.2 on a OnePlus 12 (docs/bench.md); the others are
scaled from it by clock, width and memory, and are guesses."""


@dataclass(frozen=True)
class Step:
    """One token, decoded or as a share of a prefill of 128.

    Attributes:
        context: Tokens before it; None is prefill.
        instructions: Executed.
        bytes: From memory.
    """

    context: int | None
    instructions: float
    bytes: float

    def seconds(self, phone: Phone) -> float:
        """What it should take."""
        return max(self.instructions / phone.instructions, self.bytes / phone.bandwidth)

    def bound(self, phone: Phone) -> Literal["instructions", "memory"]:
        """What it waits for."""
        memory = self.bytes / phone.bandwidth > self.instructions / phone.instructions
        return "memory" if memory else "instructions"


@dataclass(frozen=True)
class Prediction:
    """A bundle on a phone: predicted, not measured.

    Attributes:
        phone: Which.
        runtime: Name and version whose operators were counted.
        steps: Decode at each context, then prefill.
        memory: Bytes when it runs, the cache full.
    """

    phone: Phone
    runtime: str
    steps: tuple[Step, ...]
    memory: int

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        steps = [
            {
                "phase": "prefill" if step.context is None else "decode",
                "context": step.context or 0,
                "instructions": round(step.instructions),
                "bytes": round(step.bytes),
                "tokens_per_second": round(1 / step.seconds(self.phone), 2),
                "bound": step.bound(self.phone),
            }
            for step in self.steps
        ]
        return {
            "predicted": True,
            "phone": asdict(self.phone),
            "runtime": self.runtime,
            "memory_bytes": self.memory,
            "steps": steps,
        }


def find_phone(name: str) -> Phone:
    """A phone by its name.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in PHONES:
        raise UsageError(f"no phone named {name!r}: {', '.join(PHONES)}", hint=did_you_mean(name, PHONES))
    return PHONES[name]


def predict(config: ModelConfig, recipe: Recipe, target: str, phone: Phone) -> Prediction:
    """Predict how fast an export of a model would be.

    Args:
        config: The model.
        recipe: What it is exported by.
        target: For which of its targets.
        phone: Where it runs.

    Raises:
        UsageError: It is no language model, or has operators that were not counted.
    """
    if target not in RUNTIMES or not config.task.has_cache:
        what = f"the target {target}" if target not in RUNTIMES else config.task.words
        raise UsageError(f"--phone-model: {what} was not counted; language models of onnx and xnnpack were")
    table = json.loads(COSTS.read_text(encoding="utf-8"))
    runtime = RUNTIMES[target]
    model = _Model(config, recipe, target, table["costs"][runtime].get(phone.cpu, {}))
    most = recipe.shapes.cache_len - 1
    contexts = dict.fromkeys(min(context, most) for context in CONTEXTS)
    steps = (*(model.decode(context) for context in contexts), model.prefill())
    memory = load_target(target).memory(config, recipe, model.plan)
    return Prediction(phone, table["runtimes"][runtime], steps, sum(memory.values()))


class _Model:
    """A bundle as the sum of its operators."""

    def __init__(
        self, config: ModelConfig, recipe: Recipe, target: str, costs: Mapping[str, Mapping[str, float]]
    ) -> None:
        self.plan = plan_weights(config, recipe.quantization)
        self._config, self._recipe, self._target, self._costs = config, recipe, target, costs
        self._products = [(weight, self._cost(self._scheme(weight))) for weight in self.plan[1:]]
        self._attention = self._cost(f"attention {recipe.kv_cache}")

    def decode(self, context: int) -> Step:
        """One token after `context` others."""
        config = self._config
        instructions = read = 0.0
        for weight, cost in self._products:
            count = weight.shape[0] * weight.shape[1]
            instructions += count * cost["decode"]
            read += count * cost["bytes"]
        products = [cost["call"] for weight, cost in self._products if not _shares_a_call(weight)]
        rows = config.num_attention_heads * self._seen(context)
        layers = config.num_hidden_layers
        instructions += sum(products) + layers * (self._attention["call"] + rows * self._attention["decode"])
        read += layers * config.num_key_value_heads * self._seen(context) * self._attention["bytes"]
        return Step(context, instructions + self._others("decode"), read)

    def prefill(self) -> Step:
        """One of 128 tokens into an empty cache; the head answers the last of them."""
        config, layers = self._config, self._config.num_hidden_layers
        instructions = read = 0.0
        for weight, cost in self._products:
            count = weight.shape[0] * weight.shape[1]
            each = cost["decode"] / CHUNK if weight is self.plan[-1] else cost["prefill"]
            instructions += count * each
            read += count * cost["bytes"] / CHUNK
        chunk = self._attention.get("chunk at 0")
        if chunk is None:  # a static attention takes all slots of its method
            chunk = self._attention["chunk at 512"] * self._slots_of_prefill() / _COUNTED_AT
        instructions += layers * config.num_attention_heads * chunk / CHUNK
        return Step(None, instructions + self._others("prefill"), read)

    def _others(self, phase: str) -> float:
        """Norms and activations; of ExecuTorch they were not counted and are left out."""
        config = self._config
        norm, activation = (self._costs.get(name, {}).get(phase, 0.0) for name in ("norm", "activation"))
        norms = (2 * config.num_hidden_layers + 1) * norm * config.hidden_size / _NORM_WIDTH
        return norms + config.num_hidden_layers * activation * config.intermediate_size / _ACTIVATION_WIDTH

    def _seen(self, context: int) -> int:
        """Tokens of the cache that attention takes: those that are there, or every slot of the shortest method."""
        if self._target == "onnx":
            return context
        options: XnnpackOptions = self._recipe.targets.options("xnnpack", XnnpackOptions)
        longest = self._recipe.shapes.cache_len
        lengths = (length for length in sorted(options.cache_buckets) if context < length < longest)
        return next(lengths, longest)

    def _slots_of_prefill(self) -> int:
        """Slots of the shortest method for a chunk into an empty cache."""
        options: XnnpackOptions = self._recipe.targets.options("xnnpack", XnnpackOptions)
        shapes = self._recipe.shapes
        room = max(CHUNK, shapes.prefill_len)
        lengths = (slots for slots in options.prefill_cache_buckets if room <= slots < shapes.cache_len)
        return min(lengths, default=shapes.cache_len)

    def _scheme(self, weight: PlannedWeight) -> str:
        scheme = weight.scheme
        if scheme is not None and scheme.bits == 8 and self._target == "onnx":
            options: OnnxOptions = self._recipe.targets.options("onnx", OnnxOptions)
            return f"product int8-b{options.int8_block(weight.shape[1])}"
        return f"product {scheme or 'float32'}"

    def _cost(self, operator: str) -> Mapping[str, float]:
        found = self._costs.get(operator)
        if found is None:
            raise UsageError(f"--phone-model: {self._recipe.name}: the {operator} was not counted")
        return found


def _shares_a_call(weight: PlannedWeight) -> bool:
    """Keys and values come out of one product with the queries."""
    return weight.name.endswith(("k_proj.weight", "v_proj.weight"))


def predict_bundle(bundle: Bundle, phone: Phone) -> Prediction:
    """The same of a bundle; raises as `predict` does."""
    return predict(*_model_of(bundle), phone)


def bundle_predictions(bundle: Bundle) -> Sequence[Prediction]:
    """A bundle on every phone; none where something was not counted, or where its files do not say what it is."""
    try:
        return predictions(*_model_of(bundle))
    except (HeliumEdgeError, OSError):
        return []


def _model_of(bundle: Bundle) -> tuple[ModelConfig, Recipe, str]:
    manifest = bundle.manifest
    config, recipe = ModelConfig.from_file(bundle.path("config.json")), manifest.quantization.to_recipe()
    return config, recipe.override(cache_len=manifest.cache_len), manifest.target.name


def predictions(config: ModelConfig, recipe: Recipe, target: str) -> Sequence[Prediction]:
    """On every phone; none where something was not counted."""
    try:
        return [predict(config, recipe, target, phone) for phone in PHONES.values()]
    except UsageError:
        return []
