"""`helium-edge chat`: a conversation with an exported bundle in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import _console
from ._generation_options import (
    LoadCacheOption,
    MaxNewTokensOption,
    MinPOption,
    NoRepeatOption,
    ParseSpecialOption,
    RepetitionPenaltyOption,
    SeedOption,
    StopOption,
    SystemOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
)
from ._options import BundleArgument, StaticOption, ThreadsOption, UnverifiedOption

if TYPE_CHECKING:
    from helium_edge.language_model import Sampling

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
    app.command("chat", short_help="Talk to a bundle of a chat fine-tune.", epilog=EPILOG)(chat)


def chat(
    bundle: BundleArgument,
    system: SystemOption = None,
    messages: Annotated[
        Path | None,
        typer.Option("--messages", metavar="FILE", help="Go on with these, as /save wrote.", show_default=False),
    ] = None,
    max_new_tokens: MaxNewTokensOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    repetition_penalty: RepetitionPenaltyOption = None,
    no_repeat_ngram_size: NoRepeatOption = None,
    stop: StopOption = None,
    seed: SeedOption = 0,
    parse_special: ParseSpecialOption = False,
    save_cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="At the end, keep the KV cache for --load-cache.", show_default=False),
    ] = None,
    load_cache: LoadCacheOption = None,
    threads: ThreadsOption = 0,
    static: StaticOption = False,
    unverified: UnverifiedOption = False,
) -> None:
    """Talk to a bundle; each turn runs only what the cache does not hold already."""
    from helium_edge.bundle import open_bundle
    from helium_edge.conversation import Conversation
    from helium_edge.errors import UsageError
    from helium_edge.first_run import ensure_runs
    from helium_edge.generation import language_model

    from ._chat_session import ChatSession

    if system is not None and messages is not None:
        raise UsageError("--system and --messages both begin a conversation", hint="give one of the two")
    sampling: Sampling = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "stop_strings": stop or None,
        "seed": seed,
    }
    opened = open_bundle(bundle, unverified=unverified)
    ensure_runs(opened, unverified=unverified)
    model = language_model(opened, threads=threads, static=static)
    conversation = Conversation(model, system=system, parse_special=parse_special, **sampling)
    if messages is not None:
        conversation.load(messages)
    if load_cache is not None:
        _console.note(f"note: {load_cache} has {model.load_cache(load_cache):,} tokens")
    ChatSession(conversation).run()
    if save_cache is not None:
        _console.note(f"note: {save_cache} keeps {model.save_cache(save_cache):,} tokens")
