"""Sweeps: cells are computed once, whatever is killed; on one machine, and on Ray where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from helium_edge.recipe import Recipe
from helium_edge.sweep import local
from helium_edge.sweep.cells import Cell, CellStore
from helium_edge.sweep.document import _beats, loss
from helium_edge.sweep.schema import document_schema
from tests.helpers.bundles import bundle_recipe

RECIPES = ("onnx-fp32", "onnx-int8", "onnx-int4")
TASKS = "continuation_en,continuation_de,continuation_fr"
LIMIT = 12

# -- the engine of one machine, over cells that cost nothing


def cell(name: str, *needs: Cell, **options: Any) -> Cell:
    return Cell("speed", name, {"name": name}, {}, tuple(each.key for each in needs), **options)


FAKE = """
import json, os, signal, sys, time
from pathlib import Path
from helium_edge.sweep.cells import Cell, CellStore
cell, store = Cell.from_json(json.load(sys.stdin)), CellStore(Path(sys.argv[1]))
store.tell(cell, "started")
starts = sum(each["name"] == cell.name and each["event"] == "started" for each in store.log())
if cell.name == "always dies" or (cell.name == "dies once" and starts == 1):
    os.kill(os.getpid(), signal.SIGKILL)
if cell.name == "refuses":
    print(json.dumps({"error": {"message": "no such thing", "hint": "another", "exit_code": 3}}))
    sys.exit()
time.sleep(0.2 if cell.alone else 0.02)
store.publish(cell, {"name": cell.name})
store.tell(cell, "published")
print(json.dumps({"done": "computed"}))
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CellStore:
    script = tmp_path / "fake.py"
    script.write_text(FAKE, encoding="utf-8")
    monkeypatch.setattr(local, "WORKER", [str(script)])
    return CellStore(tmp_path / "store")


def test_a_cell_runs_after_what_it_needs_and_once(fake: CellStore) -> None:
    first = cell("first")
    cells = [first, cell("second", first), cell("alone", first, alone=True), cell("third")]
    assert local.run_local(cells, fake, jobs=2) == []
    names = [each["name"] for each in fake.log() if each["event"] == "published"]
    assert sorted(names) == ["alone", "first", "second", "third"]
    assert names.index("first") < names.index("second")
    assert local.run_local(cells, fake, jobs=2) == []
    assert len(fake.log()) == 8


def test_a_worker_that_dies_is_started_again_and_its_neighbours_go_on(fake: CellStore) -> None:
    always = cell("always dies")
    cells = [cell("dies once"), always, cell("needs it", always), cell("refuses"), cell("good")]
    failed = {outcome.cell.name: outcome.error for outcome in local.run_local(cells, fake, jobs=2)}
    assert set(failed) == {"always dies", "needs it", "refuses"}
    assert f"its worker died {local.TRIES} times, with -9" in failed["always dies"].message
    assert (failed["refuses"].message, failed["refuses"].exit_code) == ("refuses: no such thing", 3)
    starts = Counter(each["name"] for each in fake.log() if each["event"] == "started")
    assert starts == {"dies once": 2, "always dies": 3, "refuses": 1, "good": 1}
    assert fake.result(cells[0]) == {"name": "dies once"}


def test_workers_share_the_memory(fake: CellStore) -> None:
    cells = [cell(f"cell {n}", memory=60) for n in range(4)]
    assert local.run_local(cells, fake, jobs=4, memory=100) == []
    running, most = 0, 0
    for each in fake.log():
        running += 1 if each["event"] == "started" else -1
        most = max(most, running)
    assert most == 1


def test_a_torn_result_is_computed_again(fake: CellStore) -> None:
    one = cell("one")
    fake.publish(one, {"name": "one"})
    (path,) = fake.folder.glob("cells/*.json")
    path.write_bytes(path.read_bytes()[:-3])
    assert fake.result(one) is None
    assert local.run_local([one], fake) == []
    assert fake.result(one) == {"name": "one"}


@pytest.mark.parametrize(
    ("one", "other", "beats"),
    [
        ((1, 0.1), (2, 0.2), True),
        ((1, 0.3), (2, 0.2), False),
        ((1, 0.1), (1, 0.1), False),
        ((1, None), (2, 1), False),
    ],
)
def test_the_front_is_what_nothing_beats(one: Any, other: Any, beats: bool) -> None:
    rows = [{"bytes": size, "kld": kld, "difference": None} for size, kld in (one, other)]
    assert _beats(rows[0], rows[1]) == bool(beats)
    assert loss({"kld": None, "difference": -2.0}) == 2.0


# -- the real thing: three recipes by three tasks


def write_recipes(folder: Path) -> str:
    names = []
    for name in RECIPES:
        recipe: Recipe = bundle_recipe(name, shapes={"prefill_len": 32, "cache_len": 192})
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(json.loads(recipe.canonical_json())), encoding="utf-8")
        names.append(str(path))
    return ",".join(names)


def command(folder: Path, *words: str) -> list[str]:
    """The sweep, through the checkpoint that ships inside."""
    asked = ["--checkpoint", "helium-tiny", "--recipes", write_recipes(folder), "--tasks", TASKS, "--no-speed"]
    place = ["--limit", str(LIMIT), "--store", str(folder / "store")]
    return [sys.executable, "-m", "helium_edge", "sweep", *asked, *place, *words]


ENGINES = [
    "local",
    pytest.param(
        "ray",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install '.[sweep]'"
        ),
    ),
]


@pytest.mark.full
@pytest.mark.parametrize("engine", ENGINES)
def test_a_sweep_survives_a_killed_worker_and_a_killed_driver(engine: str, tmp_path: Path) -> None:
    words = ["--engine", engine, "--no-parity", *(["--jobs", "2"] if engine == "local" else [])]
    store = CellStore(tmp_path / "store")
    driver = subprocess.Popen(command(tmp_path, *words), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        worker = _wait_for(store, "started", skip=("export",))
        with_time = time.monotonic()
        os.kill(worker["process"], signal.SIGKILL)
        _wait_for(store, "published", skip=("export",), count=2)
        assert time.monotonic() - with_time < 600
    finally:
        driver.kill()
        driver.wait()
    time.sleep(1)  # workers end with it
    log = store.log()
    done = {each["cell"] for each in log if each["event"] == "published"}
    before = len(log)
    again = subprocess.run(
        command(tmp_path, *words, "--json", "--html", str(tmp_path / "sweep.html")),
        capture_output=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr.decode()[-3000:]
    sweep = json.loads(again.stdout)["sweep"]
    jsonschema.validate(sweep, json.loads(document_schema()))
    started = {each["cell"] for each in store.log()[before:] if each["event"] == "started"}
    assert not started & done, "a cell that was done was computed again"
    # A worker may have been killed between its result and its line of the log, so that the results are counted.
    assert len(list((store.folder / "cells").glob("*.json"))) == len(RECIPES) * 4 + 3
    assert {row["recipe"] for row in sweep["recipes"]} == set(RECIPES)
    for row in sweep["recipes"]:
        assert [task["n"] for task in row["evaluation"]["tasks"]] == [LIMIT] * 3
        assert row["difference"] is not None
    assert "<script" not in (tmp_path / "sweep.html").read_text(encoding="utf-8")
    before = len(store.log())
    third = subprocess.run(command(tmp_path, *words, "--json"), capture_output=True, check=False)
    assert json.loads(third.stdout)["sweep"] == sweep | {"recipes": json.loads(third.stdout)["sweep"]["recipes"]}
    assert len(store.log()) == before, "the third run had nothing to do"


def _wait_for(store: CellStore, event: str, *, skip: tuple[str, ...], count: int = 1) -> dict[str, Any]:
    until = time.monotonic() + 900
    while time.monotonic() < until:
        found = [each for each in store.log() if each["event"] == event and not each["name"].startswith(skip)]
        if len(found) >= count:
            return dict(found[-1])
        time.sleep(0.02)
    raise AssertionError(f"no cell was {event}")
