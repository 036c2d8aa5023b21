"""The losses of groups, against the whole model with that group alone quantized."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helium_edge.mixed_precision import losses
from helium_edge.mixed_precision.groups import Group, groups_of
from helium_edge.mixed_precision.losses import LossWalk, TwoTexts
from helium_edge.quant import METHODS, dequantize
from helium_edge.quant.affine import QuantizedWeight
from helium_edge.quant.calibrated.method import Calibrated
from helium_edge.recipe import Scheme
from tests.unit.quant.calibrated import models

G32, INT8 = Scheme(bits=4, group_size=32), Scheme(bits=8)


class OneChanged(models.Original):
    """The original, with the weights of one group as they are stored."""

    def __init__(self, checkpoint: object, group: Group, scheme: Scheme) -> None:
        super().__init__(checkpoint)  # type: ignore[arg-type]
        self._group, self._scheme = group, scheme

    def dense(self, name: str) -> Tensor:
        original = super().dense(name)
        return dequantize(METHODS["rtn"](original, self._scheme)) if name in self._group.names else original

    vector = models.Original.dense


def round_to_nearest(
    _: object, weights: list[Tensor], statistics: object, scheme: Scheme
) -> list[QuantizedWeight]:
    """In place of GPTQ, so that what is expected needs no second calibration."""
    del statistics
    return [METHODS["rtn"](weight, scheme) for weight in weights]


@pytest.mark.parametrize("tied", [True, False])
def test_each_loss_is_that_of_the_model_with_this_group_alone_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    monkeypatch.setattr(Calibrated, "__call__", round_to_nearest)
    monkeypatch.setattr(losses, "DATA_FREE", METHODS["rtn"])
    monkeypatch.setattr(losses, "_CORRECTED", 1.0)
    checkpoint = models.model(tmp_path / "c", hot=1.0, tie_word_embeddings=tied)
    groups = groups_of(checkpoint.config)
    judged = models.texts(checkpoint, count=2, seed=50)
    walk = LossWalk(
        checkpoint.config,
        models.Original(checkpoint),
        {group: [G32, INT8] for group in groups},
        TwoTexts(models.texts(checkpoint), judged),
        0.1,
    )
    found = walk.run()
    assert list(found) == groups
    reference = models.outputs(checkpoint, models.Original(checkpoint), *judged).log_softmax(-1)
    for group in groups:
        changed = models.outputs(checkpoint, OneChanged(checkpoint, group, G32), *judged).log_softmax(-1)
        expected = float((reference.exp() * (reference - changed)).sum(-1).mean())
        assert found[group][G32] == pytest.approx(expected, rel=1e-3)
        assert 0 < found[group][INT8] < found[group][G32] / 50


def test_a_group_without_candidates_has_no_loss(tmp_path: Path) -> None:
    checkpoint = models.model(tmp_path / "c")
    first, *others = groups_of(checkpoint.config)
    texts = TwoTexts(models.texts(checkpoint), models.texts(checkpoint, count=1, seed=9))
    walk = LossWalk(checkpoint.config, models.Original(checkpoint), {first: [], others[2]: [G32]}, texts, 0.1)
    threads = torch.get_num_threads()
    assert list(walk.run()) == [others[2]]
    assert torch.get_num_threads() == threads
