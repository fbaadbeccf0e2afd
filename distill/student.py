"""The student: the bottom layers of an encoder, its embeddings copied and, if asked, frozen."""

from transformers import BertModel

from distill.teacher import load_encoder


def student_of(start: str, *, layers: int, freeze_embeddings: bool) -> BertModel:
    """A student whose layer j is layer j of `start`, ready to train.

    LightMBERT (arXiv:2103.06418) freezes the embedding block: what aligns the languages lives
    there. Frozen here: word, position and segment tables and the block's LayerNorm.
    """
    student = load_encoder(start, layers=layers).train()
    student.embeddings.requires_grad_(not freeze_embeddings)
    return student
