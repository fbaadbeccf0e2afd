"""Sub-layers that a student's body is listed from: x -> LayerNorm(x + f(x)).

Attention and feed-forward are BERT's (Devlin et al. 2018, arXiv:1810.04805), parameter for
parameter and by its names, so that a start's are copied. Dynamic convolution is LV-BERT's (Yu et
al. 2021, arXiv:2106.11740, section 3.1; its shapes from the authors' code): every head weighs
its neighbours by a kernel that depends on the text. Deviation: padding is zeroed before a
convolution reads it, so that a text's outputs do not depend on its company.

Shapes: B texts, T tokens, H width, A heads, K width of a head.
"""

import math
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig
from transformers.activations import ACT2FN


class Residual(nn.Module):
    """Project back to width H, add what came in and normalise: LayerNorm(x + W f + b)."""

    def __init__(self, config: PretrainedConfig, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, inner: Tensor, hidden: Tensor) -> Tensor:
        """(B, T, inner) and (B, T, H) -> (B, T, H)."""
        normed: Tensor = self.LayerNorm(self.dense(inner) + hidden)
        return normed


class SelfAttention(nn.Module):
    """softmax(Q K' / sqrt(K) + mask) V, by heads."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.head_width = config.hidden_size // config.num_attention_heads
        self.query, self.key, self.value = (
            nn.Linear(config.hidden_size, config.hidden_size) for _ in range(3)
        )
        self.fused = config._attn_implementation == "sdpa"

    def forward(self, hidden: Tensor, hiding: Tensor) -> Tensor:
        """(B, T, H); `hiding` (B, 1, 1, T) is 0 on real tokens and hugely negative on padding."""
        query, key, value = (
            self._by_head(part(hidden)) for part in (self.query, self.key, self.value)
        )
        if self.fused:
            context = F.scaled_dot_product_attention(
                query, key, value, attn_mask=hiding.to(query.dtype)
            )
        else:
            scores = (
                query @ key.transpose(-1, -2) / math.sqrt(self.head_width) + hiding
            )  # (B, A, T, T)
            context = scores.softmax(-1) @ value  # (B, A, T, K)
        texts, tokens, width = hidden.shape
        return context.transpose(1, 2).reshape(texts, tokens, width)

    def _by_head(self, projected: Tensor) -> Tensor:
        texts, tokens, _ = projected.shape
        return projected.view(texts, tokens, self.heads, self.head_width).transpose(1, 2)


class DynamicConvolution(nn.Module):
    """Heads that weigh the values around a token by a kernel made from these values.

        v = (x W_v + b_v) * sigmoid(x W_g + b_g)
        w_t = softmax over taps of W_k separable_convolution(v)_t       (one kernel per head)
        o_t = sum over taps j of w_{t,j} v_{t+j}

    `kernel_size` taps, as many to the left as to the right, zeros beyond the text.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        width, self.taps = config.hidden_size, config.kernel_size
        self.heads = config.num_attention_heads
        self.value, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        self.depthwise = nn.Conv1d(
            width, width, self.taps, padding=self.taps // 2, groups=width, bias=False
        )
        self.pointwise = nn.Linear(width, width)
        self.kernel = nn.Linear(width, self.heads * self.taps)

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """(B, T, H) under `real` (B, T, 1), 1 on real tokens and 0 on padding."""
        texts, tokens, width = hidden.shape
        value = self.value(hidden) * torch.sigmoid(self.gate(hidden)) * real
        around = self.pointwise(self.depthwise(value.transpose(1, 2)).transpose(1, 2))
        weights = self.kernel(around).view(texts, tokens, self.heads, self.taps).softmax(-1)
        reach = self.taps // 2
        beyond = value.new_zeros(texts, reach, width)
        padded = torch.cat([beyond, value, beyond], dim=1)
        padded = padded.view(texts, -1, self.heads, width // self.heads)
        convolved = [
            # cut by counting from the end: so no length is written into an exported graph
            weights[..., tap : tap + 1] * padded[:, tap : tap - 2 * reach or None]  # (B, T, A, K)
            for tap in range(self.taps)
        ]
        total: Tensor = reduce(add, convolved)
        return total.view(texts, tokens, width)


class Attention(nn.Module):
    """Attention, its projection and its norm, under the names that BERT's layers have inside."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Residual(config, config.hidden_size)

    def forward(self, hidden: Tensor, hiding: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        attended: Tensor = self.output(self.self(hidden, hiding), hidden)
        return attended


class Expansion(nn.Module):
    """The first half of a feed-forward: (B, T, H) -> (B, T, feed-forward width)."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        expanded: Tensor = self.activation(self.dense(hidden))
        return expanded


class AttentionLayer(nn.Module):
    """A sub-layer of the body that is attention alone."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.attention = Attention(config)

    def forward(self, hidden: Tensor, mask: Tensor, hiding: Tensor) -> Tensor:
        attended: Tensor = self.attention(hidden, hiding)
        return attended


class FeedForwardLayer(nn.Module):
    """A sub-layer of the body that is a feed-forward alone."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.intermediate = Expansion(config)
        self.output = Residual(config, config.intermediate_size)

    def forward(self, hidden: Tensor, mask: Tensor, hiding: Tensor) -> Tensor:
        forwarded: Tensor = self.output(self.intermediate(hidden), hidden)
        return forwarded


class TransformerLayer(nn.Module):
    """Attention and then feed-forward: a layer of BERT."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Expansion(config)
        self.output = Residual(config, config.intermediate_size)

    def forward(self, hidden: Tensor, mask: Tensor, hiding: Tensor) -> Tensor:
        attended = self.attention(hidden, hiding)
        forwarded: Tensor = self.output(self.intermediate(attended), attended)
        return forwarded


class ConvolutionLayer(nn.Module):
    """A sub-layer of the body that is a dynamic convolution."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.convolution = DynamicConvolution(config)
        self.output = Residual(config, config.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor, hiding: Tensor) -> Tensor:
        real = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
        convolved: Tensor = self.output(self.convolution(hidden, real), hidden)
        return convolved


SUB_LAYERS: dict[str, type[nn.Module]] = {
    "attention": AttentionLayer,
    "feed-forward": FeedForwardLayer,
    "dynamic-convolution": ConvolutionLayer,
    "transformer": TransformerLayer,
}
