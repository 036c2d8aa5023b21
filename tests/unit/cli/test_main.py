from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
from helium_edge.cli._termination import Termination
from helium_edge.cli.main import run

import helium_edge
from helium_edge.errors import (
    BundleError,
    CacheFullError,
    CheckpointError,
    ConfigError,
    HeliumEdgeError,
    InputError,
    MissingDependencyError,
    ParityError,
    RecipeError,
    ResourceError,
    UsageError,
)
from helium_edge.recipe import recipe_text
from tests.unit.cli.commands import COMMANDS, REPOSITORY, clean_environment, start

Cli = Callable[..., tuple[int, str, str]]

HEAVY = (
    "torch", "onnx", "onnx_ir", "onnxruntime", "transformers", "numpy", "yaml", "tokenizers", "safetensors",
    "huggingface_hub", "jsonschema", "helium_edge.recipe", "helium_edge.exporting",
    "helium_edge.generation",
)  # fmt: skip

LEAN_PROGRAM = """
import json, sys
import helium_edge.cli.main as cli
commands, heavy = map(json.loads, sys.argv[1:])
for command in commands:
    assert cli.run([*command, "--help"]) == 0
assert cli.run(["--version"]) == 0
print(json.dumps(sorted(set(heavy) & set(sys.modules))), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("commands", "heavy"),
    [
        ([()], (*HEAVY, "pydantic", "rich")),
        # Typer itself imports pydantic as soon as it reads the options of a command.
        (COMMANDS, HEAVY),
    ],
    ids=["the program", "every command"],
)
def test_help_imports_nothing_heavy(commands: list[tuple[str, ...]], heavy: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAN_PROGRAM, json.dumps(commands), json.dumps(heavy)],
        capture_output=True,
        encoding="utf-8",
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr.splitlines()[-1]) == []


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_80_columns_and_has_an_example(cli: Cli, command: tuple[str, ...]) -> None:
    code, out, err = cli(*command, "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert "Example" in out
    assert f"  {' '.join(('helium-edge', *command))}" in out.partition("Example")[2]


def test_the_bare_program_shows_its_help(cli: Cli) -> None:
    code, out, err = cli()
    assert (code, err) == (0, "")
    assert out == cli("--help")[1]
    for command, *_ in COMMANDS[1:]:
        assert f"\n  {command} " in out


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(cli: Cli, option: str) -> None:
    assert cli(option) == (0, f"helium-edge {helium_edge.__version__}\n", "")


def test_the_installed_entry_point_runs_main() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="helium-edge")
    assert entry.load().__module__ == "helium_edge.cli.main"


ERRORS = [
    (HeliumEdgeError("m", hint="h"), 1),
    (UsageError("m", hint="h"), 2),
    (RecipeError("m", hint="h"), 2),
    (CacheFullError("m", hint="h"), 2),
    (InputError("m", hint="h"), 3),
    (CheckpointError("m", hint="h"), 3),
    (ConfigError("m", hint="h"), 3),
    (BundleError("m", hint="h"), 3),
    (ParityError("m", hint="h"), 4),
    (MissingDependencyError("p", extra="e", purpose="x"), 5),
    (ResourceError("m", hint="h"), 6),
]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make the command `recipes` raise."""

    def arrange(error: BaseException) -> None:
        def fail() -> list[str]:
            raise error

        monkeypatch.setattr("helium_edge.recipe.recipe_names", fail)

    return arrange


@pytest.mark.parametrize(("error", "expected"), ERRORS, ids=lambda value: type(value).__name__)
def test_our_errors_are_a_line_and_a_hint_with_their_exit_code(
    cli: Cli, broken: Callable[[BaseException], None], error: HeliumEdgeError, expected: int
) -> None:
    broken(error)
    code, out, err = cli("recipes")
    assert (code, out) == (expected, "")
    assert err == f"error: {error.message}\nhint: {error.hint}\n"


@pytest.mark.parametrize(
    ("error", "expected", "line"),
    [
        (MemoryError(), 6, "error: out of memory"),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: 9 bytes"), 6, "error: out of memory"),
        (OSError(errno.ENOSPC, "No space", "w.bin"), 6, "error: no space left on the disk: w.bin"),
        (PermissionError(errno.EACCES, "Permission denied", "d"), 2, "error: not permitted: d: Permission denied"),
        (ValueError("odd\nsecond line"), 1, "error: internal error: ValueError: odd"),
        (KeyError(), 1, "error: internal error: KeyError"),
        (typer.BadParameter("of no use"), 2, "error: Invalid value: of no use"),
    ],
)
def test_foreign_errors_become_one_line(
    cli: Cli, broken: Callable[[BaseException], None], error: Exception, expected: int, line: str
) -> None:
    broken(error)
    code, out, err = cli("recipes")
    assert (code, out) == (expected, "")
    first, *rest = err.splitlines()
    assert first == line
    assert all(text.startswith("hint: ") for text in rest)
    assert len(rest) <= 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_an_interruption_ends_with_130(
    cli: Cli, broken: Callable[[BaseException], None], error: BaseException
) -> None:
    broken(error)
    assert cli("recipes") == (130, "", "interrupted; run the same command again\n")
    code, out, err = cli("recipes", "--json")
    assert (code, err) == (130, "interrupted; run the same command again\n")
    hint = "run the same command again"
    assert json.loads(out) == {"error": {"message": "interrupted", "hint": hint, "exit_code": 130}}


def test_only_an_export_goes_on_where_it_ended(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helium_edge.recipe.load_recipe", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert cli("export", "helium-tiny", "--recipe", "onnx-int4", "-o", "x")[2] == (
        "terminated; run the same command to resume\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_termination_ends_with_128_and_its_number(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # tests that run under nohup ignore one of them
    try:
        monkeypatch.setattr("helium_edge.recipe.recipe_names", lambda: os.kill(os.getpid(), number))
        assert cli("recipes") == (128 + number, "", "terminated; run the same command again\n")
        assert json.loads(cli("recipes", "--json")[1])["error"] == {
            "message": "terminated", "hint": "run the same command again", "exit_code": 128 + number,
        }  # fmt: skip
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_closed(closed: str, tmp_path: Path) -> None:
    """What is opened next would get their numbers, and what a library prints would go into it."""
    program = (
        "import os\n"
        "from helium_edge.cli import main\n"
        "@main.app.command()\n"
        "def probe(path: str) -> None:\n"
        "    os.write(os.open(path, os.O_WRONLY | os.O_CREAT), b'x')\n"
        "    print('noise')\n"
        "main.main()\n"
    )
    for arguments in (["recipes"], ["recipes", "show", "nothing"], ["probe", str(tmp_path / "file")]):
        ended = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert ended.returncode == (2 if "nothing" in arguments else 0), ended.stderr
        assert "Traceback" not in ended.stderr
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("command", "stream"),
    [(("recipes",), "stdout"), (("doctor",), "stdout"), (("recipes", "show", "nothing"), "stderr")],
)
def test_a_reader_that_went_away_ends_with_141(command: tuple[str, ...], stream: str) -> None:
    receiver, sender = os.pipe()
    os.close(receiver)
    streams: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: sender}
    program = [sys.executable, "-m", "helium_edge.cli.main", *command]
    ended = subprocess.run(program, check=False, stdin=subprocess.DEVNULL, **streams)
    os.close(sender)
    assert ended.returncode == 141


def test_a_second_termination_ends_at_once() -> None:
    """Whatever the command is doing about the first."""
    code = (
        "import os, signal\n"
        "from helium_edge.cli._termination import Termination\n"
        "with Termination():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, b"")


def test_a_termination_leaves_other_handlers_and_threads_alone() -> None:
    with Termination():
        ours = signal.getsignal(signal.SIGTERM)
        with Termination():
            assert signal.getsignal(signal.SIGTERM) == ours
        assert signal.getsignal(signal.SIGTERM) == ours
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run, ["--version"]).result() == 0


def test_an_internal_error_asks_for_a_report(cli: Cli, broken: Callable[[BaseException], None]) -> None:
    broken(ValueError("odd"))
    assert "hint: please report it; --debug shows the traceback" in cli("recipes")[2]


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("--debug", "recipes"), ""),
        (("recipes", "--debug"), ""),
        (("recipes",), "1"),
    ],
)
def test_debug_shows_the_traceback_before_the_line(
    cli: Cli,
    broken: Callable[[BaseException], None],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    environment: str,
) -> None:
    monkeypatch.setenv("HELIUM_EDGE_DEBUG", environment)
    broken(BundleError("m", hint="h"))
    code, _, err = cli(*arguments)
    assert code == 3
    assert err.startswith("Traceback")
    assert err.endswith("error: m\nhint: h\n")


@pytest.mark.parametrize("value", ["", "0"])
def test_no_debug_no_traceback(
    cli: Cli, broken: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HELIUM_EDGE_DEBUG", value)
    broken(ValueError("odd"))
    assert "Traceback" not in cli("recipes")[2]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("exprot",), "No such command 'exprot'. Did you mean 'export'?", "`helium-edge --help`"),
        (("recipes", "--jsn"), "No such option: --jsn", "`helium-edge recipes --help`"),
        (("export", "x"), "Missing option '--recipe'", "`helium-edge export --help`"),
        (("export",), "Missing argument 'CHECKPOINT'", "`helium-edge export --help`"),
        (("generate", "b", "p", "--seed", "x"), "Invalid value for '--seed'", "`helium-edge generate --help`"),
        (("verify", "a", "b"), "Got unexpected extra argument", "`helium-edge verify --help`"),
    ],
)
def test_usage_errors_end_with_2_and_say_where_help_is(
    cli: Cli, arguments: tuple[str, ...], message: str, hint: str
) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith(f"error: {message}")
    assert second.startswith(f"hint: {hint}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("recipes", "show", "nothing", "--json"), 2),
        (("export", "--json"), 2),
        (("verify", "nowhere", "--json"), 3),
    ],
)
def test_with_json_a_failure_is_one_document_on_stdout(
    cli: Cli, arguments: tuple[str, ...], expected: int
) -> None:
    code, out, err = cli(*arguments)
    error = json.loads(out)["error"]
    assert code == error["exit_code"] == expected
    assert set(error) == {"message", "hint", "exit_code"}
    assert err == f"error: {error['message']}\nhint: {error['hint']}\n"


def test_json_behind_a_double_dash_is_no_option(cli: Cli) -> None:
    assert cli("verify", "--", "--json")[1] == ""


def test_names_cannot_write_to_the_terminal(cli: Cli) -> None:
    code, _, err = cli("recipes", "check", "./[bold]\x1b[2Jx\ny\u202e.yaml")
    assert code == 2
    assert err.splitlines()[0] == "error: [bold]\ufffd[2Jx y\ufffd.yaml: no such recipe file"


def test_a_name_that_is_no_unicode_is_shown_escaped() -> None:
    done = subprocess.run(
        [sys.executable.encode(), b"-m", b"helium_edge.cli.main", b"recipes", b"check", b"./\xff.yaml", b"--json"],
        capture_output=True,
        env=clean_environment(),
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 2
    assert "no such recipe file" in json.loads(done.stdout)["error"]["message"]
    assert done.stderr.startswith(b"error: \\udcff.yaml: no such recipe file")


def test_a_name_that_is_no_unicode_does_not_end_a_command(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.yaml"
    with open(name, "w", encoding="utf-8") as file:
        file.write(recipe_text("onnx-int4"))
    done = subprocess.run(
        [sys.executable.encode(), b"-m", b"helium_edge.cli.main", b"recipes", b"check", name],
        capture_output=True,
        env=clean_environment(),
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"\\udcff.yaml: a valid recipe" in done.stdout


def test_a_reader_that_went_away_ends_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "helium_edge.cli.main", "recipes", "show", "onnx-int4"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=clean_environment(),
        cwd=REPOSITORY,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 141
    assert b"rror" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_output_to_a_full_disk_ends_with_6() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "helium_edge.cli.main", "recipes"],
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=clean_environment(),
            cwd=REPOSITORY,
            check=False,
        )
    assert done.returncode == 6
    assert "error: no space left on the disk" in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("arguments", [["inspect", "nowhere"], ["inspect", "nowhere", "--json"]])
def test_an_error_that_cannot_be_printed_still_has_its_code(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "helium_edge.cli.main", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=full,
            env=clean_environment(),
            cwd=REPOSITORY,
            check=False,
        )
    assert done.returncode == 3


def test_output_without_unicode_does_not_end_a_command() -> None:
    done = start("generate", "nowhere", "Les modèles", "--json", PYTHONIOENCODING="ascii")
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["exit_code"] == 3


def test_a_folder_that_was_removed(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = f'cd "$0" && rmdir "$0" && exec {sys.executable} -m helium_edge.cli.main recipes'
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        ["sh", "-c", script, str(tmp_path / "gone")], capture_output=True, text=True, check=False, env=environment
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: the current folder is not there any more\nhint: change to another one\n"
