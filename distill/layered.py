"""A student whose body is a list of sub-layers, and whose word table may be two factors.

Its folder is like any other encoder's: config.json, with a `model_type` of our own, and
model.safetensors, with BERT's names for whatever BERT has. `load_encoder` reads it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.bert.modeling_bert import BertEmbeddings

from distill.layers import SUB_LAYERS

FAMILY = "lightmbert-layered"
KERNEL_SIZE = 9
"""Taps of a dynamic convolution in LV-BERT."""


class LayeredConfig(BertConfig):  # type: ignore[misc]  # transformers is untyped
    """BERT's settings, the sub-layers of the body, and the rank of a factorised word table."""

    model_type = FAMILY

    def __init__(
        self,
        body: list[str] | None = None,
        kernel_size: int = KERNEL_SIZE,
        embedding_rank: int | None = None,
        **settings: Any,  # noqa: ANN401 - BERT's settings, whatever they are
    ) -> None:
        super().__init__(**settings)
        self.body = [*(body or ())]
        self.num_hidden_layers = len(self.body)
        self.kernel_size = kernel_size
        self.embedding_rank = embedding_rank


class FactorisedTable(nn.Module):
    """A word table (V, H) as the product of `factors` (V, R) and `mixing` (R, H)."""

    def __init__(self, vocabulary: int, rank: int, width: int) -> None:
        super().__init__()
        self.factors = nn.Embedding(vocabulary, rank)
        self.mixing = nn.Linear(rank, width, bias=False)

    @property
    def weight(self) -> Tensor:
        """The product, (V, H)."""
        return self.factors.weight @ self.mixing.weight.T

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, H)."""
        mixed: Tensor = self.mixing(self.factors(ids))
        return mixed


class Body(nn.Module):
    """The sub-layers in their order."""

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(SUB_LAYERS[kind](config) for kind in config.body)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(B, T, H) under a mask (B, T), 1 on real tokens -> (B, T, H)."""
        real = mask[:, None, None, :].to(hidden.dtype)
        hiding = (1.0 - real) * torch.finfo(hidden.dtype).min  # (B, 1, 1, T)
        for layer in self.layer:
            hidden = layer(hidden, mask, hiding)
        return hidden


class LayeredEncoder(PreTrainedModel):  # type: ignore[misc]  # transformers is untyped
    """BERT's embedding block under a body of sub-layers."""

    config_class = LayeredConfig
    base_model_prefix = "layered"
    _supports_sdpa = True

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        if config.embedding_rank is not None:
            self.embeddings.word_embeddings = FactorisedTable(
                config.vocab_size, config.embedding_rank, config.hidden_size
            )
        self.encoder = Body(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> BaseModelOutput:
        """Encode ids (B, T); no mask means that all tokens are real."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        return BaseModelOutput(last_hidden_state=self.encoder(hidden, mask))

    def _init_weights(self, module: nn.Module) -> None:
        """Draw weights as BERT does."""
        if isinstance(module, (nn.Linear, nn.Embedding, nn.Conv1d)):
            module.weight.data.normal_(0.0, self.config.initializer_range)
        elif isinstance(module, nn.LayerNorm):
            module.weight.data.fill_(1.0)
        bias = getattr(module, "bias", None)
        if bias is not None:
            bias.data.zero_()


AutoConfig.register(FAMILY, LayeredConfig)
AutoModel.register(LayeredConfig, LayeredEncoder)
