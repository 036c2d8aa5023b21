"""Faults in ONNX bundles turn the right level red, and localisation names the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.catalogue import ONNX, Fault
from tests.faults.checking import Subject, assert_caught, colours, make_subject, random_recipe, run_check

_subjects: dict[str, Subject] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


def subject(recipe: str, folder: Path) -> Subject:
    """The clean bundle of a recipe, made once."""
    if recipe not in _subjects:
        _subjects[recipe] = make_subject(folder / recipe, random_recipe(recipe))
    return _subjects[recipe]


@pytest.mark.parametrize("recipe", sorted({fault.bundle for fault in ONNX}))
def test_without_a_fault_all_is_green(recipe: str, folder: Path) -> None:
    clean = subject(recipe, folder)
    for static in (False, True):
        report = run_check(clean.folder, clean.checkpoint, static=static)
        assert set(colours(report).values()) == {"green"}, report.failures


@pytest.mark.parametrize("fault", ONNX, ids=lambda fault: fault.id)
def test_a_fault_is_caught(fault: Fault, folder: Path, tmp_path: Path) -> None:
    assert_caught(fault, subject(fault.bundle, folder), tmp_path)
