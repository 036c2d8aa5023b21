"""Ctrl-C at a terminal: it ends an answer, whenever it comes, and twice at the prompt the session."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helium_edge.cli._interrupts import Interrupts
from helium_edge.cli._termination import Terminated

from tests.helpers.chat_bundles import chat_bundle, chat_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")

ROOT = Path(__file__).parents[3]

# A session whose conversation interrupts itself at one moment of its first answer, as a key does.
SCRIPT = """
import os, signal, sys
from types import SimpleNamespace
from helium_edge.cli._chat_session import ChatSession

moment, number = sys.argv[1], getattr(signal, sys.argv[2])
left = [moment]

def at(name):
    if left == [name]:
        left.clear()
        os.kill(os.getpid(), number)
        for _ in range(100): int()  # where the handler runs

class Pieces:
    def __init__(self): self.rest = ["two ", "one "]
    def __iter__(self): return self
    def __next__(self):
        at("before a piece" if len(self.rest) == 2 else "between pieces" if self.rest else "at the end")
        if not self.rest: raise StopIteration
        return self.rest.pop()
    def close(self): at("closing")

class Talk:
    model = SimpleNamespace(manifest=SimpleNamespace(name="fake", cache_len=8))
    def say(self, text):
        at("asking")
        return Pieces()
    @property
    def forgotten(self):
        at("counting")
        return 0
    @property
    def last(self):
        at("telling")
    def reset(self, system): at("in a command")
    system = None

ChatSession(Talk()).run()
print("ended well")
"""
MOMENTS = (
    "asking", "before a piece", "between pieces", "at the end", "closing", "counting", "telling", "in a command",
)  # fmt: skip

# Without a terminal of its own a process gets no SIGINT from the key.
AT_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable,"
    " [sys.executable, *sys.argv[1:]])"
)


class Terminal:
    """A command at a pseudo-terminal."""

    def __init__(self, *words: str) -> None:
        import pty

        self._parent, child = pty.openpty()
        environment = os.environ | {"COLUMNS": "80", "TERM": "dumb"}
        streams: Any = {"stdin": child, "stdout": child, "stderr": child}
        self.process = subprocess.Popen(
            [sys.executable, "-c", AT_TERMINAL, *words],
            **streams,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )
        os.close(child)
        self.seen = ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._parent, text.encode())

    def wait_for(self, expected: str, seconds: float = 60) -> str:
        """What is written until this comes; it is not looked at again."""
        end = time.monotonic() + seconds
        while expected not in self.seen:
            assert time.monotonic() < end, (expected, self.seen)
            if select.select([self._parent], [], [], 0.1)[0]:
                self.seen += os.read(self._parent, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(expected)
        return before

    def at_prompt(self) -> str:
        """What is written until the prompt; readline misses a signal that comes just before it waits for keys."""
        before = self.wait_for("> ")
        time.sleep(0.05)
        return before

    def drain(self, seconds: float = 30) -> int | None:
        """Read until the process ends, and return its exit code."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self._parent], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._parent, 4096).decode(errors="replace")
                except OSError:  # the other end is closed
                    break
        return self.process.wait(max(0.1, end - time.monotonic()))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._parent)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for each in opened:
        each.close()


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_any_moment_of_an_answer_keeps_the_session(moment: str, terminals: list[Terminal]) -> None:
    terminal = Terminal("-c", SCRIPT, moment, "SIGINT")
    terminals.append(terminal)
    terminal.wait_for("> ")
    terminal.type("/reset\n" if moment == "in a command" else "Hello\n")
    terminal.wait_for("> ")
    terminal.type("again\n")
    terminal.wait_for("one two")
    terminal.wait_for("> ")
    terminal.type("/quit\n")
    terminal.wait_for("ended well")
    assert terminal.drain() == 0


def test_sigterm_in_an_answer_ends_the_session(terminals: list[Terminal]) -> None:
    terminal = Terminal("-c", SCRIPT, "between pieces", "SIGTERM")
    terminals.append(terminal)
    terminal.wait_for("> ")
    terminal.type("Hello\n")
    assert terminal.drain() != 0
    assert "ended well" not in terminal.seen


def test_a_key_at_any_time_of_a_real_answer(
    tmp_path_factory: pytest.TempPathFactory, terminals: list[Terminal]
) -> None:
    folder = tmp_path_factory.mktemp("interrupts")
    bundle = chat_bundle(chat_checkpoint(folder / "helium-tiny-chat"), "onnx-int4", folder / "bundle")
    terminal = Terminal("-m", "helium_edge", "chat", str(bundle), "--max-new-tokens", "60")
    terminals.append(terminal)
    terminal.at_prompt()
    rng = random.Random(0)
    for _ in range(8):
        terminal.type("Hello\n")
        terminal.wait_for("Hello\r\n")
        time.sleep(rng.choice((0, 0.002, 0.01, 0.03, 0.06, 0.1)))
        terminal.type("\x03")  # the key itself: the terminal sends SIGINT to the whole group
        shown = terminal.at_prompt()
        # It came behind the answer where the prompt was there already: then it is one at the prompt.
        if "^C" not in shown:
            terminal.wait_for("ends the conversation")
            terminal.at_prompt()
        terminal.type("/nonsense\n")
        terminal.wait_for("no such command")
        terminal.at_prompt()
    terminal.type("\x03")
    terminal.wait_for("Ctrl-C again, or Ctrl-D, ends the conversation")
    terminal.at_prompt()
    terminal.type("\x03")
    assert terminal.drain() == 130


def test_outside_what_runs_it_is_let_go_and_sigterm_is_not() -> None:
    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

    def terminate() -> None:
        raise Terminated

    interrupts = Interrupts()
    with interrupts:
        press()
        assert not interrupts.run(press)
        assert interrupts.run(int)  # the next one is not ended by the one before
        press()
        with pytest.raises(Terminated):
            interrupts.run(terminate)
    with pytest.raises(KeyboardInterrupt):
        interrupts.run(press)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
