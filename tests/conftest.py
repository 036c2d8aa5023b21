from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before everything else
# Workers of pytest-xdist share the cores: one thread each, also in what they start.
os.environ["OMP_NUM_THREADS"] = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"

import random
import subprocess
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from helium_edge import first_run
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.cpu_time import pytest_runtest_makereport, pytest_runtest_protocol, pytest_terminal_summary
from tests.helpers.optimum import pytest_collection_modifyitems

__all__ = [
    "pytest_collection_modifyitems",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_terminal_summary",
]

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("helium-edge", deadline=None)
hypothesis.settings.load_profile("helium-edge")


def pytest_configure(config: pytest.Config) -> None:
    """Hand files out in the order of their names: the long ones come first so, and short ones fill the end."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options for more than a sample; docs/hostile_input.md has the commands of the long runs."""
    parser.getgroup("heads").addoption(
        "--all-tasks", action="store_true", help="every head, target and scheme on helium-tiny (docs/parity.md)"
    )
    group = parser.getgroup("hostile input")
    group.addoption("--hostile-inputs", type=int, default=60, metavar="N", help="mutated inputs, over all kinds")
    group.addoption("--changed-programs", type=int, default=45, metavar="N", help="changed graphs and programs")
    group.addoption("--hostile-seed", type=int, default=0, metavar="N", help="of the mutations")
    group.addoption("--hostile-examples", type=int, default=60, metavar="N", help="hypothesis examples a property")
    group.addoption("--kill-points", type=int, default=8, metavar="N", help="points of an export to kill it at")
    group.addoption("--fault-points", type=int, default=16, metavar="N", help="operations of an export that fail")
    group.addoption("--update-catalogue", action="store_true", help="rewrite docs/hostile_input.md")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Reference logits go to a folder of the run, also those of subprocesses."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["HELIUM_EDGE_CACHE"] = str(shared / "cache")


@pytest.fixture(autouse=True)
def _no_first_run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying a changed bundle takes a process of seconds; test_first_run.py and tests/hostile do it."""
    if not request.node.path.match("*/test_first_run.py"):
        done = subprocess.CompletedProcess[bytes]([], 0, b"{}")
        monkeypatch.setattr(first_run, "_child", lambda arguments, seconds: done)


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that use the global generator
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer checkpoint; read it, never write to it."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny")
