"""`helium-edge chat` and `generate --chat` as a user and a script meet them."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.chat_bundles import chat_bundle, chat_checkpoint
from tests.unit.cli.test_generate_command import Cli

HELIUM_EDGE = [sys.executable, "-m", "helium_edge"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-chat")
    return chat_bundle(chat_checkpoint(folder / "helium-tiny-chat"), "onnx-int4", folder / "bundle")


@pytest.fixture
def say(cli: Cli, bundle: Path, monkeypatch: pytest.MonkeyPatch):
    def run(lines: str, *options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        return cli("chat", str(bundle), "--max-new-tokens", "6", *options)

    return run


def test_over_a_pipe_each_line_is_a_turn(say, bundle: Path, cli: Cli) -> None:
    code, out, err = say("Hello\n\nMore\n")
    assert code == 0
    assert len(out.splitlines()) >= 2
    assert err.count("the limit of new tokens is reached") == 2
    _, first, _ = cli("generate", str(bundle), "--chat", "Hello", "--max-new-tokens", "6")
    assert out.startswith(first)


def test_commands(say, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    words = ["Hello", f"/save {saved}", "/reset", "/system Be brief.", "Hi", f"/load {saved}", "/regenerate"]
    lines = "\n".join([*words, "/help", "//x", "/quit", "no"])
    code, out, err = say(lines, "--system", "Old")
    assert code == 0
    messages = json.loads(saved.read_text(encoding="utf-8"))
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert messages[0]["content"] == "Old"
    for text in (
        "messages written",
        "begins anew, with this system message",
        "3 messages read",
        "/regenerate   answer",
    ):
        assert text in err
    assert "a greedy answer is always the same" in err
    answers = out.splitlines()
    assert answers[0] == messages[2]["content"].splitlines()[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("/rest\n", "/rest: no such command"),
        ("/regenerate\n", "there is no answer yet"),
        ("/save\n", "a file is missing: /save FILE"),
        ("word " * 700 + "\n", "the last turn does not fit"),
    ],
)
def test_what_goes_wrong_over_a_pipe_ends_it(say, lines: str, message: str) -> None:
    code, out, err = say(lines)
    assert code == 2
    assert message in err
    assert not out.strip()


def test_a_missing_file_is_one_line(say, tmp_path: Path) -> None:
    code, _, err = say(f"/load {tmp_path / 'none.json'}\n")
    assert code == 3
    assert "none.json: not readable" in err


def test_the_oldest_turns_go_and_it_says_so(say) -> None:
    text = "The sensor reads the temperature and sends it to the gateway every minute. " * 4
    code, _, err = say(f"{text}\n" * 10, "--system", "Be brief.")
    assert code == 0
    assert "note: the KV cache is full: the " in err
    assert "oldest messages are forgotten; the system message stays" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to do: give a PROMPT to continue, or --chat TEXT to answer"),
        (["x", "--chat", "y"], "a PROMPT is continued, --chat and --messages are answered"),
        (["x", "--system", "y"], "--system is for conversations"),
    ],
)
def test_prompts_and_conversations_do_not_mix(cli: Cli, bundle: Path, words: list[str], message: str) -> None:
    code, _, err = cli("generate", str(bundle), *words)
    assert code == 2
    assert message in err


def test_messages_of_a_file_are_answered(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path.write_text(json.dumps(talk), encoding="utf-8")
    options = ("--messages", str(path), "--system", "s", "--max-new-tokens", "3", "--json")
    code, out, _ = cli("generate", str(bundle), "--chat", "c", *options)
    assert code == 0
    document = json.loads(out)
    assert [message["content"] for message in document["messages"]] == ["s", "a", "b", "c"]
    assert document["stats"]["dropped_messages"] == 0
    code, _, err = cli("generate", str(bundle), *options)
    assert code == 2
    assert "the last message must be the user's" in err
    path.write_text('{"role": "user"}', encoding="utf-8")
    code, _, err = cli("generate", str(bundle), *options)
    assert code == 2
    assert "must be a list such as" in err


def test_a_saved_cache_is_used(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    cache, options = str(tmp_path / "c"), ("--chat", "Hello", "--max-new-tokens", "3")
    code, _, err = cli("generate", str(bundle), *options, "--save-cache", cache)
    assert code == 0
    assert "keeps" in err
    code, out, err = cli("generate", str(bundle), *options, "--load-cache", cache, "--json")
    document = json.loads(out)
    assert document["stats"]["reused_tokens"] == len(document["prompt_ids"]) - 1
    (tmp_path / "c").write_bytes(b"nothing")
    code, _, err = cli("generate", str(bundle), *options, "--load-cache", cache)
    assert code == 3
    assert err.startswith("error: c: 7 bytes is no safetensors file")


def test_no_processor_of_the_command_line_is_lost(cli: Cli, bundle: Path) -> None:
    processors = ("--min-p", "0.1", "--repetition-penalty", "1.3", "--no-repeat-ngram-size", "2")
    words = ("generate", str(bundle), "The", *processors, "--temperature", "1", "--max-new-tokens", "40", "--json")
    _, out, _ = cli(*words)
    document = json.loads(out)
    chosen = document["sampling"]
    assert (chosen["min_p"], chosen["repetition_penalty"], chosen["no_repeat_ngram_size"]) == (0.1, 1.3, 2)
    pairs = list(itertools.pairwise(document["prompt_ids"] + document["ids"]))
    assert len(set(pairs)) == len(pairs)
    text = document["text"]
    _, out, _ = cli(*words, "--stop", text[9:14])
    stopped = json.loads(out)
    assert stopped["text"] == text[: text.index(text[9:14])]
    assert stopped["stats"]["stop_reason"] == "stop_string"


def test_a_closed_output_ends_it_quietly(bundle: Path) -> None:
    words = [*HELIUM_EDGE, "chat", str(bundle), "--max-new-tokens", "50"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.write(b"Hello\n" * 3)
        process.stdin.close()
        err = process.stderr.read()
        assert process.wait(60) == 141
    assert b"Traceback" not in err
