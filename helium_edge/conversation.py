"""`Conversation`: turns with a model, kept from one to the next."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

from typing_extensions import Unpack

from helium_edge import durable
from helium_edge.chat import Message, check_messages, parse_messages
from helium_edge.chat.messages import MAX_MESSAGES_BYTES
from helium_edge.documents import DocumentError, read_document
from helium_edge.errors import InputError, UsageError
from helium_edge.language_model import LanguageModel, Sampling, sampling_options
from helium_edge.runtime.text_generation import Generation


class Conversation:
    """A conversation: what was said, and the next answer.

    When the cache is full the oldest turns go; the system message stays.

    Args:
        model: Answers; its bundle must have a chat template.
        system: The system message; None is none.
        template: Which of the bundle's chat templates; None is the one called `default`.
        parse_special: Whether text that spells a special token becomes one.
        **sampling: Of all answers; see `Sampling`. Each answer draws with a seed of its own, from the given on.

    Attributes:
        messages: What was said and is remembered.
        forgotten: Messages that went because the cache is full.
        last: The last answer's generation; None before the first.

    Raises:
        BundleError: The bundle has no chat template.
        UsageError: It has none of this name.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        system: str | None = None,
        template: str | None = None,
        parse_special: bool = False,
        **sampling: Unpack[Sampling],
    ) -> None:
        self.model = model
        self.messages: list[Message] = []
        self.forgotten = 0
        self.last: Generation | None = None
        self._template = template
        self._parse_special = parse_special
        self._sampling = sampling
        self._seed = sampling.get("seed", 0)
        model.conversations(template)  # refuses a bundle without it
        self.reset(system)

    @property
    def system(self) -> str | None:
        """The system message."""
        first = self.messages[0] if self.messages else None
        return first["content"] if first is not None and first["role"] == "system" else None

    @property
    def turns(self) -> int:
        """Answers that are remembered."""
        return sum(message["role"] == "assistant" for message in self.messages)

    @property
    def is_greedy(self) -> bool:
        """Whether each answer is the likeliest one, so that it is the same when it is given again."""
        return sampling_options(self.model.manifest.generation, self._sampling).temperature == 0

    def reset(self, system: str | None = None) -> None:
        """Start anew, with this system message or none."""
        self.messages = [] if system is None else [Message(role="system", content=system)]
        self.forgotten = 0
        self.last = None

    def say(self, text: str) -> Generator[str, None, None]:
        """Add a turn of the user and answer it, piece by piece.

        Work is done as the pieces are taken. An answer that is ended early is remembered as far as it came;
        one that has not begun is not, nor is its question.

        Raises:
            UsageError: The template refuses the conversation, or the text is no valid Unicode.
            CacheFullError: Not even the last turn fits.
        """
        return self._answer([*self.messages, Message(role="user", content=text)])

    def _answer(self, asked: list[Message]) -> Generator[str, None, None]:
        sampling: Sampling = {**self._sampling, "seed": self._seed}
        found = self.model.stream_chat(
            asked, template=self._template, parse_special=self._parse_special, **sampling
        )
        self._seed = (self._seed + 1) % (1 << 64)
        return self._remember(asked, found)

    def regenerate(self) -> Generator[str, None, None]:
        """Answer the last turn of the user again; draws are others, a greedy answer is the same.

        Raises:
            UsageError: There is no answer yet, or as of `say`.
        """
        if len(self.messages) < 2 or self.messages[-1]["role"] != "assistant":
            raise UsageError("there is no answer yet that could be given again")
        return self._answer(self.messages[:-1])

    def _remember(self, asked: list[Message], found: Generation) -> Generator[str, None, None]:
        head = 1 if asked[0]["role"] == "system" else 0
        kept = [*asked[:head], *asked[head + found.dropped_messages :]]
        answer = Message(role="assistant", content="")
        messages, forgotten = [*kept, answer], self.forgotten + found.dropped_messages
        self.last = found
        # Kept before each piece is given, so that an interrupt may come at any time.
        for piece in found:
            answer["content"] += piece
            self.messages, self.forgotten = messages, forgotten
            yield piece
        self.messages, self.forgotten = messages, forgotten

    def save(self, path: Path) -> None:
        """Write the messages to a JSON file, a list of objects with role and content.

        Raises:
            UsageError: It cannot be written.
        """
        text = json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n"
        try:
            durable.replace_file(path, text.encode("utf-8", "surrogatepass"))
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}") from error

    def load(self, path: Path) -> None:
        """Take the messages of a file that `save` wrote; a file that is refused changes nothing.

        Raises:
            InputError: The file cannot be read.
            UsageError: It holds no such conversation.
        """
        found = read_messages(path)
        if found and found[-1]["role"] == "user":
            raise UsageError(f"{path}: the last message awaits an answer", hint="`generate --messages` answers it")
        self.reset()
        self.messages = found


def read_messages(path: Path) -> list[Message]:
    """Read a JSON file of messages: a system message or none, then user and assistant in turn.

    Raises:
        InputError: The file cannot be read.
        UsageError: It holds no such conversation.
    """
    try:
        data = read_document(path, MAX_MESSAGES_BYTES)
    except OSError as error:
        raise InputError(f"{path}: not readable: {error.strerror}") from error
    except DocumentError as error:
        raise InputError(f"{path}: {error}") from error
    found = parse_messages(data, str(path))
    # Complete it with a question where it ends with an answer, so that one rule serves both.
    asked = found and found[-1].get("role") != "user"
    whole = [*found, {"role": "user", "content": ""}] if asked else found
    checked = check_messages(whole, str(path)) if whole else []
    return checked[:-1] if asked else checked
