"""Bundles on an emulated ARM64 processor, with the kernels of the runtimes' own wheels, against this machine."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

import arm64
import arm64_parity
from arm64 import DEFAULT_CPU, Arm64Report, check_arm64, find_toolchain
from arm64.compare import RULE, TOLERANCE
from arm64.toolchain import CPUS, build_runner, emulate
from arm64.wheels import fetch_library, library_folder
from helium_edge import export
from helium_edge.bundle import Bundle
from helium_edge.errors import BundleError, MissingToolError
from helium_edge.generation import LanguageModel, language_model
from helium_edge.recipe import Recipe, load_recipe
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import small_recipe

if importlib.util.find_spec("executorch") is None:
    pytest.skip("the ARM64 run needs executorch, which is not installed", allow_module_level=True)
try:
    find_toolchain()
except MissingToolError as missing:
    pytest.skip(str(missing), allow_module_level=True)
if not all(library_folder(package).is_dir() for package in ("executorch", "onnxruntime")):
    # Tests download nothing; .ci/run does it before them.
    pytest.skip(
        "the ARM64 libraries are not in the cache; benchmarks/arm64_parity.py fetches them",
        allow_module_level=True,
    )

pytestmark = pytest.mark.full  # what compiles and emulates for another processor

MODEL = {"num_key_value_heads": 2, "attention_bias": True, "max_position_embeddings": 64}


def xnnpack_recipe(name: str, *buckets: int, **changes: object) -> Recipe:
    data = load_recipe(name).model_dump(mode="json")
    data["shapes"] = {"prefill_len": 8, "cache_len": 48}
    data["targets"]["xnnpack"] |= {"cache_buckets": buckets, "prefill_buckets": [6]}
    return Recipe.model_validate_json(json.dumps(data | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arm64")


@pytest.fixture(scope="module")
def tiny_int4(folder: Path) -> Path:
    """helium-tiny for XNNPACK with int4 weights."""
    return export("helium-tiny", recipe=xnnpack_recipe("xnnpack-int4"), out=folder / "tiny", parity=False).bundle


def export_random(recipe: Recipe, out: Path, *, seed: int = 1) -> Path:
    checkpoint = make_checkpoint(out.with_name(f"{out.name}.checkpoint"), seed=seed, **MODEL)
    return export(checkpoint, recipe=recipe, out=out, parity=False).bundle


# -- XNNPACK


def test_int4_on_arm64_is_int4_here(tiny_int4: Path) -> None:
    """Most calls agree to float32 noise; in a few one activation is rounded to the neighbouring code."""
    report = check_arm64(tiny_int4)
    assert report.failures == []
    assert report.median <= report.median_limit == TOLERANCE
    assert {call.phase for call in report.calls if call.worst <= TOLERANCE} == {"prefill", "decode"}
    assert report.runtime.startswith("executorch ")


def test_float32_in_growing_caches_with_all_logits_on_an_older_processor(folder: Path) -> None:
    bundle = export_random(xnnpack_recipe("xnnpack-fp32", 18, logits="all"), folder / "fp32")
    report = check_arm64(bundle, tokens=30, cpu="cortex-a53")
    assert report.limit == TOLERANCE
    assert report.failures == []
    assert report.agreeing == len(report.calls) == 2 + 30 - 8 - 6


# -- ONNX Runtime


@pytest.mark.parametrize("dialect", ["contrib", "portable"])
def test_onnx_float32_agrees_for_both_kinds_of_cache(dialect: str, folder: Path) -> None:
    bundle = export_random(small_recipe("onnx-fp32", onnx={"dialect": dialect}), folder / f"onnx-{dialect}")
    manifest = json.loads((bundle / "helium-edge.json").read_text(encoding="utf-8"))
    assert manifest["cache"]["update"] == {"contrib": "in_place", "portable": "append"}[dialect]
    report = check_arm64(bundle, tokens=30)
    assert report.failures == []
    assert report.agreeing == len(report.calls)


@pytest.fixture(scope="module")
def onnx_int4(folder: Path) -> Path:
    """helium-tiny for ONNX Runtime with int4 weights."""
    return export("helium-tiny", recipe=small_recipe("onnx-int4"), out=folder / "onnx-int4", parity=False).bundle


@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a76", "i8mm"])
def test_onnx_int4_rounds_as_the_rule_of_its_processor_says(cpu: str, onnx_int4: Path) -> None:
    """It differs from x86 by that; against the rule most tokens are equal."""
    report = check_arm64(onnx_int4, cpu=cpu)
    assert report.failures == []
    assert report.median_limit == report.limit > TOLERANCE
    assert report.median > 1e-3
    assert (report.of_rule <= RULE).mean() > 0.7
    assert len(report.of_rule) == arm64.DEFAULT_TOKENS


def test_the_rule_of_another_processor_is_seen(onnx_int4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = dataclasses.replace(CPUS[DEFAULT_CPU], kind="x86-64")
    monkeypatch.setitem(CPUS, DEFAULT_CPU, there)
    report = check_arm64(onnx_int4)
    assert [line.split(" is off by ")[0] for line in report.failures] == ["on ARM64 (cortex-a76) the median token"]


# -- caches of other types


@pytest.mark.parametrize(
    ("name", "exact"), [("onnx-int4-kv16", False), ("onnx-int4-kv8", True), ("xnnpack-int4-kv16", True)]
)
def test_rounded_caches_hold_what_the_rule_says(name: str, exact: bool, folder: Path) -> None:
    """Attention over float16 in ONNX Runtime adds up in float16 there, by no rule of ours: a wide limit holds."""
    recipe = xnnpack_recipe(name) if name.startswith("xnnpack") else small_recipe(name)
    bundle = export("helium-tiny", recipe=recipe, out=folder / name, parity=False).bundle
    report = check_arm64(bundle)
    assert report.failures == []
    assert report.golden is not None
    assert (report.rule_limit == RULE) == exact
    assert ((report.of_rule <= RULE).mean() > 0.5) == exact


# -- faults


def report_with_other_weights(bundle: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> Arm64Report:
    """The ARM64 run as it is, compared with another bundle of the same shapes."""

    def substitute(_: Bundle) -> LanguageModel:
        return language_model(arm64.open_bundle(other))

    monkeypatch.setattr(arm64, "language_model", substitute)
    return check_arm64(bundle)


def test_another_model_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe("onnx-fp32")
    bundle = export_random(recipe, folder / "one")
    other = export_random(recipe, folder / "two", seed=2)
    report = report_with_other_weights(bundle, other, monkeypatch)
    assert not report.passed
    assert report.agreeing == 0


@pytest.mark.parametrize("package", ["executorch", "onnxruntime"])
def test_programs_that_stop_say_why(package: str, folder: Path, tmp_path: Path) -> None:
    tools, library = find_toolchain(), fetch_library(package)
    program = build_runner(tools, library)
    files = [str(tmp_path / name) for name in ("script", "rows", "out")]
    facts = (
        'helium-edge-script 2 5 last 64 0 float16 1 1 8 4 1 "missing" "m" 1 8 1 "ids" "tokens" 1 "logits" "logits"'
    )
    scripts = {
        "the script is not readable": "something else",
        "not readable": f"{facts} 1 0 1 3".replace("float16", "float8"),
        "a call of the script does not fit its graph": f"{facts} 1 0 2 3 3",
        "missing": f"{facts} 1 0 1 3",
    }
    (tmp_path / "rows").write_bytes(bytes(32))
    arguments = [*files, str(tmp_path), *library.program_arguments()]
    for number, (message, script) in enumerate(scripts.items()):
        (tmp_path / "script").write_text(script, encoding="utf-8")
        system = tmp_path / f"system-{number}"
        system.mkdir()
        with pytest.raises(BundleError, match=message):
            emulate(tools, DEFAULT_CPU, program, arguments, system)


# -- the command


def test_the_command_compares_a_bundle(tiny_int4: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert arm64_parity.main([str(tiny_int4), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["cpu"], document["passed"]) == (DEFAULT_CPU, True)
    assert document["median"] <= TOLERANCE
