"""What libraries print stays off the terminal, at every level, and comes back when asked for."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import warnings

import pytest

from helium_edge.runtime.quiet import Noise, quiet


def chatter() -> None:
    warnings.warn("a warning", stacklevel=1)
    logging.getLogger("some.package").warning("a log line")
    os.write(1, b"from C, unbuffered\n")
    os.write(2, b"to stderr from C\n")


def test_everything_is_hidden_and_kept(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(1, b"before\n")
    with quiet() as noise:
        chatter()
    os.write(1, b"after\n")
    found = capfd.readouterr()
    assert found.out == "before\nafter\n"
    assert found.err == ""
    assert noise.text == "from C, unbuffered\nto stderr from C\n"


def test_what_python_prints_is_hidden_and_in_order() -> None:
    """In a process whose streams end in the descriptors, which those of a test do not."""
    script = """
import sys
from helium_edge.runtime.quiet import quiet
sys.stdout.write("before ")
with quiet() as noise:
    sys.stdout.write("hidden")
    sys.stderr.write("hidden, too")
sys.stdout.write(f"after, {noise.text.count('hidden')} hidden")
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (found.stdout, found.stderr) == ("before after, 2 hidden", "")


def test_buffered_output_of_c_does_not_come_late(capfd: pytest.CaptureFixture[str]) -> None:
    library = ctypes.CDLL(None)
    with quiet() as noise:
        library.puts(b"buffered by C")
    library.fflush(None)
    assert capfd.readouterr().out == ""
    assert "buffered by C" in noise.text


def test_descriptors_may_stay_open(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet(descriptors=False):
        warnings.warn("a warning", stacklevel=1)
        logging.getLogger("some.package").warning("a log line")
        os.write(2, b"a progress bar\n")
    assert capfd.readouterr().err == "a progress bar\n"


def test_errors_are_logged_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    with quiet(descriptors=False):
        logging.getLogger("some.package").error("broken")
    assert [record.message for record in caplog.records] == ["broken"]


def test_the_state_comes_back_after_an_exception(capfd: pytest.CaptureFixture[str]) -> None:
    filters, disabled = list(warnings.filters), logging.root.manager.disable
    with pytest.raises(ValueError, match="stop"), quiet():
        raise ValueError("stop")
    assert list(warnings.filters) == filters
    assert logging.root.manager.disable == disabled
    os.write(1, b"visible\n")
    assert capfd.readouterr().out == "visible\n"


def test_debug_shows_everything(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("helium_edge")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        with pytest.warns(UserWarning, match="a warning"), quiet() as noise:
            chatter()
    finally:
        logger.setLevel(level)
    found = capfd.readouterr()
    assert "from C, unbuffered" in found.out
    assert "to stderr from C" in found.err
    assert noise.text == ""


def test_nesting_keeps_each_block_to_itself(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet() as outer:
        os.write(1, b"outside\n")
        with quiet() as inner:
            os.write(1, b"inside\n")
        os.write(1, b"outside again\n")
    assert inner.text == "inside\n"
    assert outer.text == "outside\noutside again\n"
    assert capfd.readouterr().out == ""


def test_the_last_error_of_a_log_is_found() -> None:
    noise = Noise()
    assert noise.last_error() == ""
    noise.text = (
        "[cpuinfo.cpp:1] Reading file x\n[program.cpp:161] Program flatbuffer is invalid: error 3\nlast line\n"
    )
    assert noise.last_error() == "Program flatbuffer is invalid: error 3"
