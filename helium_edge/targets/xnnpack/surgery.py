"""Cuts pieces out of an XNNPACK delegate and makes programs of them, over the same weights.

The graph of a delegate is a flatbuffer with a public schema, and its weights are named data of the file: a piece
is a graph of fewer nodes that refers to the same names. What runs is therefore what the artifact holds, kernel by
kernel, and nothing is lowered again.

Source: pytorch/executorch backends/xnnpack/serialization (schema.fbs, xnnpack_graph_serialize.py), exir/schema.py.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import importlib.resources
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helium_edge.runtime.quiet import quiet
from helium_edge.targets.xnnpack.anatomy import NOTHING, VALUE_FIELDS, Delegate, Node

_INPUT, _OUTPUT = 1, 2
"""XNNPACK's flags of external values."""
_ALIGNMENT = 16
_INT8 = "xnn_datatype_qint8"


class Piecework:
    """A delegate graph made of pieces of another; pieces share only constants and arguments.

    Args:
        delegate: Where pieces are cut out.

    Attributes:
        inputs: Value of the original graph behind each input, by name.
        arguments: Value of the original method that each further input takes, by name.
        outputs: Names of the outputs, in order.
    """

    def __init__(self, delegate: Delegate) -> None:
        self._delegate = delegate
        self._nodes: list[Node] = []
        self._values: list[dict[str, Any]] = []
        self._constants: list[dict[str, Any]] = [delegate.data["constant_data"][0]]
        self._constant_index: dict[int, int] = {0: 0}
        self._shared: dict[int, int] = {}
        self.inputs: dict[str, int] = {}
        self.arguments: dict[str, int] = {}
        self.outputs: list[str] = []
        self._outputs: dict[str, int] = {}

    def piece(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        """Add the nodes that lead from some values to others.

        Args:
            inputs: Values where it starts, by the names of the new inputs.
            outputs: Values that it computes, by the names of the new outputs.
        """
        copies = {value: self._input(name, value) for name, value in inputs.items()}
        for node in self._needed(set(outputs.values()), set(copies)):
            union = dict(node["xnode_union"])
            for key in VALUE_FIELDS:
                if union.get(key, NOTHING) != NOTHING:
                    union[key] = self._copy(union[key], copies)
            union["output_id"] = self._copy(union["output_id"], copies)
            self._nodes.append({**node, "xnode_union": union})
        for name, value in outputs.items():
            self.outputs.append(name)
            self._outputs[name] = copies[value]

    def _needed(self, wanted: set[int], start: set[int]) -> list[Node]:
        """Nodes that compute `wanted` from `start`, in order."""
        nodes, open_values, seen = [], list(wanted), set(start)
        while open_values:
            value = open_values.pop()
            if value in seen:
                continue
            seen.add(value)
            node = self._delegate.producers.get(value)
            if node is not None:
                nodes.append(node)
                union = node["xnode_union"]
                open_values += [union[key] for key in VALUE_FIELDS if union.get(key, NOTHING) != NOTHING]
        chosen = {id(node) for node in nodes}
        return [node for node in self._delegate.nodes if id(node) in chosen]

    def _input(self, name: str, value: int) -> int:
        if name not in self.inputs:
            self.inputs[name] = self._define(value)
        return self.inputs[name]

    def _copy(self, value: int, copies: dict[int, int]) -> int:
        if value in copies:
            return copies[value]
        if value in self._shared:
            return self._shared[value]
        argument = self._delegate.argument(value)
        computed = value in self._delegate.producers
        new = self._define(value)
        if computed:
            copies[value] = new
            return new
        self._shared[value] = new
        if argument is not None:
            self.arguments[f"argument {value}"] = argument
            self.inputs[f"argument {value}"] = new
        return new

    def _define(self, value: int) -> int:
        """A value like one of the original, internal so far."""
        new = copy.deepcopy(self._delegate.data["xvalues"][value])
        tensor = new["xvalue_union"].get("tensor_value", new["xvalue_union"])
        tensor |= {"external_id": NOTHING, "flags": 0, "id_out": len(self._values)}
        tensor["constant_buffer_idx"] = self._constant(tensor["constant_buffer_idx"])
        quantized = new["xvalue_union"].get("quant_params", {})
        if "scale_buffer_idx" in quantized:
            quantized["scale_buffer_idx"] = self._constant(quantized["scale_buffer_idx"])
        self._values.append(new)
        return len(self._values) - 1

    def _constant(self, index: int) -> int:
        if index not in self._constant_index:
            self._constant_index[index] = len(self._constants)
            self._constants.append(self._delegate.data["constant_data"][index])
        return self._constant_index[index]

    def dims(self, name: str) -> list[int]:
        """Shape of an input or output."""
        dims: list[int] = self._tensor(name)["dims"]
        return dims

    def is_codes(self, name: str) -> bool:
        """Whether an input or output is int8, not float32."""
        return bool(self._tensor(name)["datatype"] == _INT8)

    def _tensor(self, name: str) -> dict[str, Any]:
        value = self.inputs[name] if name in self.inputs else self._outputs[name]
        union: dict[str, Any] = self._values[value]["xvalue_union"]
        tensor: dict[str, Any] = union.get("tensor_value", union)
        return tensor

    def finish(self) -> bytes:
        """The graph as a delegate's data; externals are the inputs and then the outputs."""
        externals = [
            *((v, _INPUT) for v in self.inputs.values()),
            *((self._outputs[n], _OUTPUT) for n in self.outputs),
        ]
        for external, (value, flag) in enumerate(externals):
            union = self._values[value]["xvalue_union"]
            union.get("tensor_value", union).update({"external_id": external, "flags": flag})
        data = {
            **self._delegate.data, "xnodes": self._nodes, "xvalues": self._values, "num_externs": len(externals),
            "input_ids": list(self.inputs.values()), "output_ids": [self._outputs[name] for name in self.outputs],
            "constant_data": self._constants,
        }  # fmt: skip
        return encode_delegate(data)

    def data_names(self) -> list[str]:
        """Names of the data that the graph refers to."""
        return list(dict.fromkeys(constant["named_key"] for constant in self._constants if constant["named_key"]))


def encode_delegate(data: Mapping[str, Any]) -> bytes:
    """Undo `decode_delegate`: header and flatbuffer, without constants of its own."""
    serialize = importlib.import_module("executorch.backends.xnnpack.serialization.xnnpack_graph_serialize")
    compiler = importlib.import_module("executorch.exir._serialize._flatbuffer")
    schema = importlib.resources.files("executorch.backends.xnnpack.serialization").joinpath("schema.fbs")
    with tempfile.TemporaryDirectory(prefix="helium-edge-") as name:
        folder = Path(name)
        (folder / "schema.fbs").write_bytes(schema.read_bytes())
        (folder / "graph.json").write_text(json.dumps(data), encoding="ascii")
        compiler._flatc_compile(name, str(folder / "schema.fbs"), str(folder / "graph.json"))
        graph = (folder / "graph.bin").read_bytes()
    header = _round_up(serialize.XNNHeader.EXPECTED_LENGTH)
    size = _round_up(len(graph))
    start = serialize.XNNHeader(header, len(graph), header + size, 0).to_bytes()
    return bytes(start.ljust(header, b"\0") + graph.ljust(size, b"\0"))


def _round_up(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def piece_program(delegate: Delegate, work: Piecework, path: Path) -> None:
    """Write a program of one method, `forward`, that is one delegate made of pieces."""
    schema = importlib.import_module("executorch.exir.schema")
    names = [*work.inputs, *work.outputs]
    values = [schema.EValue(val=_tensor(schema, work.dims(name), codes=work.is_codes(name))) for name in names]
    count = len(work.inputs)
    instruction = schema.Instruction(
        instr_args=schema.DelegateCall(delegate_index=0, args=list(range(len(names))))
    )
    backend = dataclasses.replace(
        delegate.plan.delegates[0],
        processed=schema.BackendDelegateDataReference(location=schema.DataLocation.INLINE, index=0),
    )
    plan = dataclasses.replace(
        delegate.plan, name="forward", values=values, inputs=list(range(count)),
        outputs=list(range(count, len(names))), operators=[], delegates=[backend], non_const_buffer_sizes=[0],
        non_const_buffer_device=None,
        chains=[schema.Chain(inputs=[], outputs=[], stacktrace=None, instructions=[instruction])],
    )  # fmt: skip
    program = _program(delegate, plan)
    program.backend_delegate_data = [schema.BackendDelegateInlineData(data=work.finish())]
    data = {key: bytes(delegate.pte.named(key)) for key in work.data_names()}
    _write(program, data, path)


def prologue_program(delegate: Delegate, outputs: list[int], inputs: list[int], path: Path) -> None:
    """Write a program of one method, `forward`: what a method computes in front of its delegate.

    Args:
        delegate: The method's delegate.
        outputs: Values of the method that are returned.
        inputs: Inputs of the method that are needed.
        path: The file.
    """
    schema = importlib.import_module("executorch.exir.schema")
    (chain,) = delegate.plan.chains
    before = [call for call in chain.instructions if not hasattr(call.instr_args, "delegate_index")]
    plan = dataclasses.replace(
        delegate.plan, name="forward", inputs=inputs, outputs=outputs, delegates=[],
        chains=[dataclasses.replace(chain, instructions=before)],
    )  # fmt: skip
    program = _program(delegate, plan)
    offsets = delegate.pte.program.constant_segment.offsets
    program.constant_buffer = [
        schema.Buffer(storage=delegate.pte.constant_bytes(index)) for index in range(len(offsets))
    ]
    _write(program, {}, path)


def _tensor(schema: Any, dims: list[int], *, codes: bool) -> Any:
    types = importlib.import_module("executorch.exir.scalar_type").ScalarType
    return schema.Tensor(
        scalar_type=types.CHAR if codes else types.FLOAT, storage_offset=0,
        sizes=dims, dim_order=list(range(len(dims))), requires_grad=False, layout=0, data_buffer_idx=0,
        allocation_info=None, shape_dynamism=schema.TensorShapeDynamism.STATIC,
    )  # fmt: skip


def _program(delegate: Delegate, plan: Any) -> Any:
    schema = importlib.import_module("executorch.exir.schema")
    return schema.Program(
        version=delegate.pte.program.version,
        execution_plan=[plan],
        constant_buffer=[schema.Buffer(storage=b"")],
        backend_delegate_data=[],
        segments=[],
        constant_segment=schema.SubsegmentOffsets(segment_index=0, offsets=[]),
    )


def _write(program: Any, data: Mapping[str, bytes], path: Path) -> None:
    serialize = importlib.import_module("executorch.exir._serialize._program")
    store = importlib.import_module("executorch.exir._serialize._named_data_store")
    entry = importlib.import_module("executorch.exir._serialize.data_serializer").DataEntry
    named = None
    if data:
        entries = {
            key: entry(buffer_index=i, alignment=_ALIGNMENT, tensor_layout=None) for i, key in enumerate(data)
        }
        named = store.NamedDataStoreOutput(buffers=list(data.values()), pte_data=entries, external_data={})
    with quiet():
        file = serialize.PTEFile(program=program, mutable_data=None, named_data=named)
        cord = serialize.serialize_pte_binary(file, extract_delegate_segments=True)
    with path.open("wb") as out:
        cord.write_to_file(out)
