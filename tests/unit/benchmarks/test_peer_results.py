"""Results of several runs become one file, one table and one chart."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer import chart, results, table
from peer.costs import CommandFailed, run_command
from peer.engine import PeerEngine, PeerError, Shape
from peer.speed import Entry, Pool, Run
from peer.worker import Worker, serve

Q4_0, HF = "llama.cpp Q4_0", "transformers bf16"
MODEL = "2 layers"


def run_of(bundle: str, measure: str, tokens: int, date: str, **seconds: list[float]) -> dict[str, Any]:
    """What `peers.py run` adds for one measure; the first engine is the bundle."""
    names = {"ours": bundle, "q4": Q4_0, "hf": HF}
    samples = {names[key]: values for key, values in seconds.items()}
    about = {"tokens": tokens, "others": 0.03, "date": date}
    pairs = results.pairs_of([bundle], measure, samples, about)
    return {"machine": "a machine", "threads": 2, "models": {MODEL: {"pairs": pairs}}}


def two_runs() -> dict[str, Any]:
    merged: dict[str, Any] = {"agreement": {}, "models": {}}
    for found in (
        run_of("ONNX int4", "decode@512", 1, "2026-01-01", ours=[0.1, 0.1, 0.1], q4=[0.1, 0.15, 0.2]),
        run_of("ONNX int4", "decode@0", 1, "2026-01-02", ours=[0.1, 0.2], q4=[0.05, 0.1], hf=[0.4, 0.8]),
    ):
        merged = results.merge(merged, found)
    return merged


def test_parts_measured_apart_are_merged() -> None:
    peers = two_runs()["models"][MODEL]["pairs"]["ONNX int4"]
    assert set(peers) == {Q4_0, HF}
    assert set(peers[Q4_0]) == {"decode@0", "decode@512"}
    assert peers[HF]["decode@0"]["theirs"] == [0.4, 0.8]


def test_bundles_of_one_run_are_each_held_against_the_peers() -> None:
    samples = {"a": [0.1], "b": [0.2], Q4_0: [0.3]}
    pairs = results.pairs_of(["a", "b"], "decode@0", samples, {"tokens": 1})
    assert {bundle: set(peers) for bundle, peers in pairs.items()} == {"a": {"b", Q4_0}, "b": {Q4_0}}
    assert pairs["b"][Q4_0]["decode@0"] == {"ours": [0.2], "theirs": [0.3], "tokens": 1}


def test_samples_of_several_loads_are_one_measure_of_the_engines_that_all_have() -> None:
    pool = Pool()
    first = {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    assert pool.add("decode@0", first, None) == (first, None)
    pool.add("decode@512", {"a": [9.0]}, 0.5)
    both = {"a": [1.0, 2.0, 5.0], "b": [3.0, 4.0, 6.0]}
    assert pool.add("decode@0", {"b": [6.0], "a": [5.0]}, 0.02) == (both, 0.02)
    assert pool.add("decode@0", {"a": [7.0]}, 0.01) == ({"a": [1.0, 2.0, 5.0, 7.0]}, 0.02)


def test_a_newer_measurement_replaces_the_older() -> None:
    again = run_of("ONNX int4", "decode@0", 1, "2026-02-01", ours=[1.0], q4=[2.0])
    pairs = results.merge(two_runs(), again)["models"][MODEL]["pairs"]["ONNX int4"]
    assert pairs[Q4_0]["decode@0"]["theirs"] == [2.0]
    assert pairs[Q4_0]["decode@0"]["date"] == "2026-02-01"
    assert pairs[Q4_0]["decode@512"]["date"] == "2026-01-01"
    assert pairs[HF]["decode@0"]["date"] == "2026-01-02"


def test_what_ran_is_no_longer_among_what_did_not() -> None:
    waiting = {"models": {MODEL: {"not_run": {Q4_0: "not installed", "genai": "not installed"}}}}
    ran = {"models": {MODEL: {"engines": {Q4_0: {"kind": "llama.cpp"}}}}}
    merged = results.merge(results.merge(two_runs(), waiting), ran)
    assert merged["models"][MODEL]["not_run"] == {"genai": "not installed"}


def test_file_of_results_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert results.load(path) == {"agreement": {}, "models": {}}
    results.save(two_runs(), path)
    assert results.load(path) == two_runs()


def test_table_holds_ratios_rates_and_goals() -> None:
    page = table.render(two_runs(), "results.svg").splitlines()
    # At 512 the pairs are 1, 1.5 and 2: half of what lies between them is 1.25 to 1.75.
    assert f"| {Q4_0} | **0.50** (0.50-0.50) | **1.50** (1.25-1.75) |" in page
    assert f"| {HF} | **4.00** (4.00-4.00) |  |" in page
    assert f"| {Q4_0} | 6.7 : 13.3 | 10.0 : 6.7 | 2-3 | 1 | 3% | 2026-01-02 |" in page
    assert "| decode at 0 | 1.0 | 0.50 | no |" in page
    assert "| decode at 512 | 1.2 | 1.50 | yes |" in page


def test_goals_are_those_of_the_onnx_bundle() -> None:
    found = run_of("XNNPACK int4", "decode@0", 1, "2026-01-01", ours=[0.1], q4=[0.2])
    page = table.render(results.merge({"agreement": {}, "models": {}}, found), "results.svg")
    assert "Goals" not in page


def test_table_says_where_speed_is_missing() -> None:
    merged = results.merge(two_runs(), {"models": {"4 layers": {"exports": {}}}})
    page = table.render(merged, "results.svg")
    assert page.count(table.NOT_TIMED) == 1
    assert page.index(table.NOT_TIMED) > page.index("## 4 layers")


def test_table_names_what_did_not_run_and_what_exports_cost() -> None:
    cost = {
        "wall_seconds": 61.4, "cpu_seconds": 60.2, "resident_bytes": 5_400_000_000, "anonymous_bytes": None,
        "written_bytes": 2_270_000_000, "date": "2026-01-01",
    }  # fmt: skip
    engine = {
        "kind": "llama.cpp", "version": "llama 1", "bytes": 1_260_000_000, "load_seconds": 1.04,
        "memory": {"anonymous_bytes": 2_070_000_000, "mapped_bytes": 10_000_000},
    }  # fmt: skip
    model = {"exports": {"optimum-cli": cost}, "engines": {Q4_0: engine}, "not_run": {"genai": "not installed"}}
    merged = results.merge(two_runs(), {"models": {MODEL: model}, "agreement": {"a | b": 1.3e-6, "c": "not run"}})
    page = table.render(merged, "results.svg").splitlines()
    assert "| optimum-cli | 61 | 60 |  | 5.40 | 2.27 | 2026-01-01 |" in page
    assert f"| {Q4_0} | llama 1 | 1.26 | 1.0 | 2.07 | 0.01 |" in page
    assert "- genai: not installed" in page
    assert "| a \\| b | 1.3e-06 |" in page
    assert "| c | not run |" in page


def test_chart_names_every_peer_and_is_the_same_each_time(tmp_path: Path) -> None:
    chart.draw(two_runs(), tmp_path / "a.svg")
    chart.draw(two_runs(), tmp_path / "b.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.svg").read_text(encoding="utf-8")
    for word in ("<svg", Q4_0, HF, "decode at 512", "1.50", "4.00"):
        assert word in text


def test_no_chart_without_pairs(tmp_path: Path) -> None:
    chart.draw({"models": {MODEL: {"exports": {}}}}, tmp_path / "a.svg")
    assert not (tmp_path / "a.svg").exists()


class FakeEngine:
    """Remembers its tokens; logits are those of the number of tokens in the context."""

    version = "fake 1"

    def __init__(self) -> None:
        self.context: list[int] = []

    def append(self, tokens: list[int]) -> Any:
        if len(self.context) + len(tokens) > 20:
            raise RuntimeError("context full\nand more")
        self.context += tokens
        return np.full(3, len(self.context), np.float32)

    def seek(self, position: int) -> None:
        assert position <= len(self.context)
        del self.context[position:]


def ask(engine: FakeEngine, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    answers = io.StringIO()
    serve(Worker(engine, vocab_size=50), io.StringIO("\n".join(json.dumps(each) for each in requests)), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_worker_decodes_from_the_depth_that_was_filled() -> None:
    engine = FakeEngine()
    answers = ask(
        engine,
        {"op": "fill", "context": 10},
        {"op": "decode", "context": 10, "tokens": 4},
        {"op": "decode", "context": 10, "tokens": 4},
    )
    assert [answer.keys() for answer in answers] == [set(), {"ns"}, {"ns"}]
    assert len(engine.context) == 14


def test_worker_answers_with_the_error_and_goes_on() -> None:
    full, then = ask(FakeEngine(), {"op": "fill", "context": 30}, {"op": "prefill", "context": 0, "tokens": 5})
    assert full == {"error": "RuntimeError: context full"}
    assert then["ns"] > 0


def test_worker_gives_logits_after_a_prompt_each_step_and_a_step_taken_back() -> None:
    (answer,) = ask(FakeEngine(), {"op": "logits", "prompt": [5, 6, 7], "then": [8, 9]})
    assert [row[0] for row in answer["logits"]] == [3, 4, 5, 5]


def test_entries_of_the_command_line() -> None:
    assert Entry.parse("llama.cpp Q4_0:llama.cpp=a/q4_0.gguf") == Entry(Q4_0, "llama.cpp", Path("a/q4_0.gguf"))
    assert Entry.parse("genai=a/b").name == "genai b"
    for wrong in ("genai", "genai=", "llama=a", "=a"):
        with pytest.raises(ValueError, match="NAME:KIND=PATH"):
            Entry.parse(wrong)


def test_a_peer_that_cannot_run_is_named_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"no model")
    session = Run(say=lambda _: None)
    session.load(Entry("absent", "genai", tmp_path / "nothing"), Shape(1, 16, 50), {})
    session.load(Entry("broken", "llama.cpp", tmp_path / "model.gguf"), Shape(1, 16, 50), {})
    assert session.not_run["absent"] == "nothing was not made"
    assert set(session.not_run) == {"absent", "broken"}  # for want of the package, or of a model in the file
    assert not session.engines


def test_a_peer_whose_interpreter_dies_is_named(tmp_path: Path) -> None:
    (tmp_path / "peer").mkdir()
    with pytest.raises(PeerError, match="ended with code 1"):
        PeerEngine("a peer", "genai", tmp_path / "peer", Shape(1, 16, 50), "false")


def test_cost_of_a_command(tmp_path: Path) -> None:
    code = "import sys; open(sys.argv[1], 'wb').write(bytes(1000)); print('done')"
    output = tmp_path / "made"
    ballast = bytearray(1 << 28)  # what this process holds is no cost of the command
    cost = run_command([sys.executable, "-c", code, str(output)], output, {}, tmp_path / "log")
    del ballast
    assert cost.written_bytes == 1000
    assert cost.cpu_seconds > 0
    assert 1 << 20 < cost.resident_bytes < 1 << 27
    assert (tmp_path / "log").read_text(encoding="utf-8") == "done\n"


def test_cost_of_a_command_that_fails(tmp_path: Path) -> None:
    code = "print('some progress', flush=True); raise SystemExit('no such model')"
    with pytest.raises(CommandFailed, match=r"^no such model$"):
        run_command([sys.executable, "-c", code], tmp_path / "made", {}, tmp_path / "log")
    with pytest.raises(CommandFailed, match="No such file"):
        run_command([str(tmp_path / "nothing")], tmp_path / "made", {}, tmp_path / "log")
