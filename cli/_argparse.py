"""A command of ours inside the argparse command line of another program.

Options and help are read from the Typer command, and what argparse finds is handed to that command as words: it
alone checks values, reports errors and sets the exit code, so the two cannot drift apart.
"""

from __future__ import annotations

import argparse
from typing import Any

import typer

from . import main

_OPTIONS, _ARGUMENTS = "helium_edge_options", "helium_edge_arguments"


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Give a parser the arguments, options and help of our command `name`, and `--debug`."""
    root: Any = typer.main.get_command(main.app)
    command = root.commands[name]
    context = command.context_class(command, info_name=name, parent=root.context_class(root, info_name=root.name))
    parameters = [*command.params, *(parameter for parameter in root.params if parameter.name == "debug")]
    parser.allow_abbrev = False
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _text(command.help)
    parser.epilog = _text(command.epilog.replace(context.command_path, parser.prog))
    arguments = [parameter.metavar for parameter in parameters if parameter.param_type_name == "argument"]
    parser.usage = " ".join(["%(prog)s [OPTIONS]", *arguments])
    for parameter in parameters:
        # Nothing is required here, so that a missing argument is reported as the command reports it.
        common: dict[str, Any] = {"action": _Collect, "default": argparse.SUPPRESS}
        record = parameter.get_help_record(context)
        common["help"] = argparse.SUPPRESS if record is None else _text(record[1])
        if parameter.param_type_name == "argument":
            parser.add_argument(_ARGUMENTS, nargs="?", metavar=parameter.metavar, **common)
        elif parameter.is_flag:
            parser.add_argument(*parameter.opts, dest=_OPTIONS, nargs=0, **common)
        else:
            parser.add_argument(*parameter.opts, dest=_OPTIONS, metavar=parameter.metavar, **common)


def run(name: str, found: argparse.Namespace) -> int:
    """Run our command `name` with what a parser of `add_arguments` found; no exception leaves it.

    Returns:
        The exit code.
    """
    arguments = getattr(found, _ARGUMENTS, [])
    return main.run([name, *getattr(found, _OPTIONS, []), *(["--", *arguments] if arguments else [])])


class _Collect(argparse.Action):
    """Keeps the words as they were given, options before arguments."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,  # noqa: ARG002
    ) -> None:
        """Append what argparse found; see `argparse.Action`."""
        word = values
        if self.option_strings:
            word = next(spelling for spelling in self.option_strings if spelling.startswith("--"))
            word = word if self.nargs == 0 else f"{word}={values}"
        setattr(namespace, self.dest, [*getattr(namespace, self.dest, []), word])


def _text(text: str) -> str:
    r"""Without click's mark for a paragraph to leave alone, \b, and safe for argparse's own formatting."""
    return text.replace("\b\n", "").strip().replace("%", "%%")
