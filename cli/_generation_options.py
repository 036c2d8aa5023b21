"""Options that `generate` and `chat` share: how an answer is chosen, by which template, and from which cache."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from . import _console
from ._format import duration
from ._options import RevisionOption, StaticOption, ThreadsOption, UnverifiedOption

if TYPE_CHECKING:
    from helium_edge.language_model import LanguageModel, Sampling
    from helium_edge.runtime.text_generation import Generation

_option = functools.partial(typer.Option, show_default=False)


@dataclass(frozen=True)
class GenerationOptions:
    """What both commands take, in the order of their help; None is the bundle's own."""

    system: Annotated[str | None, _option("--system", metavar="TEXT", help="The system message.")] = None
    template: Annotated[
        str | None, _option("--template", metavar="NAME", help="Which of several chat templates.")
    ] = None
    max_new_tokens: Annotated[
        int | None, _option(min=1, metavar="N", help="Most tokens to add; by default the bundle's own.")
    ] = None
    temperature: Annotated[
        float | None, _option(metavar="T", help="0 is greedy; by default the bundle's own.")
    ] = None
    top_k: Annotated[int | None, _option(metavar="K", help="Draw from the k most likely tokens; 0 is all.")] = None
    top_p: Annotated[
        float | None, _option(metavar="P", help="Draw from the most likely tokens that reach this.")
    ] = None
    min_p: Annotated[
        float | None, _option(metavar="P", help="Draw from tokens this near to the likeliest; 0 is all.")
    ] = None
    repetition_penalty: Annotated[
        float | None, _option(metavar="R", help="Above 1, tokens of the text so far become less likely.")
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None, _option(min=0, metavar="N", help="No run of N tokens comes twice; 0 allows all.")
    ] = None
    stop: Annotated[
        list[str] | None, _option("--stop", metavar="TEXT", help="End before this text; may be given again.")
    ] = None
    seed: Annotated[int, typer.Option(metavar="N", help="Of the random draws.")] = 0
    lookahead: Annotated[
        int | None,
        _option(min=0, max=64, metavar="N", help="Guess up to N tokens by the text so far and run them at once."),
    ] = None
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help="Let your text spell special tokens, such as </s>.")
    ] = False
    load_cache: Annotated[
        Path | None, _option(metavar="FILE", help="Start behind the part that this file has.")
    ] = None
    revision: RevisionOption = None
    threads: ThreadsOption = 0
    static: StaticOption = False
    unverified: UnverifiedOption = False

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
            "stop_strings": self.stop or None,
            "seed": self.seed,
            "lookahead": self.lookahead,
        }

    def open(self, bundle: Path) -> LanguageModel:
        """Load a bundle."""
        from helium_edge.bundle import open_bundle, resolve_bundle
        from helium_edge.first_run import ensure_runs
        from helium_edge.generation import language_model

        opened = open_bundle(resolve_bundle(bundle, revision=self.revision), unverified=self.unverified)
        ensure_runs(opened, unverified=self.unverified)
        return language_model(opened, threads=self.threads, static=self.static, rows=bool(self.lookahead))

    def fill(self, model: LanguageModel) -> None:
        """Load the cache that was asked for, if any."""
        if self.load_cache is not None:
            _console.note(f"note: {self.load_cache} has {model.load_cache(self.load_cache):,} tokens")


def with_generation_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `options` is taken apart into an option for each field of `GenerationOptions`."""
    shared = [field.name for field in dataclasses.fields(GenerationOptions)]
    hints = get_type_hints(command, include_extras=True) | get_type_hints(GenerationOptions, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        both = (
            inspect.signature(GenerationOptions).parameters.values()
            if parameter.name == "options"
            else [parameter]
        )
        parameters += [each.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[each.name]) for each in both]

    def run(**values: Any) -> None:
        options = GenerationOptions(**{name: values.pop(name) for name in shared})
        command(options=options, **values)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


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
    ahead = found.ahead
    calls = f" in {ahead.calls} calls" if ahead is not None else ""
    return (
        f"{stats.new_tokens} tokens{calls}, "
        f"the first after {duration(stats.time_to_first_token_seconds)}; prefill "
        f"{stats.prefill_tokens_per_second:.0f} tok/s ({stats.prompt_tokens} tokens{reused}), decode "
        f"{stats.decode_tokens_per_second:.1f} tok/s; {reason}"
    )


def forgotten(messages: int) -> str:
    """What is said when the oldest messages of a conversation went."""
    what = f"{messages} oldest messages are" if messages != 1 else "oldest message is"
    return f"note: the KV cache is full: the {what} forgotten; the system message stays"
