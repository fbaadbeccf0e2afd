"""Write a graph anew, node by node: what the passes over exported graphs have in common."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

MICROSOFT = frozenset(
    {"Attention", "Gelu", "MatMulIntegerToFloat", "MultiHeadAttention", "QAttention"}
)
"""Operators of ONNX Runtime's own domain that the passes write."""

Array = NDArray[Any]


class Rewriter:
    """The nodes and constants of a graph under change. `nodes` are the old ones, in order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self._model = model
        self._written: list[onnx.NodeProto] = []
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def array(self, name: str) -> Array:
        """The value of a constant."""
        value: Array = numpy_helper.to_array(self._constants[name])
        return value

    def constant(self, name: str, array: Array | np.generic) -> str:
        """Set a constant and return its name."""
        self._constants[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def keep(self, node: onnx.NodeProto) -> None:
        self._written.append(node)

    def write(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:  # noqa: ANN401 - as onnx has it
        """Append a node and return the name of its output."""
        return self.write_many(operator, inputs, [output], **attributes)[0]

    def write_many(
        self,
        operator: str,
        inputs: list[str],
        outputs: list[str],
        **attributes: Any,  # noqa: ANN401 - as onnx has it
    ) -> list[str]:
        """Append a node of several outputs and return their names."""
        domain = "com.microsoft" if operator in MICROSOFT else ""
        node = helper.make_node(operator, inputs, outputs, domain=domain, **attributes)
        self._written.append(node)
        return outputs

    def users(self, output: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if output in node.input]

    def maker(self, output: str) -> onnx.NodeProto | None:
        return next((node for node in self.nodes if output in node.output), None)

    def finish(self) -> None:
        """Put what was written in the place of what was there; unused constants go."""
        graph = self._model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._written)
        used = {name for node in self._written for name in node.input}
        graph.initializer.extend(t for name, t in self._constants.items() if name in used)


def attribute(node: onnx.NodeProto, name: str) -> Any:  # noqa: ANN401 - as onnx has it
    """The value of one of the node's attributes."""
    return next(helper.get_attribute_value(a) for a in node.attribute if a.name == name)
