"""`helium-edge chat`: a conversation with an exported bundle in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import _console
from ._generation_options import GenerationOptions, with_generation_options
from ._options import BundleArgument

EPILOG = """\b
In the conversation, /help lists the commands; Ctrl-C ends an answer, Ctrl-D
the conversation. From a pipe each line is a turn, and only the answers go to
stdout.
\b
Examples:
  helium-edge chat my-chat --system "Answer in one sentence." --top-k 40
  echo "How warm is it?" | helium-edge chat my-chat
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command = with_generation_options(chat)
    app.command("chat", short_help="Talk to a bundle of a chat fine-tune.", epilog=EPILOG)(command)


def chat(
    bundle: BundleArgument,
    messages: Annotated[
        Path | None,
        typer.Option("--messages", metavar="FILE", help="Go on with these, as /save wrote.", show_default=False),
    ] = None,
    save_cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="At the end, keep the KV cache for --load-cache.", show_default=False),
    ] = None,
    *,
    options: GenerationOptions,
) -> None:
    """Talk to a bundle; each turn runs only what the cache does not hold already."""
    from helium_edge.conversation import Conversation
    from helium_edge.errors import UsageError

    from ._chat_session import ChatSession

    if options.system is not None and messages is not None:
        raise UsageError("--system and --messages both begin a conversation", hint="give one of the two")
    model = options.open(bundle)
    conversation = Conversation(
        model,
        system=options.system,
        template=options.template,
        parse_special=options.parse_special,
        **options.sampling,
    )
    if messages is not None:
        conversation.load(messages)
    options.fill(model)
    ChatSession(conversation).run()
    if save_cache is not None:
        _console.note(f"note: {save_cache} keeps {model.save_cache(save_cache):,} tokens")
