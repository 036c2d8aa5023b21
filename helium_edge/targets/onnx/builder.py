"""`GraphBuilder`: nodes, constants and external weights of one ONNX graph, with every shape written down.

Shape inference gives up at contrib operators, so each value carries its type and shape from here. Knows nothing of
models: a thin layer over onnx-ir that keeps names unique and readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

import helium_edge
from helium_edge.signature import Dim, GraphSignature, TensorSpec, TextSignature

OPSET = 23
"""RMSNormalization and RotaryEmbedding are of this opset; onnx's own default would lock older runtimes out."""
IR_VERSION = 11
OLDER_OPSET, OLDER_IR_VERSION = 20, 9
"""The oldest opset with all other operators (Gelu is of 20), and the IR version of its time."""
CONTRIB = "com.microsoft"

Shape = Sequence[Dim]


class GraphBuilder:
    """One graph under construction.

    Args:
        signature: Declares the inputs; the outputs are checked against it at the end.
        older: Write opset 20 and its IR version, for runtimes that do not know opset 23.
    """

    def __init__(self, signature: GraphSignature | TextSignature, *, older: bool = False) -> None:
        self.signature = signature
        self.older = older
        self.inputs = {spec.name: _value(spec, signature) for spec in signature.inputs()}
        self._outputs: dict[str, ir.Value] = {}
        self._nodes: list[ir.Node] = []
        self._initializers: dict[str, ir.Value] = {}
        self._scope = ""
        self._names: dict[str, int] = {}
        self._contrib = False

    def scope(self, name: str) -> None:
        """Prefix the names of the nodes that follow, as `layers.3`."""
        self._scope = name

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        shape: Shape,
        *,
        dtype: ir.DataType = ir.DataType.FLOAT,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """Append a node of one output and return that output."""
        return self.multi_op(op_type, inputs, [(dtype, shape)], domain=domain, attributes=attributes)[0]

    def multi_op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[tuple[ir.DataType, Shape] | None],
        *,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
    ) -> list[ir.Value]:
        """Append a node; an output given as None is left out of the graph (an empty name)."""
        name = self._unique(op_type)
        values = []
        for index, output in enumerate(outputs):
            if output is None:
                values.append(ir.Value(name=""))
                continue
            dtype, shape = output
            value_name = name if len(outputs) == 1 else f"{name}.{index}"
            values.append(ir.Value(name=value_name, type=ir.TensorType(dtype), shape=ir.Shape(shape)))
        self._nodes.append(
            ir.node(op_type, inputs, attributes or {}, domain=domain, outputs=values, name=f"{name}:node")
        )
        self._contrib |= domain == CONTRIB
        return values

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """A small constant, stored in the graph itself; the same name means the same constant."""
        return self._initializer(ir.tensor(array, name=f"const.{name}"))

    def ints(self, *numbers: int) -> ir.Value:
        """A one-dimensional int64 constant, as shapes and axes are."""
        return self.constant("i" + "_".join(map(str, numbers)), np.array(numbers, np.int64))

    def weight(self, tensor: ir.ExternalTensor) -> ir.Value:
        """A tensor of the weights file."""
        return self._initializer(tensor)

    def output(self, name: str, value: ir.Value) -> None:
        """Give a value the name and place of a declared output."""
        value.name = name
        self._outputs[name] = value

    def build(self, graph_name: str) -> ir.Model:
        """Finish the graph.

        Raises:
            AssertionError: An output of the signature is missing, or has another type or shape.
        """
        outputs = []
        for spec in self.signature.outputs():
            value = self._outputs.pop(spec.name)
            declared = _value(spec, self.signature)
            if (value.dtype, value.shape) != (declared.dtype, declared.shape):
                raise AssertionError(
                    f"{spec.name} is {value.dtype}{value.shape}, not {declared.dtype}{declared.shape}"
                )
            outputs.append(value)
        if self._outputs:
            raise AssertionError(f"outputs outside the signature: {sorted(self._outputs)}")
        imports = {"": OLDER_OPSET if self.older else OPSET} | ({CONTRIB: 1} if self._contrib else {})
        graph = ir.Graph(
            list(self.inputs.values()),
            outputs,
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports=imports,
            name=graph_name,
        )
        return ir.Model(
            graph,
            ir_version=OLDER_IR_VERSION if self.older else IR_VERSION,
            producer_name="helium-edge",
            producer_version=helium_edge.__version__,
        )

    def _initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        name = str(tensor.name)
        if name not in self._initializers:
            self._initializers[name] = ir.Value(
                name=name,
                type=ir.TensorType(tensor.dtype),
                shape=ir.Shape(tensor.shape.numpy()),
                const_value=tensor,
            )
        return self._initializers[name]

    def _unique(self, op_type: str) -> str:
        base = f"{self._scope}/{op_type}" if self._scope else op_type
        count = self._names.get(base, 0)
        self._names[base] = count + 1
        return base if count == 0 else f"{base}_{count}"


def _value(spec: TensorSpec, signature: GraphSignature | TextSignature) -> ir.Value:
    dtype = ir.DataType.from_numpy(np.dtype(spec.dtype))
    return ir.Value(name=spec.name, type=ir.TensorType(dtype), shape=ir.Shape(signature.file_shape(spec)))
