"""Cuts pieces out of an XNNPACK delegate and makes programs of them, over the same weights.

A piece is a graph of fewer nodes that refers to the same named data. What runs is therefore what the artifact
holds, kernel by kernel.

Source: pytorch/executorch backends/xnnpack/serialization/schema.fbs, schema/program.fbs.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from helium_edge.pte import xnnpack_schema
from helium_edge.pte.builder import NamedData, ProgramBuilder
from helium_edge.pte.executorch_schema import KernelCall, Tensor
from helium_edge.pte.xnnpack_schema import (
    BACKEND,
    EXTERNAL_INPUT,
    EXTERNAL_OUTPUT,
    NOTHING,
    Datatype,
    XNode,
    encode_graph,
)
from helium_edge.targets.xnnpack.anatomy import INPUT_FIELDS, Delegate, inputs_of

_DTYPES = {Datatype.QINT8: torch.int8, Datatype.FP16: torch.float16}
"""All others are float32, as far as a method takes or returns them."""

METHOD = "forward"
"""The one method of the programs that are made."""


class Piecework:
    """A delegate graph made of pieces of another; pieces share only constants and arguments.

    Args:
        delegate: Where pieces are cut out.

    Attributes:
        inputs: Value of the new graph behind each input, by name.
        arguments: Value of the original method that each further input takes, by name.
        outputs: Value of the new graph behind each output, by name, in order.
    """

    def __init__(self, delegate: Delegate) -> None:
        self._delegate = delegate
        self._nodes: list[XNode] = []
        self._values: list[xnnpack_schema.XValue] = []
        self._constants = [delegate.graph.constant_data[0]]
        self._constant_index: dict[int, int] = {0: 0}
        self._shared: dict[int, int] = {}
        self.inputs: dict[str, int] = {}
        self.arguments: dict[str, int] = {}
        self.outputs: dict[str, int] = {}

    def piece(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        """Add the nodes that lead from some values to others.

        Args:
            inputs: Values where it starts, by the names of the new inputs.
            outputs: Values that it computes, by the names of the new outputs.
        """
        copies = {value: self._input(name, value) for name, value in inputs.items()}
        for node in self._needed(set(outputs.values()), set(copies)):
            made = copy.copy(node.xnode_union)
            for field in (*INPUT_FIELDS, "output_id"):
                if getattr(made, field, NOTHING) != NOTHING:
                    setattr(made, field, self._copy(getattr(made, field), copies))
            self._nodes.append(dataclasses.replace(node, xnode_union=made))
        self.outputs |= {name: copies[value] for name, value in outputs.items()}

    def _needed(self, wanted: set[int], start: set[int]) -> list[XNode]:
        """Nodes that compute `wanted` from `start`, in order."""
        chosen: set[int] = set()
        open_values, seen = list(wanted), set(start)
        while open_values:
            value = open_values.pop()
            if value not in seen:
                seen.add(value)
                node = self._delegate.producers.get(value)
                if node is not None:
                    chosen.add(id(node))
                    open_values += inputs_of(node)
        return [node for node in self._delegate.graph.xnodes if id(node.xnode_union) in chosen]

    def _input(self, name: str, value: int) -> int:
        if name not in self.inputs:
            self.inputs[name] = self._define(value)
        return self.inputs[name]

    def _copy(self, value: int, copies: dict[int, int]) -> int:
        if value in copies:
            return copies[value]
        if value in self._shared:
            return self._shared[value]
        argument, new = self._delegate.argument(value), self._define(value)
        if value in self._delegate.producers:
            copies[value] = new
            return new
        self._shared[value] = new
        if argument is not None:
            self.arguments[f"argument {value}"] = argument
            self.inputs[f"argument {value}"] = new
        return new

    def _define(self, value: int) -> int:
        """A value like one of the original, internal so far."""
        new = copy.deepcopy(self._delegate.graph.xvalues[value])
        tensor, params = new.tensor, new.quant_params
        tensor.external_id, tensor.flags, tensor.id_out = NOTHING, 0, len(self._values)
        tensor.constant_buffer_idx = self._constant(tensor.constant_buffer_idx)
        if isinstance(params, xnnpack_schema.PerChannelQuant | xnnpack_schema.PerChannelGroupQuant):
            params.scale_buffer_idx = self._constant(params.scale_buffer_idx)
        self._values.append(new)
        return len(self._values) - 1

    def _constant(self, index: int) -> int:
        if index not in self._constant_index:
            self._constant_index[index] = len(self._constants)
            self._constants.append(dataclasses.replace(self._delegate.graph.constant_data[index]))
        return self._constant_index[index]

    def dims(self, name: str) -> list[int]:
        """Shape of an input or output."""
        value = self.inputs[name] if name in self.inputs else self.outputs[name]
        return self._values[value].tensor.dims

    def input_dtype(self, name: str) -> torch.dtype:
        """Element type of an input."""
        return self._dtype(self.inputs[name])

    def _dtype(self, value: int) -> torch.dtype:
        return _DTYPES.get(Datatype(self._values[value].tensor.datatype), torch.float32)

    def write(self, path: Path) -> None:
        """Write a program of one method that is one delegate made of the pieces."""
        program = ProgramBuilder()
        method = program.method(METHOD)
        args = []
        for external, value in enumerate([*self.inputs.values(), *self.outputs.values()]):
            tensor, is_input = self._values[value].tensor, external < len(self.inputs)
            tensor.external_id, tensor.flags = external, EXTERNAL_INPUT if is_input else EXTERNAL_OUTPUT
            add = method.input if is_input else method.output
            args.append(add(self._dtype(value), tensor.dims))
        held = [self._held(program, constant.named_key) for constant in self._constants[1:]]

        def graph() -> bytes:
            for constant, data in zip(self._constants[1:], held, strict=True):
                constant.named_key = data.key
            return encode_graph(
                dataclasses.replace(
                    self._delegate.graph, xnodes=self._nodes, xvalues=self._values, num_externs=len(args),
                    input_ids=list(self.inputs.values()), output_ids=list(self.outputs.values()),
                    constant_data=self._constants,
                )
            )  # fmt: skip

        method.delegate(BACKEND, graph, args)
        program.write(path)

    def _held(self, program: ProgramBuilder, key: str) -> NamedData:
        data = self._delegate.pte.named(key)
        # Its old name in front: XNNPACK keeps packed weights by the name of their codes alone.
        load = lambda: [torch.frombuffer(bytearray(data), dtype=torch.uint8)]  # noqa: E731
        return program.named({f"{key}-": len(data)}, load)[0]


def write_prologue(delegate: Delegate, outputs: list[int], inputs: list[int], path: Path) -> None:
    """Write a program of one method: what a method computes in front of its delegate.

    Args:
        delegate: The method's delegate.
        outputs: Values of the method that are returned.
        inputs: Inputs of the method that are needed.
        path: The file.
    """
    program = ProgramBuilder()
    pte, plan = delegate.pte, delegate.plan
    made = program.method(METHOD)
    made.plan.values = copy.deepcopy(plan.values)
    made.plan.inputs, made.plan.outputs = inputs, outputs
    made.plan.operators, made.plan.non_const_buffer_sizes = plan.operators, plan.non_const_buffer_sizes
    made.plan.chains = [
        dataclasses.replace(
            chain, instructions=[each for each in chain.instructions if isinstance(each.instr_args, KernelCall)]
        )
        for chain in plan.chains
    ]
    for number, value in enumerate(made.plan.values):
        _take_constant(program, number, value.val, pte.constant(plan, number))
    program.write(path)


def _take_constant(program: ProgramBuilder, number: int, value: Any, constant: torch.Tensor | None) -> None:
    if constant is not None and isinstance(value, Tensor):
        size = constant.numel() * constant.element_size()
        value.data_buffer_idx = program.constant(f"value {number}", size, lambda: constant)
