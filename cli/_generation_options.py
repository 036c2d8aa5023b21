"""Options that `generate` and `chat` share: how an answer is chosen, and where the cache is kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._format import duration

if TYPE_CHECKING:
    from helium_edge.runtime.text_generation import Generation

MaxNewTokensOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Most tokens to add; by default the bundle's own.", show_default=False),
]

TemperatureOption = Annotated[
    float | None,
    typer.Option(metavar="T", help="0 is greedy; by default the bundle's own.", show_default=False),
]

TopKOption = Annotated[
    int | None,
    typer.Option(metavar="K", help="Draw from the k most likely tokens; 0 is all.", show_default=False),
]

TopPOption = Annotated[
    float | None,
    typer.Option(metavar="P", help="Draw from the most likely tokens that reach this.", show_default=False),
]

MinPOption = Annotated[
    float | None,
    typer.Option(metavar="P", help="Draw from tokens this near to the likeliest; 0 is all.", show_default=False),
]

RepetitionPenaltyOption = Annotated[
    float | None,
    typer.Option(
        "--repetition-penalty",
        metavar="R",
        help="Above 1, tokens of the text so far become less likely.",
        show_default=False,
    ),
]

NoRepeatOption = Annotated[
    int | None,
    typer.Option(
        "--no-repeat-ngram-size",
        min=0,
        metavar="N",
        help="No run of N tokens comes twice; 0 allows all.",
        show_default=False,
    ),
]

StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End before this text; may be given again.", show_default=False),
]

SeedOption = Annotated[int, typer.Option(metavar="N", help="Of the random draws.")]

SystemOption = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="The system message.", show_default=False)
]

ParseSpecialOption = Annotated[
    bool, typer.Option("--parse-special", help="Let your text spell special tokens, such as </s>.")
]

SaveCacheOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Keep the KV cache of the prompt for --load-cache.", show_default=False),
]

LoadCacheOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Start behind the part that this file has.", show_default=False),
]

STOPPED = {
    "eos": "the model ended the text",
    "length": "the limit of new tokens is reached",
    "cache_full": "the KV cache is full",
    "stop_string": "a stop text came",
}


def summary(found: Generation) -> str:
    """One line about a generation that has ended."""
    stats = found.stats
    reason = STOPPED.get(stats.stop_reason or "", "stopped")
    reused = f" and {found.reused_tokens} from the cache" if found.reused_tokens else ""
    return (
        f"{stats.new_tokens} tokens, the first after {duration(stats.time_to_first_token_seconds)}; prefill "
        f"{stats.prefill_tokens_per_second:.0f} tok/s ({stats.prompt_tokens} tokens{reused}), decode "
        f"{stats.decode_tokens_per_second:.1f} tok/s; {reason}"
    )


def forgotten(messages: int) -> str:
    """What is said when the oldest messages of a conversation went."""
    what = f"{messages} oldest messages are" if messages != 1 else "oldest message is"
    return f"note: the KV cache is full: the {what} forgotten; the system message stays"
