"""What all loaded models have: a bundle, a tokenizer, and memory to give back."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from typing_extensions import Self

from helium_edge.bundle import Bundle, Manifest
from helium_edge.errors import UsageError
from helium_edge.runtime.tokenizer import Tokenizer

Text = str | Sequence[int]
"""A text, or its token ids."""


class Model:
    """What all models have; a context manager, which closes the model.

    Attributes:
        bundle: The bundle that was loaded.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back."""
        return Tokenizer(self.bundle.path(self.manifest.tokenizer.file))

    def ids(self, text: Text) -> list[int]:
        """Token ids of a text, the special tokens of its template included; ids stay as they are.

        Raises:
            UsageError: The text holds a token that the model has no row for.
        """
        if not isinstance(text, str):
            return list(text)
        return self.known(self.tokenizer.encode(text))

    def known(self, ids: list[int]) -> list[int]:
        """These ids, of a text.

        Raises:
            UsageError: One is of a token that the model has no row for.
        """
        bad = next((token for token in ids if token in self.manifest.tokens.forbidden), None)
        if bad is not None:
            raise UsageError(
                f"the text holds the token {self.tokenizer.text_of(bad)} ({bad}), for which the model has no row"
            )
        return ids

    def close(self) -> None:
        """Give the memory of the graphs back; the model cannot run any more."""
        raise NotImplementedError

    def closed_error(self) -> UsageError:
        """What is raised when a closed model is to run."""
        return UsageError(f"{self.manifest.name}: the model is closed", hint="load the bundle again")
