from __future__ import annotations

import os

import pytest

from helium_edge import durable


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only losing power needs a real sync; that each is asked for, and when, has a test of its own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=["renameat2", "rename"])
def rename_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "rename":
        monkeypatch.setattr(durable, "_renameat2", lambda: None)
    return str(request.param)
