"""Between which values a graph's activations lie, channel by channel.

Texts run one at a time, so that no padding is among the values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from app.runtime.outputs import Floats
from app.runtime.tokenizer import Encoded, pad


@dataclass(frozen=True)
class Range:
    """The smallest and the largest value of each of H channels."""

    low: Floats
    """(H,)"""
    high: Floats
    """(H,)"""

    @property
    def peak(self) -> Floats:
        """(H,): the largest absolute value."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def over(self, divisors: Floats) -> "Range":
        """The range once channels are divided by `divisors` (H,), which are positive."""
        return Range(self.low / divisors, self.high / divisors)

    def joined(self, values: Floats) -> "Range":
        """The range that holds `values` (B, T, H) too."""
        rows = values.reshape(-1, values.shape[-1])
        return Range(np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0)))


def channel_ranges(
    model: onnx.ModelProto, names: Sequence[str], texts: Iterable[Encoded]
) -> Mapping[str, Range]:
    """Ranges of the tensors `names` (B, T, H) of `model` over `texts`."""
    import onnxruntime  # 0.1 s, and only quantization needs it

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    read = {entry.name for entry in session.get_inputs()}
    nothing = np.array(np.inf, dtype=np.float32)
    ranges = dict.fromkeys(names, Range(nothing, -nothing))
    for text in texts:
        feed = {name: ids for name, ids in pad([text]).items() if name in read}
        for name, values in zip(names, session.run(list(names), feed), strict=True):
            ranges[name] = ranges[name].joined(values)
    return ranges
