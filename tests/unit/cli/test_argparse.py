"""Our export command inside an argparse command line: the same options, values and exit codes."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import typer
from helium_edge.cli import _argparse, main


def parser_of(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("optimum-cli export helium-edge")
    _argparse.add_arguments(parser, name)
    return parser


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What our command line was called with."""
    calls: list[list[str]] = []
    monkeypatch.setattr(main, "run", lambda arguments: calls.append(arguments) or 6)  # type: ignore[func-returns-value]
    return calls


def test_the_options_are_those_of_the_command() -> None:
    command: Any = typer.main.get_command(main.app)
    ours = command.commands["export"].params
    options = {spelling for each in ours if each.param_type_name == "option" for spelling in each.opts}
    found = {spelling for action in parser_of("export")._actions for spelling in action.option_strings}
    assert found == options | {"--debug", "-h", "--help"}
    assert {"--recipe", "--output", "-o", "--json"} <= options
    assert [a.metavar for a in parser_of("export")._actions if not a.option_strings] == ["CHECKPOINT"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        (["tiny", "--recipe", "onnx-int4"], ["--recipe=onnx-int4", "--", "tiny"]),
        (["--debug", "-o", "x", "tiny", "--force"], ["--debug", "--output=x", "--force", "--", "tiny"]),
        (["--target", "onnx", "--target=coreml"], ["--target=onnx", "--target=coreml"]),
        (["--threads", "-1", "--cache-len="], ["--threads=-1", "--cache-len="]),
        (["-o=-x", "--", "--json"], ["--output=-x", "--", "--json"]),
    ],
)
def test_words_reach_the_command(given: list[str], expected: list[str], words: list[list[str]]) -> None:
    assert _argparse.run("export", parser_of("export").parse_args(given)) == 6
    assert words == [["export", *expected]]


def test_two_parses_share_nothing(words: list[list[str]]) -> None:
    parser = parser_of("export")
    for _ in range(2):
        _argparse.run("export", parser.parse_args(["--force"]))
    assert words == [["export", "--force"]] * 2


@pytest.mark.parametrize("given", [["--wrong"], ["a", "b"], ["--rec", "x"], ["--force=1"], ["--recipe"]])
def test_what_argparse_refuses_is_a_usage_error(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parser_of("export").parse_args(given)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_exit_codes_and_errors_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ([], ["helium-tiny", "--recipe=x", "-o=y"], ["./no", "--recipe=onnx-int4", "-o=y", "--json"]):
        code = main.run(["export", *given])
        expected = (code, *capsys.readouterr())
        found = _argparse.run("export", parser_of("export").parse_args(given))
        assert (found, *capsys.readouterr()) == expected
        assert code in (2, 3)


@pytest.mark.parametrize("name", ["export", "generate", "parity"])
def test_help_is_that_of_the_command(name: str) -> None:
    text = " ".join(parser_of(name).format_help().split())
    command: Any = typer.main.get_command(main.app)
    parameters = [each for each in command.commands[name].params if not getattr(each, "hidden", False)]
    missing = [each.name for each in parameters if " ".join(each.help.split()) not in text]
    assert not missing
    assert text.startswith("usage: optimum-cli export helium-edge [OPTIONS] ")
    assert "\b" not in text
    assert f"helium-edge {name}" not in text.split("Examples:")[-1]
