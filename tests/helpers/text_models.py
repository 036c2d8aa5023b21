"""Checkpoints of classifiers and encoders, their exports without a bundle, and the reference to compare with."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.model.text_model import TextModel
from helium_edge.parity.emulation import EmulatedParts, Ledger
from helium_edge.quant import QuantizedStore
from helium_edge.recipe import Recipe, load_recipe
from helium_edge.runtime.quiet import quiet
from helium_edge.runtime.text_runner import Array, TextRunner
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.runtime.torch_text import TorchTextRunner
from helium_edge.signature import TextSignature
from helium_edge.targets import load_target
from helium_edge.targets.base import BuiltGraph
from helium_edge.texts import LANGUAGES, evaluation_text
from tests.helpers.checkpoints import make_checkpoint, write_weights

TOKENS, PAD = 12, 3
TEXT_CLASSES = ("Model", "ForSequenceClassification", "ForTokenClassification")
LABELS = {"id2label": {"0": "calm", "1": "warm", "2": "hot"}}


def make_text_model(folder: Path, architecture: str, **changes: Any) -> Path:
    """Write a random checkpoint of a class such as `LlamaForTokenClassification`, with three labels if any."""
    family = "llama" if architecture.startswith("Llama") else "helium"
    labels = LABELS if architecture.endswith("Classification") else {}
    return make_checkpoint(folder, architectures=[architecture], model_type=family, **(labels | changes))


def text_recipe(name: str, **changes: Any) -> Recipe:
    """A shipped recipe for texts of `TOKENS` tokens; `options` replaces those of its target."""
    data = load_recipe(name).model_dump(mode="json")
    # What is tested is graphs: integers that need no text, unless a test asks for others.
    data["quantization"]["method"] = changes.pop("method", "mse")
    data["shapes"] = {"prefill_len": TOKENS, "cache_len": TOKENS + 1}
    (target,) = load_recipe(name).targets.names()
    data["targets"][target] |= changes.pop("options", {})
    return Recipe.model_validate_json(json.dumps(data | changes))


@dataclass
class TextExport:
    """A graph in a folder, and the store that it came from."""

    folder: Path
    checkpoint: Checkpoint
    recipe: Recipe
    store: QuantizedStore
    graph: BuiltGraph
    planned_bytes: dict[str, int]

    @property
    def signature(self) -> TextSignature:
        """Of the graph."""
        assert isinstance(self.graph.signature, TextSignature)
        return self.graph.signature

    def runner(self) -> TextRunner:
        """The graph on its runtime."""
        if self.graph.file.endswith(".onnx"):
            from helium_edge.runtime.onnx_text import OnnxTextRunner

            return OnnxTextRunner(self.folder, self.graph.file, self.signature, threads=1)
        if "coreml" in self.recipe.targets.names():
            from helium_edge.runtime.coreml_text import CoremlTextRunner

            return CoremlTextRunner(self.folder / self.graph.file, str(self.graph.method), self.signature)
        from helium_edge.runtime.executorch_text import ExecutorchTextRunner

        return ExecutorchTextRunner(self.folder / self.graph.file, str(self.graph.method), self.signature)

    def torch_text(self, *, emulated: bool = False) -> TorchTextRunner:
        """Our torch model with the same dequantized weights, or also with activations rounded as kernels do."""
        parts = None
        if emulated:
            (target,) = self.recipe.targets.names()
            arithmetic = load_target(target).arithmetic(self.recipe, self.store.plan)
            assert arithmetic.rounds
            parts = EmulatedParts(self.store, arithmetic, Ledger())
        return TorchTextRunner(TextModel(self.checkpoint.config, self.store, parts), TOKENS)


def export_text_model(source: Path | str, recipe: Recipe, folder: Path) -> TextExport:
    """Quantize and build into `folder`."""
    checkpoint = open_checkpoint(str(source))
    folder.mkdir(parents=True)
    store = QuantizedStore(checkpoint, recipe.quantization, folder.with_name(folder.name + ".store"))
    (name,) = recipe.targets.names()
    target = load_target(name)
    target.check(checkpoint.config, recipe)
    planned = dict(target.plan(checkpoint.config, recipe, store.plan))
    (graph,) = target.build(store, recipe, folder, lambda _: None)
    return TextExport(folder, checkpoint, recipe, store, graph, planned)


def reference_outputs(folder: Path) -> dict[str, Array]:
    """What transformers returns for each of `id_rows`, without its batch: from ids alone, as they are."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_class = getattr(transformers, config["architectures"][0])
    model = model_class.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    found = {}
    for where, ids in id_rows().items():
        with torch.inference_mode():
            output = model(torch.tensor([ids]))
        found[where] = (output.last_hidden_state if "last_hidden_state" in output else output.logits)[0].numpy()
    return found


def id_rows() -> dict[str, list[int]]:
    """Texts of `TOKENS` ids, by where their padding is."""
    rng = np.random.default_rng(5)
    text = [1, *rng.integers(4, 160, TOKENS - 1).tolist()]
    return {
        "full": text,
        "right": [*text[:7], *[PAD] * (TOKENS - 7)],
        "left": [*[PAD] * 4, *text[: TOKENS - 4]],
        "inside": [*text[:3], PAD, PAD, *text[3:8], *[PAD] * (TOKENS - 10)],
        "first alone": [text[1], *[PAD] * (TOKENS - 1)],
        "all": [PAD] * TOKENS,
    }


def largest_error(found: Array, expected: Array) -> float:
    """max |difference| over rms(expected)."""
    assert found.shape == expected.shape
    rms = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    return float(np.abs(found.astype(np.float64) - expected).max()) / rms


def tiny_text_model(folder: Path, architecture: str) -> Path:
    """Turn helium-tiny into a classifier of the language that a text, or each of its tokens, is in.

    The layers stay as they were trained; the classifier is a ridge regression on their hidden states over the
    first half of each of the built-in texts, in seconds.
    """
    origin = Path(str(importlib.resources.files("helium_edge.data"))) / "helium-tiny"
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((origin / name).read_bytes())
    config = json.loads((origin / "config.json").read_text(encoding="utf-8")) | {"architectures": [architecture]}
    weights = {
        name: weight
        for name, weight in load_file(origin / "model.safetensors").items()
        if name != "lm_head.weight"
    }
    if architecture.endswith("Model"):
        weights = {name.removeprefix("model."): weight for name, weight in weights.items()}
    else:
        config["id2label"] = {str(index): language for index, language in enumerate(LANGUAGES)}
        score, bias = _fit_languages(origin, has_bias=architecture.endswith("TokenClassification"))
        weights["score.weight"] = score
        if architecture.endswith("TokenClassification"):
            weights["score.bias"] = bias
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_weights(folder, weights)
    return folder


def _fit_languages(origin: Path, *, has_bias: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (L, C) and bias (L,) of the classifier."""
    with quiet():  # of a head that it does not need
        model = transformers.HeliumModel.from_pretrained(origin, dtype=torch.float32, local_files_only=True).eval()
    tokenizer = Tokenizer(origin / "tokenizer.json")
    rows, targets = [], []
    for index, language in enumerate(LANGUAGES):
        ids = tokenizer.encode(evaluation_text(language))
        ids = ids[: len(ids) // 2]
        texts = [[1, *ids[start : start + 15]] for start in range(1, len(ids) - 15, 4)]
        with torch.inference_mode():
            hidden = model(torch.tensor(texts)).last_hidden_state
        # Causal, so each position is the end of a text of its own.
        rows.append(hidden[:, 4:].flatten(0, 1))
        targets += [index] * len(rows[-1])
    x = torch.cat(rows).double()
    y = torch.nn.functional.one_hot(torch.tensor(targets), len(LANGUAGES)).double() * 2 - 1
    if has_bias:
        x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    ridge = torch.eye(x.shape[1], dtype=x.dtype) * 0.03 * float((x * x).mean()) * len(x)
    solution = torch.linalg.solve(x.T @ x + ridge, x.T @ y).T.float()
    width = model.config.hidden_size
    return solution[:, :width].contiguous(), solution[:, -1].contiguous()
