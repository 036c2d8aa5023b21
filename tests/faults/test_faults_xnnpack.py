"""Faults in XNNPACK bundles turn the right level red, and localisation names the place."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

from tests.faults.catalogue import XNNPACK, Fault
from tests.faults.checking import Subject, assert_caught, colours, make_subject, random_recipe, run_check
from tests.helpers.faults_export import EXPORT_FAULTS

_subjects: dict[str, Subject] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


def subject(bundle: str, folder: Path) -> Subject:
    """The clean bundle of a recipe, made once."""
    if bundle not in _subjects:
        name, _, bucket = bundle.partition(" with ")
        changes = {"xnnpack": {"cache_buckets": [24]}} if bucket else {}
        _subjects[bundle] = make_subject(folder / bundle.replace(" ", "-"), random_recipe(name, **changes))
    return _subjects[bundle]


@pytest.mark.parametrize("bundle", sorted({fault.bundle for fault in XNNPACK}))
def test_without_a_fault_all_is_green(bundle: str, folder: Path) -> None:
    clean = subject(bundle, folder)
    report = run_check(clean.folder, clean.checkpoint)
    assert set(colours(report).values()) == {"green"}, report.failures


@pytest.mark.parametrize("fault", XNNPACK, ids=lambda fault: fault.id)
def test_a_fault_is_caught(fault: Fault, folder: Path, tmp_path: Path) -> None:
    if fault.exported:
        with EXPORT_FAULTS[fault.plant]():
            hit = make_subject(tmp_path / "exported", random_recipe(fault.bundle))
    else:
        hit = subject(fault.bundle, folder)
    assert_caught(fault, hit, tmp_path)
