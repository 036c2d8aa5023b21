from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helium_edge.bundle import GenerationSection
from helium_edge.errors import CacheFullError
from helium_edge.runtime.runner import check_tokens
from helium_edge.runtime.tokenizer import Tokenizer

Cli = Callable[..., tuple[int, str, str]]

TINY = Path(str(importlib.resources.files("helium_edge.data"))) / "helium-tiny"
TOKENIZER = Tokenizer(TINY / "tokenizer.json")
EOS = 2


class ScriptedRunner:
    """A decoder that says what it is told to, one token after the other, and then eos."""

    vocab_size = 4096

    def __init__(self, script: Sequence[int], cache_len: int = 64) -> None:
        self.cache_len = cache_len
        self.script = [*script, EOS]
        self.fed: list[int] = []
        self.prompt: list[int] = []

    @property
    def position(self) -> int:
        return len(self.fed)

    def reset(self) -> None:
        self.fed.clear()

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        self.prompt = list(tokens)
        return self._append(tokens)[None]

    def decode(self, token: int) -> np.ndarray:
        return self._append([token])

    def _append(self, tokens: Sequence[int]) -> np.ndarray:
        check_tokens(tokens, position=self.position, cache_len=self.cache_len, vocab_size=self.vocab_size)
        self.fed.extend(tokens)
        logits = np.zeros(self.vocab_size, np.float32)
        logits[self.script[self.position - len(self.prompt)]] = 9
        return logits


class Fake(SimpleNamespace):
    calls: list[dict[str, object]]
    runner: ScriptedRunner


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A bundle whose runner follows a script; set `runner` and `generation` before the command."""
    fake = Fake(runner=ScriptedRunner([]), generation=GenerationSection(), calls=[])

    def open_bundle(path: Path, **options: object) -> SimpleNamespace:
        fake.calls.append({"path": path, **options})
        manifest = SimpleNamespace(
            generation=fake.generation,
            decoder_spec=lambda: None,
            tokenizer=SimpleNamespace(file="tokenizer.json"),
            tokens=SimpleNamespace(eos=(EOS,), forbidden=()),
        )
        return SimpleNamespace(manifest=manifest, path=lambda name: TINY / name)

    def open_runner(opened: object, **options: object) -> ScriptedRunner:
        fake.calls.append(options)
        return fake.runner

    monkeypatch.setattr("helium_edge.bundle.open_bundle", open_bundle)
    monkeypatch.setattr("helium_edge.generation.open_runner", open_runner)
    monkeypatch.setattr("helium_edge.first_run.ensure_runs", lambda *_, **__: None)
    return fake


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text)[1:]


@pytest.mark.parametrize(
    ("prompt", "added", "text"),
    [
        ("Les modèles", " d'IA 🙂 sont", "Les modèles d'IA 🙂 sont\n"),
        ("", "Edge AI", "Edge AI\n"),
        ("a\nb", " c", "a\nb c\n"),
    ],
)
def test_stdout_is_the_prompt_and_what_follows(cli: Cli, bundle: Fake, prompt: str, added: str, text: str) -> None:
    bundle.runner = ScriptedRunner(ids_of(added.removeprefix(" ")))
    code, out, err = cli("generate", "tiny", prompt)
    assert (code, out) == (0, text)
    assert bundle.runner.prompt == TOKENIZER.encode(prompt)
    assert "tok/s" in err
    assert "the model ended the text" in err
    assert err.endswith("next: helium-edge parity tiny\n")


def test_json_is_the_only_thing_on_stdout(cli: Cli, bundle: Fake) -> None:
    script = ids_of("sont 🙂 là")
    bundle.runner = ScriptedRunner(script)
    code, out, _ = cli("generate", "tiny", "Les modèles", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["prompt"] == "Les modèles"
    assert document["text"] == " sont 🙂 là"
    assert document["ids"] == script
    assert document["prompt_ids"] == TOKENIZER.encode("Les modèles")
    assert document["stats"]["stop_reason"] == "eos"
    assert document["stats"]["new_tokens"] == len(script)
    assert document["sampling"]["temperature"] == 0


def test_a_character_cut_by_the_limit_reads_u_fffd(cli: Cli, bundle: Fake) -> None:
    smile = ids_of("🙂")
    bundle.runner = ScriptedRunner(smile)
    _, out, err = cli("generate", "tiny", "x", "--max-new-tokens", "3")
    assert out == "x \ufffd\ufffd\n"
    assert "the limit of new tokens is reached" in err


def test_a_full_cache_ends_the_text(cli: Cli, bundle: Fake) -> None:
    bundle.runner = ScriptedRunner(ids_of("a b c d e f g"), cache_len=5)
    code, _, err = cli("generate", "tiny", "x")
    assert code == 0
    assert "the KV cache is full" in err


def test_a_prompt_that_does_not_fit_is_an_error_without_output(cli: Cli, bundle: Fake) -> None:
    bundle.runner = ScriptedRunner([], cache_len=3)
    code, out, err = cli("generate", "tiny", "one two three four five")
    assert (code, out) == (CacheFullError.exit_code, "")
    assert err.startswith("error: ")
    assert "do not fit" in err


def test_options_reach_the_runner_and_the_bundle(cli: Cli, bundle: Fake) -> None:
    cli("generate", "tiny", "x", "--threads", "3", "--static", "--unverified")
    assert bundle.calls == [{"path": Path("tiny"), "unverified": True}, {"threads": 3, "static": True}]
    cli("generate", "tiny", "x")
    assert bundle.calls[2:] == [{"path": Path("tiny"), "unverified": False}, {"threads": 0, "static": False}]


@pytest.mark.parametrize(
    ("defaults", "options", "expected"),
    [
        ({}, (), (0, 0, 1)),
        # Sampling values of a bundle that is greedy by default are not in force.
        ({"temperature": 0.6, "top_k": 0}, (), (0, 0, 1)),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.9}, (), (0.6, 20, 0.9)),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, ("--temperature", "0"), (0, 20, 1)),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, ("--top-k", "0"), (0.6, 0, 1)),
        ({}, ("--temperature", "0.7", "--top-k", "50", "--top-p", "0.8"), (0.7, 50, 0.8)),
    ],
)
def test_sampling_options_replace_those_of_the_bundle(
    cli: Cli,
    bundle: Fake,
    defaults: dict[str, object],
    options: tuple[str, ...],
    expected: tuple[float, int, float],
) -> None:
    bundle.generation = GenerationSection.model_validate(defaults)
    _, out, err = cli("generate", "tiny", "x", "--json", "--seed", "7", *options)
    temperature, top_k, top_p = expected
    assert json.loads(out)["sampling"] == {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": 7, "min_p": 0,
        "repetition_penalty": 1, "no_repeat_ngram_size": 0, "suppress_tokens": [],
    }  # fmt: skip
    assert "have no effect" not in err


def test_top_k_without_a_temperature_is_said_to_do_nothing(cli: Cli, bundle: Fake) -> None:
    code, _, err = cli("generate", "tiny", "x", "--top-k", "5")
    assert code == 0
    assert "--top-k and --top-p have no effect" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--temperature", "-1"), "temperature -1.0 is out of range"),
        (("--top-p", "2", "--temperature", "1"), "top_p 2.0 is out of range"),
        (("--max-new-tokens", "0"), "Invalid value for '--max-new-tokens'"),
    ],
)
def test_options_out_of_range_end_with_2(cli: Cli, bundle: Fake, options: tuple[str, ...], message: str) -> None:
    code, out, err = cli("generate", "tiny", "x", *options)
    assert (code, out) == (2, "")
    assert message in err
