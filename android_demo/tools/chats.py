"""Vectors of conversations: their text, their ids, and what fits in a cache."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from helium_edge.bundle import ChatSection
from helium_edge.chat import ChatForm, Message, RoleForm, Span
from helium_edge.chat.derive import held_out_conversations
from helium_edge.chat.form import BLANKS, Trim
from helium_edge.errors import CacheFullError
from helium_edge.runtime.fit_conversation import fit_conversation
from helium_edge.runtime.spans import SpanEncoder
from helium_edge.runtime.tokenizer import Tokenizer

TURN_TOKENS = ("<|im_start|>", "<|im_end|>", "[INST]")
SPELLED = (
    "<s>",
    "</s>",
    "<pad>",
    "</",
    "s>",
    "<|im_end|>",
    "<|im_",
    "end|>",
    "[INST]",
    "[/INST]",
    "x",
    "é",
    "\n",
    " ",
)
CHATML = ChatForm(
    prefix="<s>",
    system=RoleForm("<|im_start|>system\n", "<|im_end|>\n"),
    without_system="",
    skip_empty_system=False,
    user=RoleForm("<|im_start|>user\n", "<|im_end|>\n"),
    first_user=None,
    user_after_system=None,
    assistant=RoleForm("<|im_start|>assistant\n", "<|im_end|>\n"),
    generation_prompt="<|im_start|>assistant\n",
)


def texts() -> Iterator[dict[str, Any]]:
    """Conversations in random forms, as the manifest has them."""
    rng = random.Random(12)
    for _ in range(60):
        form = _random_form(rng)
        section = ChatSection.from_form(form, "", (2, 7)).model_dump(mode="json")
        conversations = held_out_conversations(
            with_system=form.system is not None, count=8, seed=rng.randrange(99)
        )
        for messages in (*conversations, _blank_conversation(rng, form.system is not None)):
            yield {"chat": section, "messages": messages, "spans": [list(span) for span in form.spans(messages)]}


def _random_form(rng: random.Random) -> ChatForm:
    pieces = ("", "\n", " ", "[INST] ", " [/INST]", "<|im_start|>", "</s>", "user\n", " \t")

    def text() -> str:
        return "".join(rng.choice(pieces) for _ in range(rng.randint(0, 3)))

    def role() -> RoleForm:
        return RoleForm(text(), text(), rng.choice(get_args(Trim)))

    def maybe() -> RoleForm | None:
        return role() if rng.random() < 0.6 else None

    return ChatForm(text(), maybe(), text(), rng.random() < 0.4, role(), maybe(), maybe(), role(), text())


def _blank_conversation(rng: random.Random, with_system: bool) -> list[Message]:
    """Texts of white space, of all kinds that there are."""

    def blank() -> str:
        return "".join(rng.choices(BLANKS + "\u200b\ufeff\u180e", k=rng.randint(0, 6))) + rng.choice(("", "x "))

    system = [Message(role="system", content=blank())] if with_system else []
    return [*system, Message(role="user", content=blank()), Message(role="assistant", content=blank()),
            Message(role="user", content=blank())]  # fmt: skip


def write_tokenizer(source: Path, folder: Path) -> Path:
    """The tokenizer of helium-tiny with turn tokens, one of them not marked as special."""
    data = json.loads(source.read_text(encoding="utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    data["added_tokens"] += [
        {"id": 4096 + at, "content": text, "special": text != "[INST]", **flags}
        for at, text in enumerate(TURN_TOKENS)
    ]
    path = folder / "chat.json"
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path


def ids(path: Path) -> Iterator[dict[str, Any]]:
    """Ids of spans, some of which spell special tokens where they must not."""
    encoder = SpanEncoder(Tokenizer(path), ["[INST] "], {2})
    rng = random.Random(13)
    for messages in held_out_conversations(with_system=True, count=60, seed=5):
        yield _ids_case(encoder, CHATML.spans(messages))
    for _ in range(400):
        spans = [
            ("".join(rng.choices(SPELLED, k=rng.randint(0, 5))), rng.random() < 0.5)
            for _ in range(rng.randint(1, 6))
        ]
        yield _ids_case(encoder, spans)


def _ids_case(encoder: SpanEncoder, spans: list[Span]) -> dict[str, Any]:
    return {"spans": [list(span) for span in spans], "ids": encoder.encode(spans)}


def fits(path: Path) -> Iterator[dict[str, Any]]:
    """Which messages go for want of room, with what the cache holds."""
    encoder = SpanEncoder(Tokenizer(path))
    rng = random.Random(14)
    for messages in held_out_conversations(with_system=True, count=80, seed=6):
        whole = encoder.encode(CHATML.spans(messages))
        later = encoder.encode(CHATML.spans(messages[-3:] if len(messages) > 3 else messages[-1:]))
        room = rng.randint(8, len(whole) + 4)
        for cached in ([], whole[: rng.randint(0, len(whole))], later[: rng.randint(0, len(later))]):
            try:
                fitted, dropped = fit_conversation(
                    lambda kept: encoder.encode(CHATML.spans(kept)), messages, room, cached
                )
            except CacheFullError:
                fitted, dropped = [], -1
            yield {"messages": messages, "room": room, "cached": cached, "ids": fitted, "dropped": dropped}
