"""The entry point: the Typer app, global options, and how everything that goes wrong ends the process.

Heavy packages are imported inside the commands, so that `--help` and completion answer at once.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from helium_edge import __version__
from helium_edge.errors import EXIT_INTERRUPTED, HeliumEdgeError, ResourceError, UsageError, too_many_files

from . import (
    _console,
    bench,
    chat,
    classify,
    convert,
    doctor,
    export,
    generate,
    inspect,
    parity,
    push,
    recipes,
    report,
    schema,
    sweep,
    verify,
)
from . import (
    eval as evaluation,
)
from ._termination import Termination

EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE, as shells count: the reader of our output went away."""

DEBUG_VARIABLE = "HELIUM_EDGE_DEBUG"

EPILOG = """\b
Example, with the checkpoint that ships inside:
  helium-edge export helium-tiny --recipe onnx-int4 -o tiny
  helium-edge generate tiny "Edge AI"
\b
Exit codes:
  0 ok                    4 parity gate failed
  1 internal error        5 optional package missing
  2 usage or recipe       6 out of disk or memory
  3 checkpoint or bundle  130 interrupted
                          143 terminated
"""


class _Group(typer.core.TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise typer.Exit(EXIT_BROKEN_PIPE) from error


app = typer.Typer(
    name="helium-edge",
    cls=_Group,
    help="Export Kyutai Helium models to quantized, static-shape ONNX bundles, and prove each export right.",
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help reads the same on a terminal and in a file
    context_settings={"help_option_names": ["-h", "--help"]},
)
export.register(app)
generate.register(app)
chat.register(app)
classify.register(app)
convert.register(app)
parity.register(app)
evaluation.register(app)
sweep.register(app)
bench.register(app)
report.register(app)
push.register(app)
inspect.register(app)
verify.register(app)
recipes.register(app)
schema.register(app)
doctor.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"helium-edge {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--version", "-V", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
    debug: Annotated[  # noqa: ARG001
        bool, typer.Option("--debug", help=f"Show tracebacks of errors; so does {DEBUG_VARIABLE}=1.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line of this process and exit with its code."""
    _open_standard_streams()
    sys.exit(run(sys.argv[1:]))


def _open_standard_streams() -> None:
    """Open the null device where the caller has closed stdin, stdout or stderr.

    Else the next file that anything opens would get the number, and what a library prints would go into it.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.dup(descriptor)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; no exception leaves it.

    Args:
        arguments: What follows the program's name. `--debug` may stand anywhere before a `--`.
    """
    options = list(arguments)
    cut = options.index("--") if "--" in options else len(options)
    debug = "--debug" in options[:cut] or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")
    as_json = "--json" in options[:cut]
    options = [word for word in options[:cut] if word != "--debug"] + options[cut:]
    for stream in (sys.stdout, sys.stderr):
        # A file name or a locale that cannot show a character must not end a command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logger = logging.getLogger("helium_edge")
    level = logger.level
    termination = Termination()
    try:
        if debug:
            # What foreign libraries print is hidden only above this level (helium_edge.runtime.quiet).
            logger.setLevel(logging.DEBUG)
        with termination:
            _require_folder()
            code = app(args=options, prog_name="helium-edge", standalone_mode=False)
        code = code if isinstance(code, int) else 0
        if code == EXIT_INTERRUPTED:
            code = _interrupted(termination, options, as_json=as_json)
        sys.stdout.flush()
    except SystemExit as error:  # from completion scripts, and from typer when the reader went away
        code = error.code if isinstance(error.code, int) else 0
    except BaseException as error:
        try:
            if isinstance(error, (KeyboardInterrupt, typer.Abort)):
                code = _interrupted(termination, options, as_json=as_json)
            else:
                code = _report(error, debug=debug, as_json=as_json)
        except BrokenPipeError:
            code = EXIT_BROKEN_PIPE
        except OSError:  # a full disk below stderr: the code still tells
            code = _as_known(error).exit_code
    finally:
        logger.setLevel(level)  # a caller in this process gets it back as it was
    return _flush(code)


def _require_folder() -> None:
    """Refuse to work in a folder that was removed meanwhile: libraries ask for its name, and end the process."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UsageError("the current folder is not there any more", hint="change to another one") from error


def _report(error: BaseException, *, debug: bool, as_json: bool) -> int:
    """Tell the user of an error and return the exit code."""
    if isinstance(error, BrokenPipeError):
        return EXIT_BROKEN_PIPE
    if debug:
        traceback.print_exception(type(error), error, error.__traceback__)
    known = _as_known(error)
    _console.failure(known, as_json=as_json)
    return known.exit_code


def _interrupted(termination: Termination, options: Sequence[str], *, as_json: bool) -> int:
    message, code = (
        ("terminated", 128 + termination.came) if termination.came else ("interrupted", EXIT_INTERRUPTED)
    )
    hint = f"run the same command {'to resume' if 'export' in options[:1] else 'again'}"
    _console.note(f"{message}; {hint}")
    if as_json:
        _console.document({"error": {"message": message, "hint": hint, "exit_code": code}})
    return code


def _as_known(error: BaseException) -> HeliumEdgeError:
    """The same error as one of ours; what nobody foresaw is an internal error."""
    if isinstance(error, HeliumEdgeError):
        return error
    # Typer's own usage errors, by their shape: it vendors the classes, so none can be named.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "helium-edge"
        message = " ".join(error.format_message().split()).replace(": Value error, ", ": ")  # pydantic's prefix
        return UsageError(message, hint=f"`{command} --help` shows what is allowed")
    full = too_many_files(error)
    if full is not None:
        return full
    # torch has no class of its own for this.
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate" in str(error):
        return ResourceError("out of memory", hint="close other programs, or export with a smaller --cache-len")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"no space left on the disk{_file_of(error)}", hint="free some, or use another disk")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(f"not permitted{_file_of(error)}: {error.strerror}")
    from helium_edge.documents import first_line

    kind, message = type(error).__name__, first_line(error)
    where = kind if message == kind else f"{kind}: {message}"
    return HeliumEdgeError(f"internal error: {where}", hint="please report it; --debug shows the traceback")


def _file_of(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""


def _flush(code: int) -> int:
    """Flush the output; where that fails, point it elsewhere, so that the interpreter does not complain."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE if isinstance(error, BrokenPipeError) else code or ResourceError.exit_code
    return code


if __name__ == "__main__":
    main()
