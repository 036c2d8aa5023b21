"""Every error a user can meet, and the exit code each one ends the command with.

    HeliumEdgeError                     exit 1   (a bare one is a bug of ours)
    |-- UsageError                      exit 2   the command line or a call asks for what cannot be done
    |   |-- RecipeError                 exit 2   a recipe file, or a recipe that does not fit the model
    |   `-- CacheFullError              exit 2   the conversation is longer than the KV cache
    |-- InputError                      exit 3   what the user brought is unusable
    |   |-- CheckpointError             exit 3   weights, index, tokenizer
    |   |   `-- ConfigError             exit 3   config.json
    |   `-- BundleError                 exit 3   an exported bundle
    |-- ParityError                     exit 4   an exported graph misses its gates
    |-- MissingDependencyError          exit 5   an optional package is not installed
    |   `-- MissingToolError            exit 5   a program or library outside Python is not there
    `-- ResourceError                   exit 6   out of disk space, memory or open files

A message is one line: what, where (file and tensor), what is allowed. The remedy is the `hint`.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable

EXIT_OK = 0
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


CLONE = "in a clone of helium-edge"
"""Where it is installed from until there is a release: nobody has registered its name with the package index."""

UPGRADE = f"git pull && pip install .  # {CLONE}"
"""How to have a newer one."""


def how_to_install(extra: str | None = None) -> str:
    """The command that installs helium-edge, with an extra if one is named."""
    return f"pip install {'.' if extra is None else repr(f'.[{extra}]')}  # {CLONE}"


class HeliumEdgeError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: One line: the subject, what was found, what is allowed.
        hint: One line: what the user can do about it; empty when the message says it all.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(HeliumEdgeError):
    """The command line or a call asks for something that cannot be done."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe is malformed, or asks for what the model or the target cannot carry."""


class CacheFullError(UsageError):
    """A token would be written past the last slot of the KV cache."""


class InputError(HeliumEdgeError):
    """Something the user brought cannot be used."""

    exit_code = 3


class CheckpointError(InputError):
    """A checkpoint is incomplete, malformed or of an unsupported kind."""


class ConfigError(CheckpointError):
    """A `config.json` is malformed or describes an unsupported model."""


class BundleError(InputError):
    """A bundle is damaged, incomplete or newer than this version."""


class ParityError(HeliumEdgeError):
    """An exported graph does not agree with its reference within the gates of its recipe.

    Args:
        message: As for all errors.
        hint: As for all errors.
        report: The parity report, for a command line to show; None where there is none.
    """

    exit_code = 4

    def __init__(self, message: str, *, hint: str = "", report: object = None) -> None:
        super().__init__(message, hint=hint)
        self.report = report


class MissingDependencyError(HeliumEdgeError):
    """An optional package is needed and not installed."""

    exit_code = 5

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed",
            hint=how_to_install(extra),
        )


class MissingToolError(MissingDependencyError):
    """A program or library outside Python is needed and not there.

    Args:
        message: As for all errors.
        hint: As for all errors.
    """

    def __init__(self, message: str, *, hint: str) -> None:
        HeliumEdgeError.__init__(self, message, hint=hint)


class ResourceError(HeliumEdgeError):
    """The disk or the memory is full, or no further file may be opened."""

    exit_code = 6


def too_many_files(error: BaseException) -> ResourceError | None:
    """The error to raise in place of one that says the process may open no further file; None for other errors.

    Libraries hide the number of the error in their message, so that is looked at as well.
    """
    number = getattr(error, "errno", None)
    codes = (errno.EMFILE, errno.ENFILE)
    if number not in codes and not any(os.strerror(code) in str(error) for code in codes):
        return None
    return ResourceError(
        "too many files are open: the system lets this process open no further one",
        hint="raise the limit, as `ulimit -n 4096` does in a shell, and run it again",
    )


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the closest allowed word, or the list of what is allowed."""
    options = sorted(allowed)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(options)}"
