"""Runs a bundle on an emulated ARM64 processor, with the kernels that phones run, and compares (docs/arm64.md)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from arm64.compare import (
    Arm64Report,
    CallResult,
    against_rule,
    difference,
    limits,
    read_results,
    rule_limit,
    run_here,
)
from arm64.golden import golden_calls, judge_golden
from arm64.script import Call, plan_calls, write_script
from arm64.toolchain import (
    CPUS,
    DEBIAN_PACKAGES,
    DEFAULT_CPU,
    Toolchain,
    build_runner,
    check_cpu,
    emulate,
    find_toolchain,
)
from arm64.wheels import Library, fetch_library
from helium_edge.bundle import Bundle, open_bundle
from helium_edge.bundle.kv_scales import read_kv_scales
from helium_edge.config import ModelConfig
from helium_edge.errors import ParityError, UsageError
from helium_edge.generation import language_model
from helium_edge.parity.bundle_store import BundleStore
from helium_edge.parity.yardstick import Yardstick
from helium_edge.progress import SILENT, Progress
from helium_edge.quant import WeightStore
from helium_edge.recipe import Recipe
from helium_edge.runtime.runner import CachedRunner
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.targets import load_target

DEFAULT_TOKENS = 24

_TEXT = (
    "The model answers on the phone itself, without a network. Le train part à neuf heures et arrive avant midi. "
    "Das Wetter bleibt am Abend kühl, morgen scheint die Sonne. La niña abrió la ventana y escuchó el río. "
    "Il libro è rimasto aperto sul tavolo della cucina. O barco voltou ao porto antes da noite. "
)


def check_arm64(
    bundle_path: Path,
    *,
    tokens: int = DEFAULT_TOKENS,
    cpu: str = DEFAULT_CPU,
    unverified: bool = False,
    progress: Progress = SILENT,
) -> Arm64Report:
    """Run the same calls of a bundle here and on an emulated ARM64 processor, and compare.

    What ARM64 gives is also compared with torch that has the weights of the bundle and rounds activations as
    kernels do on that processor: level L1 for it.

    Every call on ARM64 starts from the cache that this machine had at that point: differences do not add up.

    Args:
        bundle_path: The bundle.
        tokens: Length of the conversation: two prefill calls, then one token per call.
        cpu: The processor, one of `CPUS`.
        unverified: Run a bundle whose checksums do not match.
        progress: Receives stages.

    Returns:
        The report; missing its limit is no exception here.

    Raises:
        BundleError: The bundle is unusable, or its run stopped.
        MissingDependencyError: The compiler, the emulator or the libraries for ARM64 are missing.
        UsageError: An unknown processor, too few or too many tokens, or a bundle that does not run on such a
            processor.
    """
    check_cpu(cpu)
    tools = find_toolchain()
    bundle = open_bundle(bundle_path, unverified=unverified)
    package = _package(bundle)
    calls = plan_calls(bundle.manifest, _ids(bundle, tokens))
    progress.stage("prepare ARM64")
    library = fetch_library(package)
    program = build_runner(tools, library)
    progress.stage("run here")
    model = language_model(bundle)
    expected = run_here(model.runner, calls)
    progress.stage(f"run on {cpu}")
    there = (tools, cpu, program, library)
    found = _run_there(bundle, calls, expected, there)
    progress.stage("compare with torch")
    store, recipe = _weights(bundle)
    arithmetic = load_target(bundle.manifest.target.name).arithmetic(recipe, store.plan, CPUS[cpu].kind)
    yardstick = Yardstick(store, arithmetic, bundle.manifest.cache_len, read_kv_scales(bundle))
    cache = [buffer.reshape(buffer.shape[-3:]) for buffer in model.runner.cache_buffers]
    of_rule = list(against_rule(yardstick, calls, found, cache))  # before the runner goes on
    differences = (
        replace(difference(call, there, here), of_rule=errors)
        for call, there, here, errors in zip(calls, found, expected, of_rule, strict=True)
    )
    limit, median_limit = limits(bundle.manifest)
    return Arm64Report(
        cpu=cpu,
        runtime=f"{library.package} {library.version}",
        limit=limit,
        median_limit=median_limit,
        calls=tuple(differences),
        rule=arithmetic.name,
        rule_limit=rule_limit(bundle.manifest, store, CPUS[cpu], exact=arithmetic.exact),
        **_golden(bundle, model.runner, there),
    )


def _golden(bundle: Bundle, runner: CachedRunner, there: tuple[Toolchain, str, Path, Library]) -> dict[str, Any]:
    """The golden trace there, as fields of the report; nothing where the bundle has none."""
    trace = bundle.manifest.golden
    if trace is None:
        return {}
    calls = golden_calls(bundle.manifest, trace)
    try:
        return {"golden": judge_golden(trace, _run_there(bundle, calls, run_here(runner, calls), there))}
    except ParityError as error:
        return {"golden_failure": error.message}


def _package(bundle: Bundle) -> str:
    """Name of the package that runs a bundle.

    Raises:
        UsageError: None does on such a processor, or its graphs take no cache.
    """
    manifest = bundle.manifest
    package = {"xnnpack": "executorch", "onnx": "onnxruntime"}.get(manifest.target.name)
    if package is None:
        raise UsageError(
            f"{bundle.folder.name}: the ARM64 run takes bundles for onnx and xnnpack; this one is for "
            f"{manifest.target.name}"
        )
    if manifest.cache is None:
        raise UsageError(
            f"{bundle.folder.name}: the ARM64 run takes language models; {manifest.model.architecture} is none"
        )
    return package


def _weights(bundle: Bundle) -> tuple[WeightStore, Recipe]:
    """The weights that the files of a bundle hold, and what it was exported by."""
    recipe = bundle.manifest.quantization.to_recipe()
    return BundleStore(bundle, ModelConfig.from_file(bundle.path("config.json")), recipe), recipe


def _ids(bundle: Bundle, count: int) -> list[int]:
    tokenizer = Tokenizer(bundle.folder / bundle.manifest.tokenizer.file)
    ids = tokenizer.encode(_TEXT)
    return (ids * (count // len(ids) + 1))[:count]


def _run_there(
    bundle: Bundle,
    calls: Sequence[Call],
    expected: Sequence[CallResult],
    there: tuple[Toolchain, str, Path, Library],
) -> list[CallResult]:
    tools, cpu, program, library = there
    with tempfile.TemporaryDirectory(prefix="helium-edge-arm64-") as name:
        folder = Path(name)
        script, rows, out, system = (folder / part for part in ("script.txt", "rows.f32", "out.f32", "system"))
        system.mkdir()
        script.write_text(write_script(bundle.manifest, calls), encoding="utf-8")
        with rows.open("wb") as file:
            for result in expected:
                for values in result.rows:
                    file.write(values.astype(values.dtype.newbyteorder("<")).tobytes())
        arguments = [str(script), str(rows), str(out), str(bundle.folder), *library.program_arguments()]
        emulate(tools, cpu, program, arguments, system)
        return list(read_results(out.read_bytes(), bundle.manifest.decoder_spec(), calls))


__all__ = [
    "CPUS",
    "DEBIAN_PACKAGES",
    "DEFAULT_CPU",
    "DEFAULT_TOKENS",
    "Arm64Report",
    "check_arm64",
    "find_toolchain",
]
