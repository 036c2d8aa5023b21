"""What a recipe may say of the XNNPACK target."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from helium_edge.schemas import StrictModel


class XnnpackOptions(StrictModel):
    """Options of the XNNPACK target.

    Args:
        cache_buckets: Cache lengths of additional decode methods, ascending. A step pays for every slot of its
            method's cache, so short conversations are faster in a short one. Lengths from `cache_len` on are left
            out, since the method `decode` is there for that one.
        prefill_buckets: Tokens of additional prefill methods, ascending. A call pays for all tokens that its
            method has room for, so short texts are faster in a narrow one. Lengths from `prefill_len` on are left
            out, since the method `prefill` is there for that one.
        prefill_cache_buckets: Cache lengths for which each prefill method is there once more, ascending. Attention
            of a call pays for every slot, too. Lengths without room for the method, and from `cache_len` on, are
            left out.
    """

    cache_buckets: tuple[Annotated[int, Field(ge=2, le=1 << 20)], ...] = Field(default=(), max_length=8)
    prefill_buckets: tuple[Annotated[int, Field(ge=2, le=4096)], ...] = Field(default=(), max_length=8)
    prefill_cache_buckets: tuple[Annotated[int, Field(ge=2, le=1 << 20)], ...] = Field(default=(), max_length=4)

    @model_validator(mode="after")
    def _check(self) -> XnnpackOptions:
        for name in ("cache_buckets", "prefill_buckets", "prefill_cache_buckets"):
            if list(getattr(self, name)) != sorted(set(getattr(self, name))):
                raise ValueError(f"{name} must be ascending, each length once")
        return self


Options = XnnpackOptions
