from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.case import OK, Sandbox
from tests.hostile.client import Commands


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """A warm process for command lines; it also makes the bundle that cases spoil."""
    with Commands() as running:
        box = Sandbox(tmp_path_factory.mktemp("sound"))
        box.checkpoint()
        assert running.run(box.export(), box.root).code == OK
        Sandbox.template = box.root / "out"
        yield running
