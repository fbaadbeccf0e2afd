"""SupCL-Seq: texts of one label come together, seen through dropouts of several strengths.

Sedghamiz et al. 2021, arXiv:2109.07424: a supervised contrastive loss (Khosla et al. 2020,
arXiv:2004.11362, Eq. 2) over views of a labelled batch, one view per dropout; afterwards the
encoder is frozen and a linear layer fitted.

Shapes: V views, B texts, D embedding dimensions.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.objectives import at_least_float32, full_precision


@full_precision
def label_contrast_loss(views: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Supervised contrastive loss in nats, averaged over all views of all texts that have a peer.

    A view's positives are all other views of its own text and of texts with its label; what it
    is told from is every view but itself. The mean over positives stands outside the logarithm.
    At best, where positives coincide and all else is far, it is the log of their number.

    Args:
        views: (V, B, D), any length; normalised here.
        labels: (B,) of any integers.
        temperature: divides the cosines; positive.

    Raises:
        ValueError: temperature is not positive, or no text has a peer to come together with.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    unit = F.normalize(at_least_float32(views).flatten(0, 1), dim=-1)  # (V B, D)
    labels = labels.repeat(len(views))
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    positive = (labels[:, None] == labels) & ~itself
    peers = positive.sum(1)
    if not peers.any():
        raise ValueError(f"{len(unit)} views of {len(unit)} labels: none has a positive")
    logits = (unit @ unit.T / temperature).masked_fill(itself, float("-inf"))
    log_probs = logits.log_softmax(-1).masked_fill(~positive, 0.0)
    return -(log_probs.sum(1) / peers.clamp(min=1)).sum() / (peers > 0).sum()
