"""Rules by which kernels round activations: what tells them apart, and which a processor takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helium_edge.config import ModelConfig
from helium_edge.model.weights import HEAD, layer_name
from helium_edge.parity.emulation import EmulatedLinear, Ledger
from helium_edge.quant import activations, plan_weights
from helium_edge.quant.activations import ActivationRule, PerBlock, PerToken, Processor, this_processor
from helium_edge.targets import load_target
from tests.helpers.exports import small_recipe

TINY = Path(activations.__file__).parents[1] / "data" / "helium-tiny"


def test_halves_go_where_the_kernel_takes_them() -> None:
    x = torch.tensor([[-128.0, 127.0, 0.5, 1.5, -0.5, -1.5, 0.49999997, 2.5]])
    even, away = PerToken().codes(x), PerToken(halves_away=True).codes(x)
    assert even.scale.item() == away.scale.item() == 1
    assert even.rounded[0, 2:].tolist() == [0, 2, 0, -2, 0, 2]
    assert away.rounded[0, 2:].tolist() == [1, 2, -1, -2, 0, 3]


def test_a_large_channel_widens_the_steps_of_its_block_or_of_its_token() -> None:
    x = torch.ones(1, 96)
    x[0, 0] = 1000.0
    by_token, by_block = PerToken().codes(x), PerBlock(32).codes(x)
    assert by_token.rounded[0, 1:].abs().max() == 0
    assert by_block.rounded[0, 1:32].abs().max() == 0
    assert torch.allclose((by_block.rounded * by_block.scale)[0, 32:], torch.ones(64))


def test_the_last_block_may_be_shorter() -> None:
    x = torch.cat([torch.full((2, 64), 4.0), torch.full((2, 10), 0.5)], dim=1)
    codes = PerBlock(64).codes(x)
    assert codes.rounded.shape == codes.scale.shape == x.shape
    assert torch.allclose(codes.rounded * codes.scale, x)


def rules_of(
    processor: Processor | None, scheme: str = "int4-g32", **options: object
) -> dict[str, ActivationRule]:
    recipe = small_recipe("onnx-int4", onnx={"int8_block_size": 256} | options)
    data = [rule.model_dump(mode="json") for rule in recipe.quantization.rules]
    recipe = small_recipe("onnx-int4", rules=[data[0], data[1] | {"scheme": scheme}], onnx=recipe.targets.onnx)
    plan = plan_weights(ModelConfig.from_file(TINY / "config.json"), recipe.quantization)
    return dict(load_target("onnx").arithmetic(recipe, plan, processor).rules)


DOWN = layer_name(0, "mlp.down_proj.weight")


@pytest.mark.parametrize(
    ("processor", "scheme", "down", "head"),
    [
        ("x86-64", "int4-g32", PerBlock(32), PerBlock(256)),
        ("arm64", "int4-g32", PerToken(halves_away=True), PerBlock(256)),
        ("arm64", "int4-g128-asym", PerBlock(128), PerBlock(256)),
        ("arm64", "int8", PerBlock(128), PerBlock(256)),
    ],
)
def test_each_processor_has_its_rules(
    processor: Processor, scheme: str, down: ActivationRule, head: ActivationRule
) -> None:
    """640 columns are no multiple of 256: such a row has blocks of 128."""
    found = rules_of(processor, scheme)
    assert (found[DOWN], found[HEAD]) == (down, head)


def test_without_the_dot_product_nothing_is_rounded() -> None:
    assert rules_of("arm64 without dot product") == {}


@pytest.mark.parametrize(
    ("machine", "found"),
    [("AMD64", "x86-64"), ("x86_64", "x86-64"), ("arm64", "arm64"), ("riscv64", None)],
)
def test_this_machine_is_known_by_its_name(
    machine: str, found: Processor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("sys.platform", "darwin")
    assert this_processor() == found


@pytest.mark.parametrize(("features", "found"), [("fp asimd asimddp", True), ("fp asimd", False)])
def test_linux_says_whether_there_is_a_dot_product(
    features: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nFeatures\t: {features}\n", encoding="utf-8")
    assert activations._has_dot_product(tmp_path / "cpuinfo") is found


def test_the_ledger_says_whose_rule_is_followed() -> None:
    ledger, x = Ledger(), torch.linspace(-1, 3, 64)[None]
    layer = EmulatedLinear(torch.eye(64), None, (PerBlock(32), PerToken(), None), ledger, 0)
    found = []
    for ledger.processor in range(3):
        found.append(layer(x))
    for rule, rounded in zip((PerBlock(32), PerToken()), found, strict=False):
        codes = rule.codes(x)
        assert torch.equal(rounded, codes.rounded * codes.scale)
    assert torch.equal(found[2], x)
