"""`helium-edge generate`: continue a text with an exported bundle."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from . import _console
from ._format import duration
from ._options import BundleArgument, JsonOption, StaticOption, ThreadsOption, UnverifiedOption

if TYPE_CHECKING:
    from helium_edge.runtime.generate import GenerationStats

EPILOG = """\b
Examples:
  helium-edge generate tiny "Les modèles" --max-new-tokens 40
  helium-edge generate tiny "Edge AI" --temperature 0.7 --top-k 50 --seed 1
"""

STOPPED = {
    "eos": "the model ended the text",
    "length": "the limit of new tokens is reached",
    "cache_full": "the KV cache is full",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("generate", short_help="Continue a text with a bundle.", epilog=EPILOG)(generate)


def generate(
    bundle: BundleArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue.", show_default=False)],
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Most tokens to add; by default the bundle's own.", show_default=False
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="T", help="0 is greedy; by default the bundle's own.", show_default=False),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(metavar="K", help="Draw from the k most likely tokens; 0 is all.", show_default=False),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Draw from the most likely tokens that reach this.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the random draws.")] = 0,
    threads: ThreadsOption = 0,
    static: StaticOption = False,
    unverified: UnverifiedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Continue a text and stream what is generated; figures go to stderr."""
    from helium_edge.bundle import open_bundle
    from helium_edge.generation import language_model

    model = language_model(open_bundle(bundle, unverified=unverified), threads=threads, static=static)
    found = model.stream(
        prompt,
        max_new_tokens=max_new_tokens or None,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    if found.options.temperature == 0 and (top_k is not None or top_p is not None):
        _console.note("note: --top-k and --top-p have no effect without a temperature, such as --temperature 0.7")
    pieces: list[str] = []
    for piece in found:
        if not as_json:
            # The prompt only when the first text is there, so that an error stands alone.
            _console.raw(piece if pieces else prompt + piece)
        pieces.append(piece)
    stats = found.stats
    if as_json:
        figures = {
            **asdict(stats),
            "prefill_tokens_per_second": stats.prefill_tokens_per_second,
            "decode_tokens_per_second": stats.decode_tokens_per_second,
        }
        texts = {"bundle": str(bundle), "prompt": prompt, "text": "".join(pieces)}
        tokens = {"prompt_ids": found.prompt_ids, "ids": found.ids}
        _console.document({**texts, **tokens, "sampling": asdict(found.options), "stats": figures})
    else:
        _console.raw("\n" if pieces else f"{prompt}\n")
    _console.note(_summary(stats))
    _console.next_step("parity", bundle)


def _summary(stats: GenerationStats) -> str:
    reason = STOPPED.get(stats.stop_reason or "", "")
    return (
        f"{stats.new_tokens} tokens, the first after {duration(stats.time_to_first_token_seconds)}; prefill "
        f"{stats.prefill_tokens_per_second:.0f} tok/s ({stats.prompt_tokens} tokens), decode "
        f"{stats.decode_tokens_per_second:.1f} tok/s; {reason}"
    )
