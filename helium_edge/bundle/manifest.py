"""`Manifest`: the content of `helium-edge.json`, which tells hosts in any language how to run a bundle.

Field names are a contract: renaming or removing one, or changing its meaning, takes a new major schema version;
adding one takes a new minor version, and readers ignore what they do not know. The same manifest always gives the
same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from helium_edge.bundle.chat_section import ChatSection
from helium_edge.bundle.golden import GoldenTrace
from helium_edge.bundle.graph_sections import CacheSection, GraphEntry
from helium_edge.bundle.seal import seal_problem, sealed_json
from helium_edge.bundle.sections import (
    CreatedBy,
    FileEntry,
    GenerationSection,
    MemorySection,
    ModelSection,
    OutputSection,
    QuantizationSection,
    Section,
    SourceSection,
    TargetSection,
    TokenizerSection,
    TokensSection,
)
from helium_edge.documents import DocumentError, parse_json, read_document
from helium_edge.errors import UPGRADE, BundleError
from helium_edge.hub import LFS_POINTER, is_hub_link
from helium_edge.schemas import Items, Size, first_problem, shorten
from helium_edge.signature import DecoderSpec, LogitsMode, TextSignature
from helium_edge.tasks import LANGUAGE_MODEL, TASKS, Task

MANIFEST_NAME = "helium-edge.json"
SCHEMA_NAME = "helium-edge/bundle"
SCHEMA_VERSION = "1.7"

MAX_MANIFEST_BYTES = 1 << 20
"""A manifest of a hundred layers stays below; anything above this limit is not one."""


class Manifest(Section):
    """Everything a host needs to run, check and describe a bundle."""

    # `schema` is a method of pydantic models, so the field has another name in Python.
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    schema_id: Literal["helium-edge/bundle"] = Field(default="helium-edge/bundle", alias="schema")
    schema_version: Annotated[str, Field(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$")] = SCHEMA_VERSION
    name: Annotated[str, Field(min_length=1, max_length=255)]
    created_by: CreatedBy
    runtime: str
    """What runs the graphs: `onnxruntime`."""
    runtime_min_version: Annotated[str, Field(pattern=r"^[0-9]{1,4}(\.[0-9]{1,4}){1,2}$")] | None = None
    """The oldest version of it that is known to run them; null where any does."""
    target: TargetSection
    source: SourceSection
    model: ModelSection
    tokens: TokensSection
    tokenizer: TokenizerSection
    quantization: QuantizationSection
    output: OutputSection | None = Field(default=None, alias="head")
    """What the model returns when it is a classifier or encoder; null for language models."""
    graphs: Items[GraphEntry] = Field(min_length=1)
    cache: CacheSection | None
    """Null when the model is a classifier or encoder: its graph takes a whole text."""
    logits: LogitsMode
    """`last`: prefill returns the logits of the position `last_index`; `all`: those of every position."""
    prefill_len: Size
    """Tokens of the prefill graph, and the longest chunk to give to a graph of phase `any`; tokens of a text where
    there is a `head`."""
    cache_len: Size
    """Tokens that fit in the cache, prompt and answer together; tokens of a text where there is a `head`."""
    generation: GenerationSection
    chat: ChatSection | None = None
    """How a conversation reads; null where the checkpoint has no chat template."""
    memory: MemorySection
    parity: dict[str, JsonValue] | None = None
    """Result of the comparison with the original checkpoint; null when it was not run."""
    golden: GoldenTrace | None = None
    """A recorded run to check a host's own loop with; null when it was not recorded."""
    files: Items[FileEntry] = ()
    """Every file but this one, sorted by path."""

    @property
    def task(self) -> Task:
        """What the model is for."""
        return LANGUAGE_MODEL if self.output is None else TASKS[self.output.kind]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of a classifier's labels; other models have none."""
        return () if self.output is None else self.output.labels

    def to_json(self) -> str:
        """The one spelling of this manifest, with its checksum; see `seal`."""
        return sealed_json(self.model_dump(mode="json", by_alias=True))

    def with_files(self, files: Iterable[FileEntry]) -> Manifest:
        """A copy that lists `files`, sorted by path."""
        return self.model_copy(update={"files": tuple(sorted(files, key=lambda entry: entry.path))})

    def graph_files(self) -> dict[str, str]:
        """File of each phase."""
        return {graph.phase: graph.file for graph in self.graphs}

    def prefill_widths(self) -> list[int]:
        """Tokens of each prefill graph, ascending; of a graph for any number, the most to give to it."""
        widths = {graph.tokens for graph in self.graphs if graph.phase == "prefill" and graph.tokens is not None}
        return sorted(widths) or [self.prefill_len]

    def text_signature(self) -> TextSignature:
        """Input and output of the graph of a classifier or encoder.

        Raises:
            BundleError: It is one.
        """
        if self.task.has_cache:
            raise BundleError(
                f"{self.name}: {self.model.architecture} has no labels, it generates text",
                hint="`helium-edge generate` runs it",
            )
        return TextSignature(
            self.task,
            self.prefill_len,
            self.model.vocab_size,
            self.model.hidden_size,
            len(self.labels),
            self.tokens.pad,
        )

    def decoder_spec(self) -> DecoderSpec:
        """What a runner must know of the decoder graphs.

        Raises:
            BundleError: The model is a classifier or encoder, or the cache section is not known here.
        """
        if self.cache is None:
            raise BundleError(
                f"{self.name}: {self.model.architecture} generates no text", hint="`helium-edge classify` runs it"
            )
        return DecoderSpec(self.model.vocab_size, self.cache.to_spec(), self.prefill_len, self.logits)


def read_manifest(path: Path, *, sealed: bool = False) -> Manifest:
    """Read and check a `helium-edge.json`; nothing else of the bundle is looked at.

    Args:
        path: The file; no link is followed but one of the Hub cache.
        sealed: Whether its checksum of itself must be right.

    Raises:
        BundleError: Unreadable, of a newer major version, or against the schema; the field is named.
    """
    try:
        data = read_document(path, MAX_MANIFEST_BYTES, follow_links=is_hub_link(path))
    except OSError as error:
        raise BundleError(f"{path.name}: not readable: {error.strerror}") from error
    except DocumentError as error:
        raise BundleError(f"{path.name}: {error}") from error
    if data.startswith(LFS_POINTER):
        raise BundleError(f"{path.name}: is a Git LFS pointer, not the manifest", hint="run `git lfs pull`")
    manifest = parse_manifest(data, where=path.name)
    problem = seal_problem(data, manifest.schema_version) if sealed else ""
    if problem:
        raise BundleError(f"{path.name}: {problem}", hint="it is damaged or was edited: copy or export it again")
    return manifest


def parse_manifest(data: bytes, *, where: str = MANIFEST_NAME) -> Manifest:
    """Check the bytes of a manifest; `where` names the file in messages.

    Raises:
        BundleError: See `read_manifest`.
    """
    try:
        document = parse_json(data, constants=False)
    except DocumentError as error:
        raise BundleError(f"{where}: {error}") from error
    _check_version(document, where)
    if "files" not in document:  # the model has none before they are listed
        raise BundleError(f"{where}: top level: 'files' is a required property")
    try:
        # Through JSON: strict mode then takes arrays for tuples and nothing else loosely.
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        place, problem = first_problem(error, document)
        if place.endswith((".path", ".file")) and " does not match " in problem:
            path = problem.rpartition(" does not match ")[0]
            problem = f"{path} is not allowed; allowed: a plain relative path inside the bundle"
        raise BundleError(f"{where}: {place}: {problem}") from error
    check_manifest(manifest, where)
    return manifest


def check_manifest(manifest: Manifest, where: str = MANIFEST_NAME) -> None:
    """Check what no schema can say: that the sections fit each other and the list of files.

    Raises:
        BundleError: The first contradiction.
    """
    problem = next(_contradictions(manifest), None)
    if problem is not None:
        raise BundleError(f"{where}: {problem}")
    try:
        if manifest.cache is not None:
            manifest.cache.to_spec()
    except BundleError as error:
        raise BundleError(f"{where}: {error.message}") from error


def _contradictions(manifest: Manifest) -> Iterator[str]:
    seen: dict[str, str] = {}
    for entry in manifest.files:
        # Folded, because the bundle may be copied to a file system that takes both names for one.
        if entry.path.casefold() in seen:
            yield f"files lists {seen[entry.path.casefold()]!r} and {entry.path!r}: one file twice"
        seen[entry.path.casefold()] = entry.path
        if entry.path.casefold() == MANIFEST_NAME:
            yield f"files lists {entry.path!r}, the manifest itself"
    listed = set(seen.values())
    for index, graph in enumerate(manifest.graphs):
        if graph.file not in listed:
            yield f"graphs[{index}].file = {graph.file!r} is not among the files"
    scales = None if manifest.cache is None else manifest.cache.scales
    if scales is not None and scales.file not in listed:
        yield f"cache.scales.file = {scales.file!r} is not among the files"
    if manifest.tokenizer.file not in listed:
        yield f"tokenizer.file = {manifest.tokenizer.file!r} is not among the files"
    keys = [(graph.phase, graph.tokens, graph.cache_len) for graph in manifest.graphs]
    if len(set(keys)) != len(keys):
        yield "graphs has two entries of one phase, tokens and cache_len, so a host cannot choose"
    widest = manifest.prefill_widths()[-1]
    if widest != manifest.prefill_len:
        yield f"prefill_len = {manifest.prefill_len}, but the prefill graphs take up to {widest} tokens"
    if (manifest.cache is not None) != manifest.task.has_cache:
        yield "a bundle has either a cache or a head"
    if manifest.cache is not None and manifest.cache_len not in manifest.cache.shape:
        yield f"cache_len = {manifest.cache_len} does not fit cache.shape = {list(manifest.cache.shape)}"
    yield from manifest.chat.problems() if manifest.chat is not None else ()
    yield from _bad_tokens(manifest)


def _bad_tokens(manifest: Manifest) -> Iterator[str]:
    tokens, golden, vocab = manifest.tokens, manifest.golden, manifest.model.vocab_size
    ids = {
        "tokens.bos": () if tokens.bos is None else (tokens.bos,),
        "tokens.eos": tokens.eos,
        "tokens.pad": () if tokens.pad is None else (tokens.pad,),
        "chat.stop": () if manifest.chat is None else manifest.chat.stop,
        "golden": () if golden is None else golden.token_ids(),
    }
    for place, values in ids.items():
        bad = next((value for value in values if value >= vocab), None)
        if bad is not None:
            yield f"{place} holds the id {bad}, outside the vocabulary of {vocab}"


def _check_version(document: Any, where: str) -> None:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA_NAME:
        raise BundleError(f'{where}: not a helium-edge manifest: "schema" must be {SCHEMA_NAME!r}')
    version = document.get("schema_version")
    major = version.partition(".")[0] if isinstance(version, str) else ""
    if not re.fullmatch(r"[0-9]{1,4}", major):
        raise BundleError(f"{where}: schema_version = {shorten(version)} is no version such as {SCHEMA_VERSION!r}")
    known = SCHEMA_VERSION.partition(".")[0]
    if int(major) > int(known):
        raise BundleError(
            f"{where}: schema version {version} was made by a newer helium-edge; this one reads {known}.x",
            hint=UPGRADE,
        )
    if int(major) < int(known):
        raise BundleError(
            f"{where}: schema version {version} is no longer read; this helium-edge reads {known}.x",
            hint="export the checkpoint again",
        )
