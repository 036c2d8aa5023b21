"""`helium-edge generate`: continue a text with an exported bundle, or answer a conversation."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _console
from ._generation_options import GenerationOptions, forgotten, summary, with_generation_options
from ._options import BundleArgument, JsonOption, revision_words

if TYPE_CHECKING:
    from helium_edge.chat import Message
    from helium_edge.runtime.text_generation import Generation

EPILOG = """\b
Examples:
  helium-edge generate tiny "Les modèles" --max-new-tokens 40
  helium-edge generate tiny "Edge AI" --temperature 0.7 --top-k 50 --seed 1
  helium-edge generate my-chat --chat "How warm is it?" --system "Be brief."
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command = with_generation_options(generate)
    app.command("generate", short_help="Continue a text with a bundle.", epilog=EPILOG)(command)


def generate(
    bundle: BundleArgument,
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="The text to continue.", show_default=False)
    ] = None,
    chat: Annotated[
        str | None, typer.Option("--chat", metavar="TEXT", help="Answer this instead.", show_default=False)
    ] = None,
    messages: Annotated[
        Path | None,
        typer.Option("--messages", metavar="FILE", help="JSON messages in front of --chat.", show_default=False),
    ] = None,
    save_cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the KV cache of the prompt for --load-cache.", show_default=False),
    ] = None,
    *,
    options: GenerationOptions,
    as_json: JsonOption = False,
) -> None:
    """Continue a text and stream what is generated; figures go to stderr.

    With --chat or --messages, answer a conversation by the bundle's chat template.
    """
    asked = _messages(prompt, chat, options, messages)
    model = options.open(bundle)
    options.fill(model)
    if asked:
        found = model.stream_chat(
            asked, template=options.template, parse_special=options.parse_special, **options.sampling
        )
    else:
        found = model.stream(prompt or "", reuse=options.load_cache is not None, **options.sampling)
    _notes(found, options, useless_parse=options.parse_special and not asked)
    text = _stream("" if asked else prompt or "", found, silent=as_json)
    if save_cache is not None:
        saved = model.save_cache(save_cache, tokens=len(found.prompt_ids))
        _console.note(f"note: {save_cache} keeps {saved:,} tokens")
    if as_json:
        texts = {"bundle": str(bundle), **({"messages": asked} if asked else {"prompt": prompt}), "text": text}
        _console.document(_document(texts, found))
    _console.note(summary(found))
    following = "chat" if asked and model.manifest.chat is not None else "parity"
    _console.next_step(following, bundle, *revision_words(options.revision))


def _messages(
    prompt: str | None, chat: str | None, options: GenerationOptions, messages: Path | None
) -> list[Message]:
    """The conversation to answer; empty where a text is to be continued."""
    from helium_edge.chat import check_messages
    from helium_edge.conversation import read_messages
    from helium_edge.errors import UsageError

    if chat is None and messages is None:
        if prompt is None:
            raise UsageError("nothing to do: give a PROMPT to continue, or --chat TEXT to answer")
        for name, value in (("--system", options.system), ("--template", options.template)):
            if value is not None:
                raise UsageError(f"{name} is for conversations", hint="use --chat TEXT instead of a PROMPT")
        return []
    if prompt is not None:
        raise UsageError("a PROMPT is continued, --chat and --messages are answered", hint="give one of the two")
    found: list[Any] = list(read_messages(messages)) if messages is not None else []
    if options.system is not None:
        kept = found[1:] if found and found[0]["role"] == "system" else found
        found = [{"role": "system", "content": options.system}, *kept]
    if chat is not None:
        found.append({"role": "user", "content": chat})
    return check_messages(found, str(messages) if messages is not None else "messages")


def _notes(found: Generation, options: GenerationOptions, *, useless_parse: bool) -> None:
    shaping = options.top_k is not None or options.top_p is not None
    if found.options.temperature == 0 and shaping:
        _console.note("note: --top-k and --top-p have no effect without a temperature, such as --temperature 0.7")
    if useless_parse:
        _console.note("note: --parse-special has no effect on a PROMPT, which may always spell special tokens")
    if found.dropped_messages:
        _console.note(forgotten(found.dropped_messages))


def _stream(prompt: str, found: Generation, *, silent: bool) -> str:
    """Write pieces as they come, the prompt with the first, so that an error stands alone; return the text."""
    pieces: list[str] = []
    for piece in found:
        if not silent:
            _console.raw(piece if pieces else prompt + piece)
        pieces.append(piece)
    if not silent:
        _console.raw("\n" if pieces else f"{prompt}\n")
    return "".join(pieces)


def _document(texts: dict[str, Any], found: Generation) -> dict[str, Any]:
    stats = found.stats
    figures = {
        **asdict(stats),
        "prefill_tokens_per_second": stats.prefill_tokens_per_second,
        "decode_tokens_per_second": stats.decode_tokens_per_second,
        "reused_tokens": found.reused_tokens,
        "dropped_messages": found.dropped_messages,
        "lookahead": None
        if found.ahead is None
        else {"calls": found.ahead.calls, "guessed": found.ahead.guessed, "accepted": found.ahead.accepted},
    }
    tokens = {"prompt_ids": found.prompt_ids, "ids": found.ids}
    return {**texts, **tokens, "sampling": asdict(found.options), "stats": figures}
