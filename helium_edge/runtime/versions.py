"""Is the installed runtime new enough for a bundle?"""

from __future__ import annotations

from importlib import metadata

from helium_edge.errors import MissingToolError


def check_runtime(package: str, minimum: str | None, *, int8_cache: bool = False) -> None:
    """Refuse a runtime that is older than the graphs need.

    Args:
        package: The runtime, as the manifest spells it, which is the name of its package.
        minimum: The oldest version that will do, as `1.27`; None for any.
        int8_cache: It is needed for an int8 KV cache, which a recipe may do without.

    Raises:
        MissingToolError: It is older. Of one that is not installed whoever loads it speaks: a CoreML bundle runs
            here without ExecuTorch.
    """
    if minimum is None:
        return
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        return
    if _numbers(found) < _numbers(minimum):
        raise MissingToolError(
            f"{package} {minimum} or newer is needed for {'an int8 KV cache' if int8_cache else 'these graphs'}; "
            f"{found} is installed",
            hint=f"pip install --upgrade '{package}>={minimum}'"
            f"{', or a recipe with kv_cache: float32' if int8_cache else ''}",
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (1, 27, 0) of `1.27.0.dev1`."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
