"""From a chat template to its data form: found with probe conversations, checked on others.

Marks stand in for the texts of turns, and what the template writes around them is cut apart. Whether turns are
trimmed is found with blanks around a mark, with a blank text and with an empty one. Nothing is believed before
random conversations, which the derivation never saw, read the same in both forms.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from helium_edge.chat.form import ChatForm, RoleForm, Trim
from helium_edge.chat.messages import Message, RoleName
from helium_edge.chat.template import ChatTemplate, Request, TemplateError

HELD_OUT = 240
"""Random conversations that the form is checked on."""

_DATES = (datetime(2001, 2, 3, 4, 5, 6), datetime(2029, 11, 30, 22, 58, 59))
_S, _U, _A, _V, _B, _W = (f"zq{word}qz" for word in ("System", "First", "Answer", "Second", "Reply", "Third"))
_PROBES: dict[str, Callable[[str], str]] = {
    "padded": lambda mark: f" \n\t{mark} \u2003\n", "blank": lambda _: " \n", "empty": lambda _: "",
}  # fmt: skip
_VARIANTS = ("system", "user", "first_user", "user_after_system", "assistant")


@dataclass(frozen=True)
class Derived:
    """What came of it.

    Args:
        form: The data form; None where the template cannot be said so.
        reason: Why there is none, or why it takes no system message; empty otherwise.
    """

    form: ChatForm | None
    reason: str = ""


class _NotDeclarativeError(Exception):
    """The template does what the data form cannot say; the message completes `because`."""


def derive(template: ChatTemplate) -> Derived:
    """Find the data form of a template, or the reason why there is none.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        texts = _Texts(template, _probes())
        form = _cut(texts)
        form, reason = _with_system(form, texts)
        form = _with_trims(form, texts)
        _verify(template, form)
    except (_NotDeclarativeError, TemplateError) as error:
        return Derived(None, str(error))
    return Derived(form, reason)


def conversation(*texts: str, system: str | None = None) -> list[Message]:
    """Messages of these texts: the user's, an answer, the user's, and so on."""
    roles: tuple[RoleName, RoleName] = ("user", "assistant")
    turns = [Message(role=roles[index % 2], content=text) for index, text in enumerate(texts)]
    return turns if system is None else [Message(role="system", content=system), *turns]


class _Texts:
    """What a template makes of the probes, by name."""

    def __init__(self, template: ChatTemplate, probes: Mapping[str, Request]) -> None:
        self.probes = probes
        self._found = dict(zip(probes, template.render_all(list(probes.values())), strict=True))

    def __getitem__(self, name: str) -> str:
        found = self._found[name]
        if isinstance(found, TemplateError):
            raise _NotDeclarativeError(f"it refuses a conversation of user and assistant in turn: {found}")
        return found

    def get(self, name: str) -> str | None:
        """The text, or None where the template refuses the probe."""
        found = self._found[name]
        return None if isinstance(found, TemplateError) else found

    def error(self, name: str) -> str:
        """Why the template refuses a probe."""
        return str(self._found[name])


def _probes() -> dict[str, Request]:
    first, later = _DATES
    probes = {
        "u": Request(conversation(_U), now=first),
        "u later": Request(conversation(_U), now=later),
        "u open": Request(conversation(_U), add_generation_prompt=False, now=first),
        "ua open": Request(conversation(_U, _A), add_generation_prompt=False, now=first),
        "uau": Request(conversation(_U, _A, _V), now=first),
        "uauau": Request(conversation(_U, _A, _V, _B, _W), now=first),
        "su": Request(conversation(_U, system=_S), now=first),
        "suau": Request(conversation(_U, _A, _V, system=_S), now=first),
        "empty system": Request(conversation(_U, system=""), now=first),
    }
    for variant in _VARIANTS:
        for kind, make in _PROBES.items():
            probes[f"{variant} {kind}"] = Request(_variant(variant, make), now=first)
    return probes


def _variant(variant: str, make: Callable[[str], str]) -> list[Message]:
    """A conversation in which the turn of one variant has another text."""
    if variant == "system":
        return conversation(_U, system=make(_S))
    if variant == "user_after_system":
        return conversation(make(_U), system=_S)
    if variant == "first_user":
        return conversation(make(_U))
    if variant == "assistant":
        return conversation(_U, make(_A), _V)
    return conversation(_U, _A, make(_V), _B, _W)


def _cut(texts: _Texts) -> ChatForm:
    """The form of conversations without a system message."""
    if texts["u"] != texts["u later"]:
        raise _NotDeclarativeError("it writes the date")
    head, end = _around(texts["u"], _U)
    first, to_answer, to_user, last = _around(texts["uau"], _U, _A, _V)
    parts = _around(texts["uauau"], _U, _A, _V, _B, _W)
    if first != head or last != end or parts != (head, to_answer, to_user, to_answer, to_user, end):
        raise _NotDeclarativeError("what stands around a turn depends on the turns before or after it")
    # Where one turn ends and the next begins only shows without a generation prompt; the sum is what counts.
    after_user = _end_of(texts.get("u open"), (_U,), to_answer)
    if not end.startswith(after_user):
        after_user = ""
    after_answer = _end_of(texts.get("ua open"), (_U, _A), to_user)
    before_user = to_user[len(after_answer) :]
    first_user = None
    prefix = head
    if before_user and head.endswith(before_user):
        prefix = head[: len(head) - len(before_user)]
    elif before_user:
        first_user = RoleForm("", after_user)
    return ChatForm(
        prefix=prefix,
        system=None,
        without_system="",
        skip_empty_system=False,
        user=RoleForm(before_user, after_user),
        first_user=first_user,
        user_after_system=None,
        assistant=RoleForm(to_answer[len(after_user) :], after_answer),
        generation_prompt=end[len(after_user) :],
    )


def _end_of(text: str | None, marks: tuple[str, ...], until: str) -> str:
    """What stands behind the last mark of a conversation that is left open, where `until` begins with it."""
    try:
        end = "" if text is None else _around(text, *marks)[-1]
    except _NotDeclarativeError:
        return ""
    return end if until.startswith(end) else ""


def _with_system(form: ChatForm, texts: _Texts) -> tuple[ChatForm, str]:
    """The form with a system message, or why there is none."""
    text, longer = texts.get("su"), texts.get("suau")
    if text is None or longer is None:
        return form, f"it refuses a system message: {texts.error('su' if text is None else 'suau')}"
    try:
        head, to_user, end = _around(text, _S, _U)
        around = _around(longer, _S, _U, _A, _V)
        user, answer = form.user, form.assistant
        expected = (head, to_user, user.after + answer.before, answer.after + user.before, user.after)
        if end != user.after + form.generation_prompt or around != (*expected[:-1], end):
            return form, "what a system message does to the turns behind it cannot be said as data"
    except _NotDeclarativeError:
        return form, "a system message does not stand once, in front of the turns"
    plain_head = form.prefix + (form.first_user or user).before
    before_user = user.before if to_user.endswith(user.before) and plain_head.endswith(user.before) else ""
    between = plain_head[: len(plain_head) - len(before_user)]
    prefix = between if head.startswith(between) else ""
    rest = between[len(prefix) :]
    # A first turn of the user that begins as no other one does: where there is no system message, and behind one.
    own_first = None if rest == "" and before_user == user.before else RoleForm(before_user, user.after)
    after_system = None if before_user == user.before else RoleForm(before_user, user.after)
    if form.first_user is None and not before_user:
        own_first = None
        prefix = form.prefix if head.startswith(form.prefix) else ""
        rest = form.prefix[len(prefix) :]
    system = RoleForm(head[len(prefix) :], to_user[: len(to_user) - len(before_user)])
    return dataclasses.replace(
        form,
        prefix=prefix,
        system=system,
        without_system=rest,
        skip_empty_system=texts.get("empty system") == texts["u"],
        first_user=own_first,
        user_after_system=after_system,
    ), ""


def _with_trims(form: ChatForm, texts: _Texts) -> ChatForm:
    """The form with what is trimmed of each kind of turn."""
    for variant in ("user", "first_user", "user_after_system", "assistant", "system"):
        if form.system is None and variant in ("system", "user_after_system"):
            continue
        form = _with_trim(form, variant, texts)
    for variant in ("first_user", "user_after_system"):
        if getattr(form, variant) == form.user:
            form = _with_role(form, variant, None)
    return form


def _with_role(form: ChatForm, variant: str, role: RoleForm | None) -> ChatForm:
    changes: dict[str, Any] = {variant: role}
    return dataclasses.replace(form, **changes)


def _with_trim(form: ChatForm, variant: str, texts: _Texts) -> ChatForm:
    role: RoleForm = getattr(form, variant) or form.user
    names = [f"{variant} {kind}" for kind in _PROBES]
    if variant == "system" and form.skip_empty_system:
        names.remove("system empty")
    for trim in get_args(Trim):
        own = getattr(form, variant) is None and trim == form.user.trim
        changed = form if own else _with_role(form, variant, dataclasses.replace(role, trim=trim))
        if all(changed.text(list(texts.probes[name].messages)) == texts.get(name) for name in names):
            return changed
    named = variant.replace("_", " ")
    raise _NotDeclarativeError(f"it changes the text of a turn ({named}) by more than trimming it")


def _verify(template: ChatTemplate, form: ChatForm) -> None:
    held_out = list(held_out_conversations(with_system=form.system is not None))
    requests = [Request(messages, now=_DATES[index % 2]) for index, messages in enumerate(held_out)]
    for index, (messages, found) in enumerate(zip(held_out, template.render_all(requests), strict=True)):
        where = f"conversation {index + 1} of {len(held_out)} that it was tried on"
        if isinstance(found, TemplateError):
            raise _NotDeclarativeError(f"it refuses {where}: {found}")
        said = form.text(messages)
        if said != found:
            at = len(_common_start(said, found))
            raise _NotDeclarativeError(f"{where} reads otherwise from character {at} on, by the text of its turns")


def held_out_conversations(*, with_system: bool, count: int = HELD_OUT, seed: int = 7) -> Iterator[list[Message]]:
    """Random conversations of 1 to 6 turns of the user, with texts that templates trip over."""
    rng = random.Random(seed)
    for index in range(count):
        turns = 2 * rng.randint(1, 6) - 1
        system = _random_text(rng) if with_system and index % 2 else None
        yield conversation(*(_random_text(rng) for _ in range(turns)), system=system)


def _random_text(rng: random.Random) -> str:
    pieces = rng.sample(_PIECES, rng.choice((0, 1, 1, 1, 2, 4)))
    return rng.choice(("", " ", "\n")).join(pieces)


_PIECES = (
    "Hello", "How warm is it?", "Les modèles", "Größe: 12 µm", "così", "não é", "¿qué?", "日本語",
    "\U0001f44d\U0001f3fd", "e\u0301", "\u05e9\u05dc\u05d5\u05dd", " ", "\n", "\t", "\u00a0", "\u2003", "\u200b",
    "\r\n", "\x85", "{{ 7 * 7 }}", "{% raw %}", "'\"", "\\n", "<b>&amp;</b>", "[INST]", "[/INST]",
    "<think>so</think>", "</think>\n\nthen", "<|x|>", "### User:", "user", "system", "0", "None", "true",
    "```python\nx = 1\n```", "a  b", "...", "\ufeff", "\ufffd",
)  # fmt: skip


def _around(text: str, *marks: str) -> tuple[str, ...]:
    """What stands before, between and after marks, each of which must come once, in this order.

    Raises:
        _NotDeclarativeError: They do not.
    """
    parts: list[str] = []
    for mark in marks:
        if text.count(mark) != 1:
            what = "it writes it more than once" if mark in text else "it leaves it out, changes it or moves it"
            raise _NotDeclarativeError(f"the text of a turn is not where it was: {what}")
        before, _, text = text.partition(mark)
        parts.append(before)
    return (*parts, text)


def _common_start(first: str, second: str) -> str:
    pairs = zip(first, second, strict=False)
    length = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
    return first[:length]
