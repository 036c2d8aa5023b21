from __future__ import annotations

import io
import json
import math
import sys
import time

import pytest
from helium_edge.cli import _console

from tests.unit.cli.commands import Terminal

Capture = pytest.CaptureFixture[str]


def become_terminals(monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, Terminal]:
    """Make stdout and stderr terminals of 80 columns, from inside a test: pytest sets its own when one begins."""
    streams = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return streams


ROWS = [("model.layers.0-23.post_attention_layernorm.weight", "q" * 60, 1), ("b", "[bold]c[/bold]", 22)]


def show_table() -> None:
    _console.table(["name", "text", "size"], ROWS, right=["size"])


def test_a_piped_table_has_80_columns_no_escapes_and_no_trailing_blanks(capsys: Capture) -> None:
    show_table()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() and line.isprintable() for line in lines)
    assert "".join("".join(line.split()) for line in lines).count("q") == 60
    assert "[bold]c[/bold]" in lines[-1]
    assert lines[-1].endswith(" 22")


@pytest.mark.parametrize("columns", [30, 50])
def test_a_narrow_table_breaks_no_figure(capsys: Capture, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    names = ["language", "tokens", "kld", "decided", "PPL"]
    _console.table(names, [("de", "1,520", "0.0371\u00b10.0006", "99.7\u00b10.1%", "\u00d71.01")], right=names[1:])
    words = capsys.readouterr().out.replace(":", "").split()
    assert {"1,520", "0.0371\u00b10.0006", "99.7\u00b10.1%", "\u00d71.01", *names[1:]} <= set(words)


def test_columns_widens_a_piped_table(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    show_table()
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("value", ["", "0", "wide"])
def test_odd_columns_count_as_80(capsys: Capture, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("COLUMNS", value)
    show_table()
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_long_line_is_never_broken_in_a_pipe(capsys: Capture) -> None:
    _console.line("word " * 100)
    assert capsys.readouterr().out == "word " * 100 + "\n"


def test_a_label_has_colour_on_a_terminal_unless_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = become_terminals(monkeypatch)[1]
    _console.line_with_label("error", "x", "bold red")
    assert stderr.getvalue() == "\x1b[1;31merror: \x1b[0mx\n"
    monkeypatch.setenv("NO_COLOR", "1")
    stderr = become_terminals(monkeypatch)[1]
    _console.line_with_label("error", "x", "bold red")
    assert "error: " in stderr.getvalue()
    assert "31m" not in stderr.getvalue()


def test_model_text_is_unchanged_in_a_pipe_and_harmless_on_a_terminal(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _console.raw("a\x1b[2J\n b")
    assert capsys.readouterr().out == "a\x1b[2J\n b"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    _console.raw("a\x1b[2J\n b")
    assert terminal.getvalue() == "a\ufffd[2J\n b"


def test_a_document_is_json_whatever_the_figures(capsys: Capture) -> None:
    _console.document({"a": math.nan, "b": [math.inf, 1.5], "c": ("é",), 4: None})
    text = capsys.readouterr().out
    assert "é" in text
    assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": ["é"], "4": None}


def test_a_document_is_json_whatever_the_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace"))
    _console.document({"a": "🙂é\udcff"})
    sys.stdout.flush()
    assert json.loads(raw.getvalue().decode("ascii")) == {"a": "🙂é\udcff"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a test moves it."""
    now = [100.0]
    monkeypatch.setattr(_console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(_console, "resident_bytes", lambda: 412_000_000)
    monkeypatch.setattr(_console, "WATCH_SECONDS", 3600.0)
    return now


def test_piped_progress_is_a_line_a_stage_and_one_every_ten_seconds(capsys: Capture, clock: list[float]) -> None:
    with _console.progress() as progress:
        progress.stage("read checkpoint")
        clock[0] += 0.25
        progress.stage("quantize", 4, "weights")
        for seconds in (1, 8, 3, 1):
            clock[0] += seconds
            progress.advance(note="model.layers.0.mlp.up_proj.weight")
        progress.stage("write", 3_000_000, "bytes")
        clock[0] += 20
        progress.advance(1_500_000)
        clock[0] += 70
        progress.advance(1_500_000)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "read checkpoint: 250 ms, memory 412 MB",
        "quantize: 3 of 4 weights, 4.0 s left, memory 412 MB",
        "quantize: 4 weights, 13.0 s, memory 412 MB",
        "write: 1.50 MB of 3.00 MB, 20.0 s left, memory 412 MB",
        "write: 3.00 MB of 3.00 MB, 1 min 30 s, memory 412 MB",
    ]


def test_a_stage_that_counts_nothing_is_heard_of(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_console, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(_console, "WATCH_SECONDS", 0.01)
    with _console.progress() as progress:
        progress.stage("import")
        heard = ""
        while "so far" not in heard:  # ends only if another thread speaks
            heard += capsys.readouterr().err
            time.sleep(0.01)
    assert heard.startswith("import: ")


def test_progress_does_not_call_a_failed_stage_done(capsys: Capture, clock: list[float]) -> None:
    def work() -> None:
        with _console.progress() as progress:
            progress.stage("quantize", 4, "weights")
            progress.advance()
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert capsys.readouterr().err == ""


def test_live_progress_leaves_a_line_a_stage(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    stdout, stderr = become_terminals(monkeypatch)
    with _console.progress() as progress:
        progress.stage("[read] checkpoint")
        progress.stage("quantize", 2, "weights")
        progress.advance(note="model.layers.0.[/x]")
        clock[0] += 1
        progress.advance(note="model.layers.1.mlp")
    err = stderr.getvalue()
    assert stdout.getvalue() == ""
    assert "[read] checkpoint: 0 ms, memory 412 MB\n" in err
    assert "quantize: 2 weights, 1.0 s, memory 412 MB\n" in err
    assert "quantize" in err.partition("quantize: 2 weights")[0]


def test_resident_memory_is_that_of_this_process() -> None:
    assert 10_000_000 < _console.resident_bytes() < 100_000_000_000
