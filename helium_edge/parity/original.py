"""The checkpoint that a bundle was exported from."""

from __future__ import annotations

from helium_edge.bundle import Manifest
from helium_edge.checkpoint import Checkpoint, ReadOptions, open_checkpoint
from helium_edge.checkpoint.adapter import ADAPTER_WEIGHTS
from helium_edge.errors import CheckpointError


def original_of(manifest: Manifest, given: str | None) -> Checkpoint:
    """Open the checkpoint of a bundle, checked by its hashes.

    Args:
        manifest: Of the bundle.
        given: Where it is; None is where the manifest says it came from.

    Raises:
        CheckpointError: It is not at hand, or another one.
    """
    source = manifest.source
    options = ReadOptions(merge_adapter=ADAPTER_WEIGHTS in source.files)
    revision = None if given else source.revision
    try:
        checkpoint = open_checkpoint(given or source.checkpoint, revision=revision, options=options)
    except CheckpointError as error:
        if given is not None:
            raise
        raise CheckpointError(
            f"the original of this bundle, {source.checkpoint}, is not at hand: {error.message}",
            hint="name its folder with --checkpoint",
        ) from error
    hashes = checkpoint.hashes()
    wrong = [name for name, value in source.files.items() if hashes.get(name) != value]
    if wrong:
        raise CheckpointError(
            f"{checkpoint.source}: {wrong[0]} is not the file that the bundle was exported from",
            hint="name the right checkpoint with --checkpoint",
        )
    return checkpoint
