"""A bundle as a model of lm-eval: the one module that imports it.

`python -m helium_edge.evaluate.lm_eval` is lm-eval's own command line with the model `helium-edge` added, since
lm-eval looks for no models outside its own package:

    python -m helium_edge.evaluate.lm_eval run --model helium-edge --model_args bundle=DIR --tasks arc_easy
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helium_edge.bundle import open_bundle
from helium_edge.errors import MissingDependencyError, UsageError
from helium_edge.evaluate.subjects import Subject, bundle_subject
from helium_edge.evaluate.until import Continuation, continue_all
from helium_edge.first_run import ensure_runs

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise MissingDependencyError("lm-eval", extra="eval", purpose="official tasks") from error

MODEL = "helium-edge"
DEFAULT_MOST = 256
"""Tokens of a continuation where a task names no bound, as lm-eval has it."""


@register_model(MODEL)
class HeliumEdgeLM(TemplateLM):  # type: ignore[misc]
    """A model of lm-eval over the scorer.

    Every text starts with `<s>` exactly once, windows of long texts too. Requests are answered in the order of
    their tokens, so a batch size has no meaning.

    Args:
        bundle: Folder of a bundle.
        threads: Threads within an operator; 0 lets the runtime choose.
        subject: A model that is there already, in place of a bundle.
        **ignored: `batch_size`, `device` and other arguments that lm-eval gives every model.
    """

    def __init__(
        self, bundle: str = "", threads: int | str = 0, subject: Subject | None = None, **ignored: Any
    ) -> None:
        super().__init__()
        del ignored
        if subject is None:
            if not bundle:
                raise UsageError("no bundle was named", hint="--model_args bundle=DIR")
            opened = open_bundle(Path(bundle))
            ensure_runs(opened)
            subject = bundle_subject(opened, threads=int(threads))
        self._subject = subject
        self._bos = subject.encoder.bos

    @property
    def subject(self) -> Subject:
        """The model."""
        return self._subject

    @property
    def eot_token_id(self) -> int:
        """Id that ends a text."""
        return min(self._subject.eos)

    @property
    def prefix_token_id(self) -> int:
        """Id before every text."""
        return self.eot_token_id if self._bos is None else self._bos

    @property
    def max_length(self) -> int:
        """Tokens that fit in the cache."""
        return self._subject.scorer.cache_len

    @property
    def tokenizer_name(self) -> str:
        """What caches of requests are named by."""
        return str(self._subject.tokenizer.path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, which starts with `<s>` unless that is asked not to be."""
        if add_special_tokens is False:
            return self._subject.tokenizer.encode(string, bare=True)
        return self._subject.encoder.encode(string)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:  # noqa: ARG002
        """Log-probability of each continuation, and whether it is greedy."""
        pairs = [request.args for request in requests]
        found = self._subject.scorer.score([self._subject.encoder.request(*pair) for pair in pairs])
        scores = [(score.log_probability, score.greedy) for score in found]
        for pair, score in zip(pairs, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, score)
        return scores

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        fitted = [self._subject.encoder.fit(context, choice) for _, context, choice in requests]
        return [(score.log_probability, score.greedy) for score in self._subject.scorer.score(fitted)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """Log-probability of each text."""
        totals = []
        for request in requests:
            windows = self._subject.encoder.windows(request.args[0])
            total = sum(self._subject.scorer.rolling(each.context, each.choice) for each in windows)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            totals.append(float(total))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """Greedy continuation of each context.

        Raises:
            UsageError: A task asks for sampling.
        """
        subject = self._subject
        jobs = [_job(*request.args) for request in requests]
        texts = continue_all(subject.scorer, subject.encoder, subject.tokenizer, subject.eos, jobs)
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts


def _job(context: str, options: Mapping[str, Any]) -> Continuation:
    if options.get("do_sample") or float(options.get("temperature") or 0) > 0:
        raise UsageError(
            "a task asks for sampling; continuations are greedy here", hint="--gen_kwargs do_sample=false"
        )
    until = options.get("until") or ()
    most = options.get("max_gen_toks", options.get("max_new_tokens", DEFAULT_MOST))
    return Continuation(context, (until,) if isinstance(until, str) else tuple(until), int(most))


def main() -> None:
    """lm-eval's command line."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
