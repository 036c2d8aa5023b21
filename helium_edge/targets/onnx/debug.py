"""Debug graphs of an ONNX bundle: stages cut out of its own graph files, over its own `weights.bin`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from typing_extensions import override

from helium_edge.config import ModelConfig
from helium_edge.documents import first_line
from helium_edge.errors import BundleError
from helium_edge.model.kv_cache import SIDES, KvScales
from helium_edge.signature import (
    INPUT_IDS,
    LAST_INDEX,
    PAST_LENGTH,
    CacheSpec,
    Phase,
    new_name,
    past_name,
    present_name,
)
from helium_edge.targets.debug import (
    Array,
    DebugCall,
    DebugProgram,
    LoadedStages,
    Values,
    codes_of_rows,
    join_parts,
    rows_of_codes,
    split_parts,
)
from helium_edge.targets.onnx.anatomy import Anatomy, Layer, dissect

_FOLDER_OPTION = "session.model_external_initializers_file_folder_path"


class Cutter:
    """Builds a graph of pieces of another one.

    A piece is what lies between some values and others; it gets copies of the nodes, so that pieces do not share
    anything but the inputs of the original graph and its constants.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._nodes: list[ir.Node] = []
        self._inputs: dict[str, ir.Value] = {}
        self._outputs: dict[str, ir.Value] = {}
        self._initializers: dict[str, ir.Value] = {}
        self._pieces = 0

    def piece(self, inputs: Mapping[str, ir.Value], outputs: Mapping[str, ir.Value]) -> None:
        """Add the nodes that lead from `inputs` to `outputs`.

        Args:
            inputs: Values where it starts, by the names that they get as inputs of the new graph.
            outputs: Values that it computes, by the names that they get as outputs.
        """
        self._pieces += 1
        copies: dict[ir.Value, ir.Value] = {}
        for name, value in inputs.items():
            copies[value] = self._input(name, value)
        for value in outputs.values():
            self._copy(value, copies)
        for name, value in outputs.items():
            # Not renamed: the copy may be a graph input, or an output under two names.
            out = ir.Value(name=name, type=value.type, shape=value.shape)
            self._nodes.append(ir.node("Identity", [copies[value]], outputs=[out], name=f"{name}:identity"))
            self._outputs[name] = out

    def model(self) -> ir.Model:
        """The new graph."""
        graph = ir.Graph(
            list(self._inputs.values()), list(self._outputs.values()), nodes=self._nodes,
            initializers=list(self._initializers.values()), opset_imports=dict(self._model.graph.opset_imports),
            name="debug",
        )  # fmt: skip
        return ir.Model(graph, ir_version=self._model.ir_version)

    def _input(self, name: str, value: ir.Value) -> ir.Value:
        if name not in self._inputs:
            self._inputs[name] = ir.Value(name=name, type=value.type, shape=value.shape)
        return self._inputs[name]

    def _copy(self, wanted: ir.Value, copies: dict[ir.Value, ir.Value]) -> None:
        """Copy what computes a value; without recursion, since a whole decoder may hang on it."""
        stack = [wanted]
        while stack:
            value = stack[-1]
            if value in copies:
                stack.pop()
                continue
            node = value.producer()
            if node is None:
                copies[value] = self._constant(value) if value.const_value else self._input(str(value.name), value)
                continue
            missing = [source for source in node.inputs if source is not None and source not in copies]
            if missing:
                stack += missing
                continue
            self._copy_node(node, copies)

    def _copy_node(self, node: ir.Node, copies: dict[ir.Value, ir.Value]) -> None:
        prefix = f"{self._pieces}/"
        outputs = [
            ir.Value(name=prefix + str(out.name) if out.name else "", type=out.type, shape=out.shape)
            for out in node.outputs
        ]
        inputs = [None if source is None else copies[source] for source in node.inputs]
        self._nodes.append(
            ir.Node(
                node.domain, node.op_type, inputs, node.attributes.values(), outputs=outputs,
                name=prefix + str(node.name),
            )
        )  # fmt: skip
        copies.update(zip(node.outputs, outputs, strict=True))

    def _constant(self, value: ir.Value) -> ir.Value:
        name = str(value.name)
        if name not in self._initializers:
            self._initializers[name] = ir.Value(
                name=name, type=value.type, shape=value.shape, const_value=value.const_value
            )
        return self._initializers[name]


class OnnxDebug(DebugProgram):
    """A graph of ONNX Runtime, cut into stages.

    Args:
        folder: The bundle.
        file: The graph.
        config: The model.
        cache: The cache of the graph.
        phases: The calls that it serves.
        width: Token slots of a call; None when any number goes.
        scales: Of an int8 cache.

    Raises:
        BundleError: The graph is not readable, or not built as ours are.
    """

    def __init__(
        self,
        folder: Path,
        file: str,
        config: ModelConfig,
        cache: CacheSpec,
        phases: tuple[Phase, ...],
        width: int | None,
        scales: KvScales | None = None,
    ) -> None:
        self.graph = file
        self.phases = phases
        self.width = width
        self._folder = folder
        self._config = config
        self._cache = cache
        self._scales = scales
        self._anatomy = dissect(ir.load(folder / file), config, file)
        self._stages: LoadedStages[ort.InferenceSession] = LoadedStages(config)

    @override
    def embedding(self, call: DebugCall) -> Array:

        def build(cutter: Cutter) -> None:
            cutter.piece({}, {"embedding": self._anatomy.embedding})

        return self._run(("embedding",), build, call, {})["embedding"]

    @override
    def layer(
        self, index: int, call: DebugCall, values: Values, past: tuple[Array, Array], *, cut: bool
    ) -> dict[str, Array]:
        pieces = layer_pieces(self._anatomy, index, self._cache)
        feeds = dict(values)
        split_parts(feeds, "qkv", [linear.rows for linear in self._anatomy.layers[index].qkv])
        split_parts(feeds, "gate_up", [self._config.intermediate_size] * 2)

        def build(cutter: Cutter) -> None:
            _add(cutter, pieces, cut=cut)

        found = self._run(("layer", index, cut), build, call, feeds, (index, past))
        join_parts(found, "qkv")
        join_parts(found, "gate_up")
        rows = len(found["qkv"])
        for kind in SIDES:
            whole = found[kind].reshape(self._config.num_key_value_heads, -1, self._config.head_dim)
            if self._cache.update == "in_place":
                whole = whole[:, call.past_length : call.past_length + rows]
            found[kind] = rows_of_codes(whole, self._scales, index, kind)
        if "query" in found:
            found["query"] = found["query"][:, : self._config.hidden_size]
        return found

    @override
    def end(self, call: DebugCall, values: Values, *, cut: bool) -> dict[str, Array]:
        anatomy = self._anatomy
        assert anatomy.head is not None  # only language models are cut
        pieces = [
            (dict(zip(("residual", "delta"), anatomy.norm.added, strict=False)), {"norm": anatomy.norm.out}),
            ({"norm": anatomy.norm.out}, {"logits": anatomy.head.out}),
        ]

        def build(cutter: Cutter) -> None:
            _add(cutter, pieces, cut=cut)

        return self._run(("end", cut), build, call, values)

    def _run(
        self,
        key: tuple[object, ...],
        build: Callable[[Cutter], None],
        call: DebugCall,
        values: Values,
        past: tuple[int, tuple[Array, Array]] | None = None,
    ) -> dict[str, Array]:
        session = self._stages.get(key, lambda: self._session(key, build))
        width = self.width or len(call.tokens)
        ids = np.full((1, width), call.tokens[-1], np.int64)
        ids[0, : len(call.tokens)] = call.tokens
        feeds: dict[str, Array] = {
            INPUT_IDS: ids,
            PAST_LENGTH: np.array([call.past_length], np.int32),
            LAST_INDEX: np.array([len(call.tokens) - 1], np.int32),
        }
        if past is not None:
            index, buffers = past
            for side, buffer in zip(SIDES, buffers, strict=True):
                codes = codes_of_rows(buffer, self._scales, index, side, self._cache.dtype)
                feeds[past_name(index, side)] = codes.reshape(self._cache.shape)
        feeds |= {f"in.{name}": np.ascontiguousarray(value[None], np.float32) for name, value in values.items()}
        wanted = {value.name for value in session.get_inputs()}
        try:
            results = session.run(None, {name: value for name, value in feeds.items() if name in wanted})
        except Exception as error:  # the binding layer raises several unrelated types
            raise BundleError(f"{self.graph}: ONNX Runtime stopped in {key[0]}: {first_line(error)}") from error
        names = [value.name.removeprefix("out.") for value in session.get_outputs()]
        # Rows of the cache may lack the batch dimension, and are reshaped by the caller.
        return {
            name: result if name in ("key", "value") else result[0]
            for name, result in zip(names, results, strict=True)
        }

    def _session(self, key: tuple[object, ...], build: Callable[[Cutter], None]) -> ort.InferenceSession:
        cutter = Cutter(self._anatomy.model)
        build(cutter)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry(_FOLDER_OPTION, str(self._folder))
        # Sessions take turns: threads of one that wait spinning would take the processor from the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            data = ir.to_proto(cutter.model()).SerializeToString()
            return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the binding layer raises several unrelated types
            raise BundleError(f"{self.graph}: ONNX Runtime cannot load {key[0]}: {first_line(error)}") from error


Piece = tuple[dict[str, ir.Value], dict[str, ir.Value]]


def layer_pieces(anatomy: Anatomy, index: int, cache: CacheSpec) -> list[Piece]:
    """The operations of a layer: where each starts and what it computes, in order."""
    layer = anatomy.layers[index]
    outputs = {str(value.name): value for value in anatomy.model.graph.outputs}
    name = present_name if cache.update == "in_place" else new_name
    qkv = {f"qkv.{part}": linear.out for part, linear in enumerate(layer.qkv)}
    gate_up = {"gate_up.0": layer.gate.out, "gate_up.1": layer.up.out}
    return [
        (
            dict(zip(("residual", "delta"), layer.norm1.added, strict=False)),
            {"input_layernorm": layer.norm1.out, "sum1": layer.norm1.total},
        ),
        ({"input_layernorm": layer.norm1.out}, qkv),
        (
            qkv,
            {
                "attention": layer.o.x,
                "key": outputs[name(index, "key")],
                "value": outputs[name(index, "value")],
                **_before_half(layer),
            },
        ),
        ({"attention": layer.o.x}, {"o_proj": layer.o.out}),
        (
            dict(zip(("sum1", "o_proj"), layer.norm2.added, strict=True)),
            {"post_attention_layernorm": layer.norm2.out, "sum2": layer.norm2.total},
        ),
        ({"post_attention_layernorm": layer.norm2.out}, gate_up),
        (gate_up, {"activation": layer.down.x}),
        ({"activation": layer.down.x}, {"down_proj": layer.down.out}),
    ]


def _before_half(layer: Layer) -> dict[str, ir.Value]:
    """`query`, with keys and values behind it, before attention in float16; nothing where it runs in float32."""
    cast_back = layer.o.x.producer()
    if cast_back is None or cast_back.op_type != "Cast":
        return {}
    for name in ("GroupQueryAttention", "Cast"):
        source = cast_back.inputs[0] if cast_back is not None else None
        cast_back = None if source is None else source.producer()
        if cast_back is None or cast_back.op_type != name:
            return {}
    query = cast_back.inputs[0]
    return {} if query is None else {"query": query}


def _add(cutter: Cutter, pieces: Sequence[Piece], *, cut: bool) -> None:
    """Each piece by itself, or all as one that starts where the first does."""
    if not cut:
        outputs = {name: value for _, given in pieces for name, value in given.items()}
        pieces = [(pieces[0][0], outputs)]
    for inputs, outputs in pieces:
        cutter.piece(
            {f"in.{name}": value for name, value in inputs.items()},
            {f"out.{name}": value for name, value in outputs.items()},
        )
