"""Renders a chat template; run as a process of its own, because a template is a program that somebody else wrote.

It may loop for ever or fill the memory, also inside one operation, where nothing in the same process can stop it.
Reads one JSON document from stdin and writes one to stdout; `helium_edge.chat.template` is the other end. Stands
alone: it imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import datetime
from typing import Any


def main() -> None:
    """Answer one document."""
    task = json.load(sys.stdin)
    sys.path[:] = task["path"]
    json.dump(answer(task), sys.stdout)


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Texts of all requests, or why there is none.

    Args:
        task: `template`, `variables` that it sees, `requests` (`messages`, `add_generation_prompt`, `now`), and
            limits: `characters` of a text, `memory` in bytes and `seconds`.

    Returns:
        `results`, for each request a `text` or an `error`; or `fault` where the template itself is none.
    """
    import jinja2

    limit(task["memory"], task["seconds"])
    now = datetime.fromtimestamp(0)
    try:
        template = environment(lambda form: now.strftime(form)).from_string(task["template"])
    except (jinja2.TemplateError, RecursionError) as error:
        return {"fault": one_line(error)}
    results = []
    for request in task["requests"]:
        now = datetime.fromisoformat(request["now"]) if request.get("now") else datetime.now()
        values = {**task["variables"], "messages": request["messages"]}
        values |= {"add_generation_prompt": request["add_generation_prompt"], "tools": None, "documents": None}
        try:
            results.append({"text": render(template, values, task["characters"])})
        except MemoryError:
            results.append({"error": "it needs too much memory"})
        # A template may raise anything that Python can, as a division by zero.
        except Exception as error:
            results.append({"error": one_line(error)})
    return {"results": results}


def render(template: Any, values: dict[str, Any], characters: int) -> str:
    """The text, or an error as soon as it is too long."""
    pieces: list[str] = []
    length = 0
    for piece in template.generate(**values):
        pieces.append(piece)
        length += len(piece)
        if length > characters:
            raise ValueError(f"it writes more than {characters} characters")
    return "".join(pieces)


def environment(strftime_now: Any) -> Any:
    """Jinja as transformers sets it up for chat templates."""
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what the model wrote, for training; here it is what it holds."""

        tags = {"generation"}  # noqa: RUF012 - as the base class declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
               sort_keys: bool = False) -> str:  # fmt: skip
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    sandbox.filters["tojson"] = tojson
    sandbox.globals["raise_exception"] = raise_exception
    sandbox.globals["strftime_now"] = strftime_now
    return sandbox


def limit(memory: int, seconds: int) -> None:
    """Bound what this process may take, where the system can."""
    try:
        import resource
    except ImportError:  # Windows: the other end still ends it in time
        return
    for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds)):
        with contextlib.suppress(OSError, ValueError):  # macOS has no bound of the address space
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def one_line(error: BaseException) -> str:
    """The first line of a message, cut to what a terminal shows."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


if __name__ == "__main__":
    main()
