"""The walk of a calibration: layer by layer through two models side by side, the original and the quantized one.

Every matrix is quantized when its inputs are known as the already quantized ones before it make them (true
sequential), against what the original would have given. One layer's weights are in memory, and the hidden states
of the texts. Nothing here knows of files: weights come from `Originals`, results go to `Results`, and what
`Results` has from an earlier run is taken as it is, so that an interrupted walk goes on with the same numbers.

Shapes: T tokens of all texts, N output channels, K input channels, C hidden_size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from helium_edge.config import ModelConfig
from helium_edge.model.decoder import ACTIVATIONS, DecoderLayer
from helium_edge.model.parts import DenseParts, RmsNorm, WeightSource
from helium_edge.model.weights import EMBEDDING, FINAL_NORM, head_name
from helium_edge.progress import SILENT, Progress
from helium_edge.quant.affine import QuantizedWeight, dequantize
from helium_edge.quant.calibrated.folds import Folds, choose_factors
from helium_edge.quant.calibrated.inputs import INPUTS, InputName, head_weight, readers
from helium_edge.quant.calibrated.method import Calibrated
from helium_edge.quant.calibrated.statistics import InputStatistics, collect, mean_squares
from helium_edge.quant.calibrated.streams import WRITE_BACK, Stream, Texts, projection
from helium_edge.quant.methods import METHODS
from helium_edge.quant.plan import PlannedWeight
from helium_edge.recipe import Scheme

DATA_FREE = METHODS["mse"]
"""For the embedding: what it reads are single tokens, which have no second moment worth the name."""

HEAD_INPUT = "head"


@dataclass(frozen=True)
class WalkOptions:
    """How to calibrate.

    Attributes:
        damping: See `Calibrated`.
        rounds: See `Calibrated`.
        folds: Whether to move large channels into the weights first.
        corrected: Whether targets make up for what inputs have lost; only comparisons leave that out.
    """

    damping: float
    rounds: int
    folds: bool
    corrected: bool = True


class Originals(Protocol):
    """The weights of the checkpoint."""

    def read(self, name: str) -> Tensor:
        """A tensor, (N, K) or (N,), in its stored type; q and k rows laid out for half-split RoPE."""
        ...


class Results(Protocol):
    """Where what was found goes, and what an earlier run found under the same circumstances comes from.

    Asked for in the order of the forward pass: what was asked before is among the circumstances.
    """

    def factors(self, layer: int | None) -> Mapping[str, Tensor] | None:
        """Factors of the inputs of a layer, or of the head's where it is None; None where they are to be found."""
        ...

    def put_factors(self, layer: int | None, factors: Mapping[str, Tensor]) -> None:
        """Keep factors, each (K,)."""
        ...

    def weights(self, names: Sequence[str]) -> list[QuantizedWeight] | None:
        """Weights that are quantized together; None where any of them is to be found."""
        ...

    def put_weights(
        self, names: Sequence[str], originals: Sequence[Tensor], found: Sequence[QuantizedWeight]
    ) -> None:
        """Keep weights; `originals` are what they stand for, (N, K) float32."""
        ...


class Walk:
    """One calibration.

    Args:
        config: The model.
        plan: Format and shape of every matrix.
        originals: Its weights.
        texts: Token ids, each a conversation that starts as one does.
        options: How to calibrate.
        results: Where what is found goes.

    Attributes:
        folds: The factors that have been chosen.
    """

    def __init__(
        self,
        config: ModelConfig,
        plan: Sequence[PlannedWeight],
        originals: Originals,
        texts: Sequence[Sequence[int]],
        options: WalkOptions,
        results: Results,
    ) -> None:
        self.folds = Folds(config)
        self._config = config
        self._schemes = {planned.name: planned.scheme for planned in plan}
        self._rows = {planned.name: planned.shape[0] for planned in plan}
        self._originals = originals
        self._options = options
        self._method = Calibrated(options.damping, options.rounds)
        self._results = results
        self._texts = Texts(config, texts)

    def run(self, progress: Progress = SILENT) -> None:
        """Walk through the whole model, advancing `progress` by each layer, and once more for the head.

        Raises:
            HeliumEdgeError: Whatever `Originals` and `Results` raise.
        """
        with torch.inference_mode():
            reference, quantized = self._embed()
            for index in range(self._config.num_hidden_layers):
                self._layer(index, reference, quantized)
                progress.advance(note=f"layer {index}")
            self._head(reference, quantized)
            progress.advance(note="head")

    def recall(self) -> bool:
        """Take everything from an earlier run, without running a text; False where anything of it is missing.

        Raises:
            HeliumEdgeError: Whatever `Originals` and `Results` raise.
        """
        head = head_name(self._config)
        if not self._recall_group([EMBEDDING]):
            return False
        for index in range(self._config.num_hidden_layers):
            if self._options.folds:
                factors = self._results.factors(index)
                if factors is None:
                    return False
                self.folds.add_layer(index, factors)
            if not all(self._recall_group(readers(index, name)) for name in INPUTS):
                return False
        if head is None or self._schemes[head] is None:
            return True
        if self._folds_head:
            factors = self._results.factors(None)
            if factors is None:
                return False
            self.folds.add_head(factors[HEAD_INPUT])
        return self._recall_group([head])

    def _recall_group(self, names: Sequence[str]) -> bool:
        return all(self._results.weights(group) is not None for _, group in self._groups(names))

    def _groups(self, names: Sequence[str]) -> Iterator[tuple[Scheme, list[str]]]:
        """Matrices that read one input, by their format: rows are independent of each other, so these are one."""
        for scheme in dict.fromkeys(self._schemes[name] for name in names):
            if scheme is not None:
                yield scheme, [name for name in names if self._schemes[name] == scheme]

    @property
    def _folds_head(self) -> bool:
        return self._options.folds and head_weight(self._config) is not None

    def _embed(self) -> tuple[Stream, Stream]:
        ids = self._texts.ids
        original = self._originals.read(EMBEDDING)
        rows = original[ids].to(torch.float32)
        scheme = self._schemes[EMBEDDING]
        if scheme is None:
            return Stream(self._texts, rows), Stream(self._texts, rows)
        found = self._data_free(EMBEDDING, original, scheme)
        zeros = None if found.zero_points is None else found.zero_points[ids]
        coded = dequantize(QuantizedWeight(scheme, found.codes[ids], found.scales[ids], zeros))
        return Stream(self._texts, rows), Stream(self._texts, coded)

    def _data_free(self, name: str, original: Tensor, scheme: Scheme) -> QuantizedWeight:
        known = self._results.weights([name])
        if known is not None:
            return known[0]
        found = DATA_FREE(original, scheme)
        self._results.put_weights([name], [original], [found])
        return found

    def _layer(self, index: int, reference: Stream, quantized: Stream) -> None:
        expected = self._capture(index, reference)
        self._fold_layer(index, expected)
        layer = self._module(index, _Source(self._originals, self.folds))
        inputs: Tensor | None = None
        for name in INPUTS:
            inputs = quantized.input_of(layer, name, inputs)
            module = projection(layer, name)
            module.weight = self._quantize(readers(index, name), module.weight, inputs, [expected.pop(name)])
            if name in WRITE_BACK:
                quantized.add(module, inputs)

    def _capture(self, index: int, reference: Stream) -> dict[InputName, Tensor]:
        """Take the original through a layer, and return what its matrices read."""
        layer = self._module(index, _Source(self._originals))
        seen: dict[InputName, Tensor] = {}
        inputs: Tensor | None = None
        for name in INPUTS:
            inputs = seen[name] = reference.input_of(layer, name, inputs)
            if name in WRITE_BACK:
                reference.add(projection(layer, name), inputs)
        return seen

    def _module(self, index: int, source: WeightSource) -> DecoderLayer:
        config = self._config
        return DecoderLayer(config, DenseParts(config, source), index, ACTIVATIONS[config.hidden_act])

    def _fold_layer(self, index: int, expected: dict[InputName, Tensor]) -> None:
        """Choose the factors of a layer, and bring the original's inputs to them."""
        if not self._options.folds:
            return
        factors = self._results.factors(index)
        if factors is None:
            config = self._config
            shared = (config.num_key_value_heads, config.head_dim)
            factors = {
                name: choose_factors(
                    mean_squares(expected[name]),
                    [self._reader(weight) for weight in readers(index, name)],
                    shared=shared if name == "mixed" else None,
                )
                for name in INPUTS
            }
            self._results.put_factors(index, factors)
        self.folds.add_layer(index, factors)
        for name in INPUTS:
            expected[name] = expected[name] / factors[name]

    def _reader(self, name: str) -> tuple[Tensor, Scheme | None]:
        return self._originals.read(name).to(torch.float32), self._schemes[name]

    def _head(self, reference: Stream, quantized: Stream) -> None:
        name = head_name(self._config)
        scheme = None if name is None else self._schemes[name]
        if name is None or scheme is None:
            return
        if head_weight(self._config) is None and scheme == self._schemes[EMBEDDING]:
            # Tied, and stored once: the integers of the embedding.
            self._data_free(name, self._originals.read(name), scheme)
            return
        expected = [reference.normed(self._final_norm())]
        if self._folds_head:
            factors = self._results.factors(None)
            if factors is None:
                factors = {HEAD_INPUT: choose_factors(mean_squares(expected[0]), [self._reader(name)])}
                self._results.put_factors(None, factors)
            self.folds.add_head(factors[HEAD_INPUT])
            expected = [expected.pop() / factors[HEAD_INPUT]]
        weight = self.folds.apply(name, self._originals.read(name))
        self._quantize([name], weight, quantized.normed(self._final_norm()), expected)

    def _final_norm(self) -> RmsNorm:
        gain = self.folds.apply(FINAL_NORM, self._originals.read(FINAL_NORM))
        return RmsNorm(gain, self._config.rms_norm_eps)

    def _quantize(self, names: Sequence[str], stacked: Tensor, inputs: Tensor, expected: list[Tensor]) -> Tensor:
        """Quantize the matrices that read one input.

        Args:
            names: Of the matrices.
            stacked: They themselves, (N1 + N2 + ..., K).
            inputs: What they read in the quantized model, (T, K).
            expected: What they read in the original one, (T, K), in a list of one: it is taken out, so that its
                memory is free while they are quantized.

        Returns:
            What the export computes with, in place of `stacked`.
        """
        parts, begin = {}, 0
        for name in names:
            end = begin + self._rows[name]
            parts[name], begin = stacked[begin:end], end
        statistics: InputStatistics | None = None
        original: Tensor | None = expected.pop()
        for scheme, group in self._groups(names):
            found = self._results.weights(group)
            if found is None:
                if statistics is None:
                    statistics = collect(inputs, original if self._options.corrected else None)
                    original = None  # its memory is the method's now
                originals = [parts[name] for name in group]
                found = self._method(originals, statistics, scheme)
                self._results.put_weights(group, originals, found)
            parts.update({name: dequantize(weight) for name, weight in zip(group, found, strict=True)})
        return torch.cat(list(parts.values())) if len(parts) > 1 else parts[names[0]]


class _Source(WeightSource):
    """Float weights for the decoder, with the factors that have been chosen."""

    def __init__(self, originals: Originals, folds: Folds | None = None) -> None:
        self._originals = originals
        self._folds = folds

    def dense(self, name: str) -> Tensor:
        """(N, K) float32."""
        return self._tensor(name)

    def vector(self, name: str) -> Tensor:
        """(N,) float32."""
        return self._tensor(name)

    def _tensor(self, name: str) -> Tensor:
        tensor = self._originals.read(name)
        return tensor.to(torch.float32) if self._folds is None else self._folds.apply(name, tensor)
