"""The loop of `helium-edge chat`: lines become turns or commands, answers stream."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from helium_edge.errors import HeliumEdgeError, UsageError, did_you_mean

from . import _console
from ._format import plain
from ._generation_options import STOPPED, forgotten, summary
from ._interrupts import Interrupts

if TYPE_CHECKING:
    from helium_edge.conversation import Conversation

HELP = (
    ("/reset", "start anew; the system message stays"),
    ("/system TEXT", "start anew with this system message, or without one"),
    ("/regenerate", "answer the last turn again"),
    ("/save FILE", "write the conversation as JSON"),
    ("/load FILE", "go on with a conversation that /save wrote"),
    ("/help", "this list"),
    ("/quit", "end; so does Ctrl-D"),
    ("//...", "a turn that begins with a slash"),
)


class ChatSession:
    """A conversation at the terminal, or over a pipe, where each line is a turn.

    Args:
        conversation: What is led.
    """

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._is_live = sys.stdin.isatty() and sys.stdout.isatty()
        self._interrupts = Interrupts()
        self._commands: dict[str, Callable[[str], None]] = {
            "/reset": self._reset,
            "/system": self._system,
            "/regenerate": self._regenerate,
            "/save": self._save,
            "/load": self._load,
            "/help": self._help,
        }

    def run(self) -> None:
        """Read and answer until the input ends.

        Raises:
            HeliumEdgeError: Something went wrong over a pipe; at a terminal the conversation goes on.
        """
        with self._interrupts if self._is_live else nullcontext():
            self._loop()

    def _loop(self) -> None:
        if self._is_live:
            self._greet()
        for line in self._lines():
            if line.strip() in ("/quit", "/exit"):
                return
            try:
                self._take(line)
            except HeliumEdgeError as error:
                if not self._is_live:
                    raise
                _console.failure(error, as_json=False)

    def _take(self, line: str) -> None:
        if not line.strip():
            return
        if not line.startswith("/") or line.startswith("//"):
            text = line[1:] if line.startswith("//") else line
            self._answer(lambda: self._conversation.say(text))
            return
        name, _, rest = line.strip().partition(" ")
        command = self._commands.get(name)
        if command is None:
            raise UsageError(
                f"{plain(name)}: no such command",
                hint=f"{did_you_mean(name, [*self._commands, '/quit'])}; // begins a turn with a slash",
            )
        command(rest.strip())

    def _answer(self, ask: Callable[[], Generator[str, None, None]]) -> None:
        """Stream an answer; Ctrl-C ends it and keeps what came."""
        before = self._conversation.forgotten
        asked: list[Generator[str, None, None]] = []

        def stream() -> None:
            asked.append(ask())
            for piece in asked[0]:
                _console.raw(piece)

        try:
            self._interrupts.run(stream)
        finally:
            for pieces in asked:
                pieces.close()
        _console.raw("\n")
        self._tell(self._conversation.forgotten - before)

    def _tell(self, gone: int) -> None:
        if gone:
            _console.note(forgotten(gone))
        found = self._conversation.last
        if found is None:
            return
        if self._is_live:
            _console.line(summary(found), stderr=True, style="dim")
        elif found.stats.stop_reason in ("length", "cache_full"):
            _console.note(f"note: {STOPPED[found.stats.stop_reason]}, the answer may not be whole")

    # -- commands

    def _reset(self, _: str) -> None:
        self._conversation.reset(self._conversation.system)
        self._say("the conversation begins anew")

    def _system(self, text: str) -> None:
        self._conversation.reset(text or None)
        self._say(f"the conversation begins anew, {'with this' if text else 'without a'} system message")

    def _regenerate(self, _: str) -> None:
        if self._conversation.turns and self._conversation.is_greedy:
            self._say("a greedy answer is always the same; start with --temperature 0.7 for others")
        self._answer(self._conversation.regenerate)

    def _save(self, name: str) -> None:
        self._conversation.save(_path(name, "/save FILE"))
        self._say(f"{len(self._conversation.messages)} messages written to {name}")

    def _load(self, name: str) -> None:
        self._conversation.load(_path(name, "/load FILE"))
        self._say(f"{len(self._conversation.messages)} messages read from {name}")

    def _help(self, _: str) -> None:
        _console.table([], HELP, stderr=True)

    def _say(self, text: str) -> None:
        _console.note(f"note: {text}")

    # -- input

    def _greet(self) -> None:
        manifest = self._conversation.model.manifest
        _console.title(f"{manifest.name}, {manifest.cache_len:,} tokens of context", stderr=True)
        _console.line("/help lists the commands; Ctrl-C ends an answer, Ctrl-D the conversation", stderr=True)

    def _lines(self) -> Iterator[str]:
        if not self._is_live:
            for line in sys.stdin:
                yield line.rstrip("\r\n")
            return
        with_history()
        interrupted = False
        while True:
            lines: list[str] = []
            try:
                self._interrupts.run(lambda: lines.append(input(prompt())))  # noqa: B023 - run at once
            except EOFError:
                _console.raw("\n")
                return
            if lines:
                interrupted = False
                yield lines[0]
                continue
            _console.raw("\n")
            if interrupted:
                raise KeyboardInterrupt
            interrupted = True
            self._say("Ctrl-C again, or Ctrl-D, ends the conversation")


def with_history() -> None:
    """Let `input` edit lines and recall earlier ones of this session, where the system has readline."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return


def prompt() -> str:
    """The prompt, bold where there are colours; the marks tell readline what takes no room."""
    coloured = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return "\001\033[1m\002>\001\033[0m\002 " if coloured and "readline" in sys.modules else "> "


def _path(name: str, usage: str) -> Path:
    if not name:
        raise UsageError(f"a file is missing: {usage}")
    return Path(name).expanduser()
