"""`Checkpoint`: a validated folder of safetensors whose tensors are read one at a time."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch

from helium_edge.chat import TEMPLATE_FOLDER
from helium_edge.checkpoint.adapter import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Adapter,
    is_adapter,
    read_adapter,
    refuse_adapter_alone,
    refuse_adapter_beside,
)
from helium_edge.checkpoint.files import find_file, read_object
from helium_edge.checkpoint.foreign import refuse_foreign
from helium_edge.checkpoint.generation_file import GENERATION_CONFIG, NO_FILE, GenerationFile, read_generation_file
from helium_edge.checkpoint.header import DAMAGED, TensorInfo, read_header
from helium_edge.checkpoint.names import NamedTensors, canonical, guess_architecture, unwrap
from helium_edge.checkpoint.source import TOKENIZER_FILES, Source, resolve_source
from helium_edge.checkpoint.tensor_file import read_tensor
from helium_edge.checkpoint.weight_map import EMBEDDING, HEAD, PREFIX, check_tensors, first_few
from helium_edge.config import ModelConfig
from helium_edge.documents import first_line, shorten
from helium_edge.errors import CheckpointError, UsageError, too_many_files
from helium_edge.tasks import ENCODER

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

MAX_INDEX_BYTES = 2 << 20
"""An index has about 100 bytes a tensor."""

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TEMPLATE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_HASH_CHUNK = 1 << 20


@dataclass(frozen=True)
class ReadOptions:
    """How a checkpoint is to be read.

    Attributes:
        merge_adapter: Merge the LoRA adapter that lies beside the weights; without it such a folder is refused.
        generation_config: A file to read in place of the checkpoint's `generation_config.json`.
    """

    merge_adapter: bool = False
    generation_config: Path | None = None


DEFAULT_OPTIONS = ReadOptions()


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint whose headers have been read and checked; no tensor data is held.

    Attributes:
        folder: Where the files are.
        source: What to print and record: `helium-tiny`, the Hub id, or the name of the folder.
        revision: Commit on the Hub, None for local folders.
        config: The model; its token ids are those of all files together, see docs/checkpoints.md.
        tensors: All tensors in the order of the forward pass; a tied head is among them when it is stored.
        weight_files: Names of the files that hold or list the weights.
        generation: What generation_config.json says.
        adapter: What is merged into the weights as they are read; None where there is none.
        warnings: What was ignored, replaced or guessed, a line each.
        stored: The tensors as the base stores them, where an adapter changes them; None where it is `tensors`.
        stamps: Of each file of the folder, what tells it from another one; see `check_unchanged`.
    """

    folder: Path
    source: str
    revision: str | None
    config: ModelConfig
    tensors: Mapping[str, TensorInfo]
    weight_files: tuple[str, ...]
    generation: GenerationFile = NO_FILE
    adapter: Adapter | None = None
    warnings: tuple[str, ...] = ()
    stored: Mapping[str, TensorInfo] | None = None
    stamps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def _stored(self) -> Mapping[str, TensorInfo]:
        return self.tensors if self.stored is None else self.stored

    @property
    def _hashed_names(self) -> list[str]:
        return sorted({CONFIG_FILE, GENERATION_CONFIG, *self.weight_files, *TOKENIZER_FILES})

    @property
    def is_renamed(self) -> bool:
        """Whether names of tensors in the files are others than every version of transformers finds by itself."""
        bare = self.config.task == ENCODER  # of which both spellings are known
        return any(
            info.name != name and not (bare and PREFIX + info.name == name) for name, info in self.tensors.items()
        )

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor in its stored dtype, or in float32 where an adapter is merged into it.

        It is in memory until it is dropped, so keep none longer than needed. Safe to call from several threads.

        Raises:
            CheckpointError: There is no such tensor, or the file changed since the checkpoint was opened.
        """
        tensor = self.read_base(name)
        if self.adapter is None:
            return tensor
        try:
            return self.adapter.merge(name, tensor)
        except (EOFError, OSError, RuntimeError) as error:
            raise too_many_files(error) or CheckpointError(
                f"{ADAPTER_WEIGHTS}: the part for {name} cannot be merged: {first_line(error)}", hint=DAMAGED
            ) from error

    def read_base(self, name: str) -> torch.Tensor:
        """Read one tensor as `read` does, without the adapter."""
        info = self._stored.get(name)
        if info is None:
            raise CheckpointError(f"{self.source}: no tensor {shorten(name)}")
        try:
            return read_tensor(self.folder / info.file, info)
        except EOFError as error:
            raise CheckpointError(f"{info.file}: tensor {name} was cut while the checkpoint was in use") from error
        except OSError as error:
            raise too_many_files(error) or CheckpointError(
                f"{info.file}: tensor {name} cannot be read: {first_line(error)}", hint=DAMAGED
            ) from error

    def check_unchanged(self) -> None:
        """Refuse if a file that `hashes` names is another one than when the checkpoint was opened.

        `hashes` and `read` look at the files at different times; what both saw is one thing only if nobody wrote.

        Raises:
            CheckpointError: The file is named.
        """
        now = _stamps(self.folder)
        templates = {name for name in {*now, *self.stamps} if "/" in name}
        for name in sorted({*self._hashed_names, *templates}):
            if now.get(name) != self.stamps.get(name):
                raise CheckpointError(
                    f"{name}: changed while the checkpoint was in use",
                    hint="run it again when nothing writes there",
                )

    def find_file(self, name: str) -> Path | None:
        """Return the path of a file of the folder, None when there is none.

        Raises:
            CheckpointError: It is no regular file, or a link of no Hub cache.
        """
        return find_file(self.folder, name)

    def tokenizer_files(self) -> list[Path]:
        """Return the paths of those `TOKENIZER_FILES` that are there.

        Raises:
            CheckpointError: There is no tokenizer.json.
        """
        paths = [self.find_file(name) for name in TOKENIZER_FILES]
        if paths[0] is None:
            raise CheckpointError(
                f"{self.folder / TOKENIZER_FILES[0]}: no such file",
                hint="AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER) in transformers writes it",
            )
        return [path for path in paths if path is not None]

    def template_files(self) -> list[Path]:
        """Return the paths of the named chat templates, sorted.

        Raises:
            CheckpointError: The folder cannot be listed, or holds what is no regular file.
        """
        try:
            found = sorted(path.name for path in (self.folder / TEMPLATE_FOLDER).glob("*.jinja"))
        except OSError as error:
            raise CheckpointError(f"{TEMPLATE_FOLDER}: cannot be read: {error.strerror}") from error
        names = [
            name for name in found if not name.startswith(".")
        ]  # as `._rag.jinja`, which macOS leaves in archives
        odd = next((name for name in names if not _TEMPLATE_NAME.fullmatch(name)), None)
        if odd is not None:
            raise CheckpointError(
                f"{TEMPLATE_FOLDER}: {shorten(odd)} is no name that a bundle can have",
                hint="rename it; allowed: letters, digits, _, - and .",
            )
        paths = (self.find_file(f"{TEMPLATE_FOLDER}/{name}") for name in names)
        return [path for path in paths if path is not None]

    def hashes(self) -> dict[str, str]:
        """Return the sha256 of the config, weight and tokenizer files, by name, sorted; computed once.

        Raises:
            CheckpointError: A file vanished or cannot be read.
        """
        return dict(self._hashing.result())

    def start_hashing(self) -> None:
        """Begin with `hashes` in another thread: for some gigabytes it takes seconds, and needs no help."""
        _ = self._hashing

    @functools.cached_property
    def _hashing(self) -> Future[dict[str, str]]:
        future: Future[dict[str, str]] = Future()

        def run() -> None:
            try:
                paths = {name: self.find_file(name) for name in self._hashed_names}
                paths |= {f"{TEMPLATE_FOLDER}/{path.name}": path for path in self.template_files()}
                future.set_result({name: _sha256(path) for name, path in paths.items() if path is not None})
            except BaseException as error:  # for whoever asks for the result
                future.set_exception(error)

        # A daemon, so that an export that fails ends at once.
        threading.Thread(target=run, name="hashes", daemon=True).start()
        return future


def open_checkpoint(
    source: str, *, revision: str | None = None, options: ReadOptions = DEFAULT_OPTIONS
) -> Checkpoint:
    """Resolve a checkpoint, read its config and all headers, and check them against each other.

    Args:
        source: A folder, a Hub id (`org/name` or `org/name@revision`), or `helium-tiny`.
        revision: Branch, tag or commit of a Hub id.
        options: How to read it.

    Raises:
        CheckpointError: Nothing is there, or it is incomplete, malformed or of an unsupported kind.
        UsageError: `revision` is given for a local folder, or an adapter is to be merged and there is none.
        ResourceError: The disk is full while downloading.
    """
    return _open(resolve_source(source, revision=revision), options)


def _open(source: Source, options: ReadOptions) -> Checkpoint:
    folder = source.folder
    stamps = _stamps(folder)  # before anything is read
    _check_adapter(folder, options)
    find_file(folder, CONFIG_FILE)  # refuses what is no regular file before anything reads it
    config = ModelConfig.from_file(folder / CONFIG_FILE)
    found, files = _find_tensors(folder)
    refuse_foreign(found.values())
    unwrapped = unwrap(found)
    config, guessed = _with_class(config, folder, unwrapped)
    named = canonical(config, unwrapped.tensors)
    tensors = check_tensors(config, named.tensors, where=files[0])
    generation = read_generation_file(_generation_path(folder, options), config, folder / CONFIG_FILE)
    checkpoint = Checkpoint(
        folder,
        source.label,
        source.revision,
        generation.apply(config),
        MappingProxyType(tensors),
        files,
        generation,
        warnings=(*config.warnings, *guessed, *unwrapped.warnings, *named.warnings, *generation.warnings),
        stamps=MappingProxyType(stamps),
    )
    _check_tied_head(checkpoint)
    if not options.merge_adapter:
        return checkpoint
    adapter = read_adapter(folder, config, tensors)
    return dataclasses.replace(
        checkpoint,
        adapter=adapter,
        tensors=MappingProxyType(adapter.infos(tensors)),
        stored=MappingProxyType(tensors),
        weight_files=(*files, ADAPTER_CONFIG, ADAPTER_WEIGHTS),
    )


def _stamps(folder: Path) -> dict[str, tuple[int, ...]]:
    """Size, time of change and number of each file of a folder, by name; what links point to."""
    found = {}
    for below in ("", f"{TEMPLATE_FOLDER}/"):
        with suppress(OSError), os.scandir(folder / below) as entries:  # what is no folder is refused elsewhere
            for entry in entries:
                with suppress(OSError):
                    found[f"{below}{entry.name}"] = _stamp(entry.stat())
    return found


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


def _check_adapter(folder: Path, options: ReadOptions) -> None:
    """Refuse an adapter that is not merged, and a merge without an adapter."""
    alone = find_file(folder, SINGLE_FILE) is None and find_file(folder, INDEX_FILE) is None
    if not is_adapter(folder, alone=alone):
        if options.merge_adapter:
            raise UsageError(f"{folder}: holds no adapter to merge", hint="leave out --merge-adapter")
        return
    if alone:
        raise refuse_adapter_alone(folder)
    if not options.merge_adapter:
        raise refuse_adapter_beside(folder)


def _with_class(config: ModelConfig, folder: Path, found: NamedTensors) -> tuple[ModelConfig, tuple[str, ...]]:
    """The config with the class that the tensors are of, where the file names none; and what to say about it."""
    if config.names_class:
        return config, ()
    guess = guess_architecture(config, found.tensors)
    if guess != config.architecture:
        config = ModelConfig.from_file(folder / CONFIG_FILE, architecture=guess)
    return config, (f"{CONFIG_FILE}: architectures names no class; by model_type and tensors it is {guess}",)


def _generation_path(folder: Path, options: ReadOptions) -> Path | None:
    """The file with the settings of generation; None where there is none."""
    if options.generation_config is None:
        return find_file(folder, GENERATION_CONFIG)
    if not options.generation_config.is_file():
        raise UsageError(
            f"{options.generation_config}: no such file", hint="--generation-config takes a JSON file"
        )
    return options.generation_config


def _find_tensors(folder: Path) -> tuple[dict[str, TensorInfo], tuple[str, ...]]:
    """All tensors by their names in the files, and the names of the files, the one that lists them first."""
    single, index = find_file(folder, SINGLE_FILE), find_file(folder, INDEX_FILE)
    if single is not None and index is not None:
        raise CheckpointError(
            f"{folder}: holds both {SINGLE_FILE} and {INDEX_FILE}, one of them is stale", hint="remove that one"
        )
    if index is not None:
        listing = _read_index(index)
        return _sharded_tensors(folder, listing), (INDEX_FILE, *sorted(set(listing.values())))
    if single is not None:
        return read_header(single), (SINGLE_FILE,)
    raise _no_weights(folder)


def _read_index(path: Path) -> dict[str, str]:
    """Return tensor name -> shard file, every file a plain name."""
    listing = read_object(path, MAX_INDEX_BYTES, hint=DAMAGED).get("weight_map")
    if not isinstance(listing, dict) or not listing:
        raise CheckpointError(f"{path.name}: has no weight_map", hint=DAMAGED)
    for name, file in listing.items():
        if not _is_plain_name(file):
            shown = shorten(file) if isinstance(file, str) else repr(file)[:80]
            raise CheckpointError(
                f"{path.name}: tensor {shorten(name)} is said to be in {shown!r}; "
                "allowed: the name of a .safetensors file in the same folder"
            )
    return listing


def _is_plain_name(file: object) -> bool:
    return (
        isinstance(file, str)
        and file.isprintable()
        and file.endswith(".safetensors")
        and len(file) <= 255
        and not any(character in file for character in "/\\:")
    )


def _sharded_tensors(folder: Path, listing: Mapping[str, str]) -> dict[str, TensorInfo]:
    """Read the headers of all shards and hold them against the index."""
    shards = {file: find_file(folder, file) for file in sorted(set(listing.values()))}
    absent = [file for file, path in shards.items() if path is None]
    if absent:
        raise CheckpointError(
            f"{folder}: {len(absent)} of {len(shards)} shards of {INDEX_FILE} are missing: {first_few(absent)}",
            hint="copy or download them again",
        )
    found: dict[str, TensorInfo] = {}
    for path in shards.values():
        assert path is not None  # absent ones were refused above
        for name, info in read_header(path).items():
            if name in found:
                shards_of = f"{found[name].file} and {info.file}"
                raise CheckpointError(f"{shards_of}: tensor {shorten(name)} is in both")
            # At once, so that many shards of many tensors cannot add up.
            if name not in listing:
                raise CheckpointError(f"{info.file}: tensor {shorten(name)} is not listed in {INDEX_FILE}")
            found[name] = info
    for name, info in found.items():
        if listing[name] != info.file:
            raise CheckpointError(
                f"{info.file}: tensor {shorten(name)} should be in {listing[name]} according to {INDEX_FILE}"
            )
    lost = [name for name in listing if name not in found]
    if lost:
        raise CheckpointError(
            f"{listing[lost[0]]}: does not hold what {INDEX_FILE} lists: {first_few([shorten(n) for n in lost])}",
            hint=DAMAGED,
        )
    return found


def _check_tied_head(checkpoint: Checkpoint) -> None:
    """Refuse a stored head that differs from the embedding it is said to be.

    transformers 4 would then use the embedding, transformers 5 the head: neither can be the silent choice.
    """
    if not checkpoint.config.tie_word_embeddings or HEAD not in checkpoint.tensors:
        return
    head, embedding = checkpoint.read(HEAD), checkpoint.read(EMBEDDING)
    # Compared as bytes, so that a NaN, which equals nothing, is left to the check that names it.
    if head.dtype != embedding.dtype or not torch.equal(head.view(torch.uint8), embedding.view(torch.uint8)):
        raise CheckpointError(
            f"{checkpoint.tensors[HEAD].file}: {HEAD} differs from {EMBEDDING}, "
            "but config.json says tie_word_embeddings = true",
            hint="set it to false if the head is its own, or remove the head from the file",
        )


def _no_weights(folder: Path) -> CheckpointError:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {error.strerror}") from error
    pickles = [name for name in names if name.endswith(_PICKLE_SUFFIXES)]
    if "helium-edge.json" in names:
        return CheckpointError(f"{folder}: is an exported bundle", hint="export takes the original checkpoint")
    if pickles:
        return CheckpointError(
            f"{folder / pickles[0]}: pickle files are never opened, they can run code",
            hint="if you trust it, AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER, "
            "safe_serialization=True) in transformers converts it",
        )
    others = [name for name in names if name.endswith(".safetensors")]
    found = f"; found {first_few(others)}" if others else ""
    return CheckpointError(f"{folder}: has neither {SINGLE_FILE} nor {INDEX_FILE}{found}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()
