"""What each group of matrices costs the model under each scheme, every other matrix left as it is.

One walk through the layers: the original, and beside it one stream of hidden states for each group that has been
passed, in which that group alone is quantized by its coarsest scheme. At the end the logits of every stream are
held against the original's. A second scheme of a group costs no stream: for errors this small the divergence grows
as their square, so that the error of its outputs, against that of the coarsest, tells the rest.

Groups are rounded by GPTQ under the statistics of the text to calibrate on, and judged on other text. Rankings by
rounding to nearest do not survive calibration.

Shapes: T tokens of a text, N output channels, K input channels, C hidden_size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from helium_edge.config import ModelConfig
from helium_edge.mixed_precision.groups import EMBEDDING_GROUP, HEAD_GROUP, Group, groups_of
from helium_edge.model.decoder import ACTIVATIONS, DecoderLayer
from helium_edge.model.parts import DenseParts, Linear, RmsNorm, WeightSource
from helium_edge.model.weights import EMBEDDING, FINAL_NORM, head_name
from helium_edge.progress import SILENT, Progress
from helium_edge.quant.affine import dequantize
from helium_edge.quant.calibrated.inputs import INPUTS
from helium_edge.quant.calibrated.method import Calibrated
from helium_edge.quant.calibrated.statistics import InputStatistics, collect
from helium_edge.quant.calibrated.streams import WRITE_BACK, Stream, Texts, projection
from helium_edge.quant.calibrated.walk import DATA_FREE, Originals
from helium_edge.quant.parallel import pieces_alone
from helium_edge.recipe import Scheme

Losses = Mapping[Group, Mapping[Scheme, float]]
"""Share in the mean KLD from the original, in nats a token, of each group under each of its schemes."""

_ROWS = 64
"""Tokens whose logits are compared at a time."""

_CORRECTED = 0.63
"""What is left of the sum once all groups are calibrated together, and later ones make up for what earlier ones
lost: 0.58 to 0.73 in eight recipes of helium-tiny between 4.6 and 5.9 MB."""

_ROUNDS = 0
"""Of refit and descent: they lower all losses alike, and the walk is long enough."""


@dataclass(frozen=True)
class TwoTexts:
    """Token ids, each a conversation that starts as one does.

    Attributes:
        calibration: To calibrate on.
        judged: To measure on.
    """

    calibration: Sequence[Sequence[int]]
    judged: Sequence[Sequence[int]]


class LossWalk:
    """One measurement.

    Args:
        config: The model, which has logits.
        originals: Its weights.
        candidates: Schemes of each group, in any order.
        texts: To calibrate and to measure on.
        damping: See `Calibrated`.
    """

    def __init__(
        self,
        config: ModelConfig,
        originals: Originals,
        candidates: Mapping[Group, Sequence[Scheme]],
        texts: TwoTexts,
        damping: float,
    ) -> None:
        self._config = config
        self._originals = originals
        self._candidates = candidates
        self._method = Calibrated(damping, _ROUNDS)
        self._calibration = Texts(config, texts.calibration)
        self._judged = Texts(config, texts.judged)
        self._errors: dict[Group, dict[Scheme, float]] = {}
        self._changed: dict[Group, Stream] = {}

    def run(self, progress: Progress = SILENT) -> Losses:
        """Walk through the model, advancing `progress` by each layer, and once more for the head.

        Raises:
            HeliumEdgeError: Whatever `Originals` raises.
        """
        with torch.inference_mode(), pieces_alone():
            first, *rest = groups_of(self._config)
            assert first.kind == EMBEDDING_GROUP
            calibration, judged = self._embed(first)
            for layer in range(self._config.num_hidden_layers):
                self._layer([group for group in rest if group.layer == layer], calibration, judged)
                progress.advance(note=f"layer {layer}")
            losses = self._judge(rest[-1] if rest[-1].kind == HEAD_GROUP else None, calibration, judged)
            progress.advance(note="head")
        return {
            group: {scheme: _CORRECTED * loss * error / max(errors.values()) for scheme, error in errors.items()}
            for group, loss, errors in ((group, losses[group], self._errors[group]) for group in losses)
        }

    def _embed(self, group: Group) -> tuple[Stream, Stream]:
        original = self._originals.read(EMBEDDING)
        ids = self._judged.ids
        rows = original[ids].to(torch.float32)

        def coded(scheme: Scheme) -> Tensor:
            return dequantize(DATA_FREE(original, scheme))[ids]

        worst = self._worst(group, lambda scheme: coded(scheme) - rows)
        if worst is not None:
            self._changed[group] = Stream(self._judged, coded(worst))
        return Stream(self._calibration, original[self._calibration.ids].to(torch.float32)), Stream(
            self._judged, rows
        )

    def _worst(self, group: Group, error: Callable[[Scheme], Tensor]) -> Scheme | None:
        """Keep the mean square of the error (T, N) that each scheme makes; the scheme of the largest one."""
        found = {scheme: float(error(scheme).square().mean()) for scheme in self._candidates.get(group, ())}
        if not found:
            return None
        self._errors[group] = found
        return self._coarsest(group)

    def _coarsest(self, group: Group) -> Scheme:
        return max(self._errors[group], key=lambda scheme: self._errors[group][scheme])

    def _layer(self, groups: Sequence[Group], calibration: Stream, judged: Stream) -> None:
        layer = self._module(groups[0].layer or 0)
        for stream in self._changed.values():
            stream.run(layer)
        by_kind = {group.kind: group for group in groups}
        before_c: Tensor | None = None
        before_j: Tensor | None = None
        start = judged.states
        for name in INPUTS:
            before_c, before_j = (
                calibration.input_of(layer, name, before_c),
                judged.input_of(layer, name, before_j),
            )
            module = projection(layer, name)
            self._try(by_kind[name], layer, module, (collect(before_c), before_j), start)
            if name in WRITE_BACK:
                calibration.add(module, before_c)
                judged.add(module, before_j)

    def _try(
        self,
        group: Group,
        layer: DecoderLayer,
        module: Linear,
        seen: tuple[InputStatistics, Tensor],
        start: Tensor,
    ) -> None:
        """Measure the errors of a group, and start its stream: this layer with the coarsest scheme."""
        statistics, inputs = seen
        weight = module.weight
        worst = self._worst(
            group, lambda scheme: inputs @ (self._rounded(weight, statistics, scheme) - weight).t()
        )
        if worst is None:
            return
        stream = Stream(self._judged, start)
        module.weight = self._rounded(weight, statistics, worst)
        stream.run(layer)
        module.weight = weight
        self._changed[group] = stream

    def _rounded(self, weight: Tensor, statistics: InputStatistics, scheme: Scheme) -> Tensor:
        """(N, K) as the scheme keeps it. Of 8 bits the error is so small that the statistics change nothing."""
        if scheme.bits == 8:
            return dequantize(DATA_FREE(weight, scheme))
        (found,) = self._method([weight], statistics, scheme)
        return dequantize(found)

    def _module(self, index: int) -> DecoderLayer:
        config = self._config
        return DecoderLayer(
            config, DenseParts(config, _Dense(self._originals)), index, ACTIVATIONS[config.hidden_act]
        )

    def _judge(self, head: Group | None, calibration: Stream, judged: Stream) -> dict[Group, float]:
        config = self._config
        name = head_name(config)
        assert name is not None
        norm = RmsNorm(self._originals.read(FINAL_NORM).to(torch.float32), config.rms_norm_eps)
        weight = self._originals.read(name).to(torch.float32)
        states = judged.normed(norm)
        streams = {group: stream.normed(norm) for group, stream in self._changed.items()}
        coded: Tensor | None = None
        if head is not None:
            statistics = collect(calibration.normed(norm))
            worst = self._worst(
                head, lambda scheme: states @ (self._rounded(weight, statistics, scheme) - weight).t()
            )
            coded = None if worst is None else self._rounded(weight, statistics, worst)
        tied = next(
            (group for group in streams if name in group.names), None
        )  # stored once: its head is coded, too
        own = weight if tied is None else dequantize(DATA_FREE(weight, self._coarsest(tied)))
        sums = dict.fromkeys([*streams, *([] if head is None or coded is None else [head])], 0.0)
        for start in range(0, len(states), _ROWS):
            rows = slice(start, start + _ROWS)
            reference = torch.log_softmax(states[rows] @ weight.t(), dim=-1)
            for group, changed in streams.items():
                sums[group] += _divergence(reference, changed[rows] @ (own if group == tied else weight).t())
            if head is not None and coded is not None:
                sums[head] += _divergence(reference, states[rows] @ coded.t())
        return {group: max(total, 0.0) / len(states) for group, total in sums.items()}


class _Dense(WeightSource):
    """The original in float32."""

    def __init__(self, originals: Originals) -> None:
        self._originals = originals

    def dense(self, name: str) -> Tensor:
        """(N, K) float32."""
        return self._originals.read(name).to(torch.float32)

    def vector(self, name: str) -> Tensor:
        """(N,) float32."""
        return self._originals.read(name).to(torch.float32)


def _divergence(reference: Tensor, logits: Tensor) -> float:
    """Sum of KL(reference || candidate) over rows: log-probabilities and logits, (R, V)."""
    candidate = torch.log_softmax(logits, dim=-1)
    return float((reference.exp() * (reference - candidate)).sum(dtype=torch.float64))
