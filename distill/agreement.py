"""How far a student agrees with its teacher on which texts are alike.

The widths of the two need not be the same, so that their embeddings cannot be compared one by
one; how similar each finds any two texts can.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.anatomy import Encoder
from distill.batches import Batch
from distill.teacher import encode


def agreement(student: Encoder, teacher: Encoder, batch: Batch) -> float:
    """Correlation (Pearson's, -1 to 1) of the two encoders' cosines between texts of a batch.

    From parallel text the teacher reads the English side. Needs three texts at least.
    """
    was_training = student.training
    student.eval()
    with torch.inference_mode():
        found = cosines(encode(student, batch.text).pooled)
        wanted = cosines(encode(teacher, batch.teacher_english or batch.text).pooled)
    student.train(was_training)
    return float(torch.corrcoef(torch.stack([found, wanted]))[0, 1])


def cosines(pooled: Tensor) -> Tensor:
    """(B, H) -> cosine of each pair of texts, (B (B - 1) / 2,) float32."""
    unit = F.normalize(pooled.float(), dim=-1)
    row, column = torch.triu_indices(len(unit), len(unit), offset=1)
    similarity: Tensor = (unit @ unit.T)[row, column]
    return similarity
