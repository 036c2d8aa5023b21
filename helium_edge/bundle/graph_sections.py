"""Graph and cache sections of the manifest, and their conversions from and to `signature`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from pydantic import Field

from helium_edge.bundle.sections import BundlePath, DtypeName, Section, Sha256
from helium_edge.errors import BundleError
from helium_edge.schemas import Count, Items, Size
from helium_edge.signature import CacheSpec, CacheUpdate, GraphSignature, Role, TensorSpec, TextSignature

if TYPE_CHECKING:
    from helium_edge.quant.kv_calibration import KvCalibration

BATCHED_LAYOUT = ("batch", "kv_head", "slot", "head_dim")
PLAIN_LAYOUT = BATCHED_LAYOUT[1:]

GraphPhase = Literal["prefill", "decode", "any", "classify"]


class TensorEntry(Section):
    """One graph input or output."""

    name: str
    role: str
    """What it is for: `tokens`, `past_length`, `last_index`, `past_key`, `logits`, ..."""
    dtype: DtypeName
    """As numpy spells it."""
    shape: Items[Size | str]
    """A string is the name of a dimension that is free at each call."""

    @classmethod
    def from_spec(cls, spec: TensorSpec) -> TensorEntry:
        """The entry of a tensor."""
        return cls(name=spec.name, role=spec.role, dtype=spec.dtype, shape=spec.shape)

    def to_spec(self) -> TensorSpec:
        """The tensor of an entry."""
        # A role that a later minor version adds is carried along; a runner looks up the roles that it serves.
        return TensorSpec(name=self.name, role=cast("Role", self.role), dtype=self.dtype, shape=self.shape)


class GraphEntry(Section):
    """One graph: a file, or a method of one."""

    file: BundlePath
    method: str | None
    """Name inside the file (ExecuTorch); null for ONNX."""
    phase: GraphPhase
    """`any` serves prefill and decode: its number of tokens is free at each call. `classify`: a text."""
    tokens: Size | None
    """Tokens per call; null when free."""
    cache_len: Size | None
    """Slots of the cache that it takes; null without a cache."""
    inputs: Items[TensorEntry]
    """In the order in which the runtime takes them."""
    outputs: Items[TensorEntry]
    """In the order in which the runtime returns them."""
    planned_outputs: bool = False
    """Whether what it returns lies in memory of the program; a `.pte` without it wants that of a host."""
    free_rows: bool = False
    """Whether `last_index` may have any number of entries, a row of `logits` for each; shapes are for one."""
    required_operators: Items[str] = ()
    """Kernels that it calls, as the runtime spells them: `com.microsoft::MatMulNBits`, `aten::add.out`."""
    required_libraries: Items[str] = ()
    """What an app links for them beside the runtime, as ExecuTorch's build names it; none for ONNX."""

    @classmethod
    def from_signature(
        cls,
        file: str,
        signature: GraphSignature | TextSignature,
        *,
        method: str | None = None,
        operators: tuple[str, ...] = (),
        libraries: tuple[str, ...] = (),
        planned_outputs: bool = False,
    ) -> GraphEntry:
        """The entry of a graph."""
        return cls(
            file=file,
            method=method,
            phase=signature.phase,
            tokens=signature.tokens,
            cache_len=None if isinstance(signature, TextSignature) else signature.cache.cache_len,
            inputs=tuple(TensorEntry.from_spec(spec) for spec in signature.inputs()),
            outputs=tuple(TensorEntry.from_spec(spec) for spec in signature.outputs()),
            planned_outputs=planned_outputs,
            free_rows=signature.free_rows,
            required_operators=operators,
            required_libraries=libraries,
        )

    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Inputs in order, for runners to check a loaded graph against."""
        return tuple(entry.to_spec() for entry in self.inputs)

    def output_specs(self) -> tuple[TensorSpec, ...]:
        """Outputs in order, for runners to check a loaded graph against."""
        return tuple(entry.to_spec() for entry in self.outputs)


class CacheScalesSection(Section):
    """Scales of an int8 cache: real = scale * code. The graphs have them; a host needs none of it to run."""

    file: BundlePath
    """safetensors: `layers.{i}.key_scale` and `layers.{i}.value_scale`, each (kv_heads, head_dim) float32."""
    granularity: Literal["per_channel"] = "per_channel"
    """One scale for each dimension of each key-value head."""
    text: str
    """What the scales were calibrated on: the built-in text, or a file by its name."""
    text_sha256: Sha256
    """Of the token ids, as JSON."""
    tokens: Size
    """Tokens of that text."""
    headroom: float = Field(gt=0)
    """Scales cover this many times the largest magnitude seen."""
    held_out_tokens: Count
    """Tokens of other text on which clipping was counted."""
    clipped: float = Field(ge=0, le=1)
    """Share of its values that are outside the codes."""
    worst: str | None = None
    """The channel that is clipped most; null where none is."""

    @classmethod
    def from_calibration(
        cls, file: str, found: KvCalibration, *, text: str, text_sha256: str, headroom: float
    ) -> CacheScalesSection:
        """The section of a calibration."""
        held_out = found.held_out
        return cls(
            file=file,
            text=text,
            text_sha256=text_sha256,
            tokens=found.tokens,
            headroom=headroom,
            held_out_tokens=held_out.tokens,
            clipped=float(f"{held_out.share:.3g}"),
            worst=None if held_out.worst is None else str(held_out.worst),
        )


class CacheSection(Section):
    """The KV cache that the host owns: a key buffer and a value buffer per layer."""

    update: CacheUpdate
    """`in_place`: bind each output to the memory of its input. `append`: outputs hold only the new rows, and the
    host copies the real ones to slots `past_length` and up."""
    layout: Items[str]
    """Meaning of each dimension of `shape`."""
    shape: Items[Size]
    """Of one buffer."""
    dtype: DtypeName
    layers: Size
    bytes_per_token: Size
    """Over all layers, keys and values."""
    total_bytes: Size
    keys: Literal["post_rope"] = "post_rope"
    """Cached keys are already rotated."""
    scales: CacheScalesSection | None = None
    """Of an int8 cache; null where the cache holds real values."""

    @classmethod
    def from_spec(cls, spec: CacheSpec, scales: CacheScalesSection | None = None) -> CacheSection:
        """The section of a cache."""
        return cls(
            update=spec.update,
            layout=BATCHED_LAYOUT if spec.batched else PLAIN_LAYOUT,
            shape=spec.shape,
            dtype=spec.dtype,
            layers=spec.layers,
            bytes_per_token=spec.bytes_per_token,
            total_bytes=spec.total_bytes,
            scales=scales,
        )

    def to_spec(self) -> CacheSpec:
        """The cache that the section describes.

        Raises:
            BundleError: Layout, shape, dtype and sizes do not fit each other, or are not known here.
        """
        batched = self.layout == BATCHED_LAYOUT
        if not batched and self.layout != PLAIN_LAYOUT:
            raise BundleError(f"cache.layout = {list(self.layout)} is not known; allowed: {list(BATCHED_LAYOUT)}")
        if len(self.shape) != len(self.layout) or (batched and self.shape[0] != 1):
            raise BundleError(f"cache.shape = {list(self.shape)} does not fit the layout {list(self.layout)}")
        kv_heads, cache_len, head_dim = self.shape[-3:]
        spec = CacheSpec(self.layers, kv_heads, cache_len, head_dim, self.update, batched, self.dtype)
        try:
            sizes = (spec.bytes_per_token, spec.total_bytes)
        except KeyError as error:
            raise BundleError(f"cache.dtype = {self.dtype!r} is not known to this version") from error
        if (self.dtype == "int8") != (self.scales is not None):
            raise BundleError(f"cache.dtype = {self.dtype!r}: an int8 cache has cache.scales, and no other has")
        if sizes != (self.bytes_per_token, self.total_bytes):
            raise BundleError(
                f"cache.bytes_per_token = {self.bytes_per_token} and total_bytes = {self.total_bytes} do not fit "
                f"the shape, which gives {sizes[0]} and {sizes[1]}"
            )
        return spec
