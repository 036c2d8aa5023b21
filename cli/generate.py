"""`helium-edge generate`: continue a text with an exported bundle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from . import _console
from ._format import duration
from ._options import BundleArgument, JsonOption, StaticOption, ThreadsOption, UnverifiedOption

if TYPE_CHECKING:
    from helium_edge.bundle import GenerationSection
    from helium_edge.runtime.generate import GenerationStats
    from helium_edge.runtime.sampling import SamplingOptions
    from helium_edge.runtime.tokenizer import StreamDecoder

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
    from helium_edge.bundle import open_bundle, open_runner
    from helium_edge.runtime import generate as loop
    from helium_edge.runtime.sampling import Sampler
    from helium_edge.runtime.tokenizer import Tokenizer

    opened = open_bundle(bundle, unverified=unverified)
    manifest = opened.manifest
    options = _sampling(manifest.generation, temperature, top_k, top_p, seed)
    tokenizer = Tokenizer(opened.path(manifest.tokenizer.file))
    ids = tokenizer.encode(prompt)
    runner = open_runner(opened, threads=threads, static=static)
    stats = loop.GenerationStats()
    new_ids = loop.generate(
        runner,
        ids,
        max_new_tokens=max_new_tokens or manifest.generation.max_new_tokens,
        eos_ids=manifest.tokens.eos,
        sampler=Sampler(options),
        stats=stats,
    )
    chosen: list[int] = []
    pieces: list[str] = []
    for piece in _pieces(new_ids, tokenizer.stream(continuing=bool(prompt)), chosen):
        if not as_json:
            # The prompt only when its first token is there, so that an error stands alone.
            _console.raw(piece if pieces else prompt + piece)
        pieces.append(piece)
    if as_json:
        figures = {
            **asdict(stats),
            "prefill_tokens_per_second": stats.prefill_tokens_per_second,
            "decode_tokens_per_second": stats.decode_tokens_per_second,
        }
        texts = {"bundle": str(bundle), "prompt": prompt, "text": "".join(pieces)}
        tokens = {"prompt_ids": ids, "ids": chosen}
        _console.document({**texts, **tokens, "sampling": asdict(options), "stats": figures})
    else:
        _console.raw("\n")
    _console.note(_summary(stats))
    _console.next_step("parity", bundle)


def _pieces(ids: Iterator[int], stream: StreamDecoder, chosen: list[int]) -> Iterator[str]:
    """Text as it comes; the ids go to `chosen`."""
    for token in ids:
        chosen.append(token)
        yield stream.push(token)
    yield stream.finish()


def _sampling(
    defaults: GenerationSection, temperature: float | None, top_k: int | None, top_p: float | None, seed: int
) -> SamplingOptions:
    """The options of the command line, and the bundle's where there is none."""
    from helium_edge.runtime.sampling import SamplingOptions

    if temperature is None:
        temperature = defaults.temperature if defaults.do_sample else 0.0
    if temperature == 0 and (top_k is not None or top_p is not None):
        _console.note("note: --top-k and --top-p have no effect without a temperature, such as --temperature 0.7")
    return SamplingOptions(
        temperature=temperature,
        top_k=defaults.top_k if top_k is None else top_k,
        top_p=defaults.top_p if top_p is None else top_p,
        seed=seed,
    )


def _summary(stats: GenerationStats) -> str:
    reason = STOPPED.get(stats.stop_reason or "", "")
    return (
        f"{stats.new_tokens} tokens, the first after {duration(stats.time_to_first_token_seconds)}; prefill "
        f"{stats.prefill_tokens_per_second:.0f} tok/s ({stats.prompt_tokens} tokens), decode "
        f"{stats.decode_tokens_per_second:.1f} tok/s; {reason}"
    )
