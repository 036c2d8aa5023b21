"""What a recipe may say of the toy target."""

from __future__ import annotations

from typing import Literal

from helium_edge.schemas import StrictModel


class Options(StrictModel):
    """Its one option.

    Args:
        order: Of the weights in the file; changes nothing but bytes.
    """

    order: Literal["forward", "backward"] = "forward"
