"""The student: what is copied of an encoder, what is drawn anew, and what stays frozen.

LightMBERT (Jiao et al. 2021, arXiv:2103.06418) copies the bottom layers and freezes the embedding
block, word, position and segment tables and its LayerNorm: what aligns the languages lives there.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import AutoModel, BertConfig

from app.errors import LightMBERTError
from distill.anatomy import PIECE_HEAD, Encoder
from distill.as_bert import WORDS, Origin, as_bert
from distill.factors import factorised
from distill.layered import FAMILY as LAYERED
from distill.layered import LayeredConfig
from distill.piece_head import PieceHead
from distill.tables.student import StudentTable
from distill.teacher import attention_here, load_encoder, load_skeleton

EMBEDDINGS = "embeddings."
FACTORS = "embeddings.word_embeddings.factors.weight"
MIXING = "embeddings.word_embeddings.mixing.weight"


class StudentError(LightMBERTError):
    """A student cannot be made of its start as the recipe asks."""

    code = "bad_student"


def student_of(
    start: str, table: StudentTable, *, pieces: bool = False, skeleton: bool = False
) -> Encoder:
    """A student in training mode, without dropout, as its table describes it.

    It is a plain `BertModel` unless it has a body of sub-layers or a factorised table.

    Args:
        start: the encoder it starts from, hub id or folder.
        table: what to copy of it and how to go on from there.
        pieces: give it a masked-language head: the start's, or a new one at another width.
        skeleton: without weights, from the start's config.json alone.

    Raises:
        EncoderError: the start cannot be loaded.
        StudentError: the start is not what the table takes it for.
    """
    load = load_skeleton if skeleton else load_encoder
    encoder = load(start, pieces=pieces and table.width is None)
    origin = as_bert(encoder)
    config = _config(start, origin, table)
    device = torch.device("meta") if skeleton else torch.device("cpu")
    with device:
        student = AutoModel.from_config(
            config,
            attn_implementation=attention_here(),
            **({"add_pooling_layer": False} if config.model_type == "bert" else {}),
        )
        if pieces:
            _give_head(student, encoder)
    copied = dict(_copies(start, origin, table, config))
    unknown = student.load_state_dict(copied, strict=False).unexpected_keys
    assert not unknown, f"the student has no place for {unknown[0]}"
    _freeze(student, table, copied)
    return student.train()


def _config(start: str, origin: Origin, table: StudentTable) -> BertConfig:
    settings = origin.config.to_dict()
    width = origin.config.hidden_size
    if table.width is not None:
        if table.width != width and table.embeddings in ("frozen", "trained"):
            raise StudentError(
                f"embeddings = {table.embeddings!r} copies a table {width} wide from {start}; the "
                f"student is {table.width} wide: use 'factorised' or 'random'"
            )
        settings |= {
            "hidden_size": table.width,
            "num_attention_heads": table.heads,
            "intermediate_size": table.feed_forward_width,
        }
    if origin.has_positions == (table.positions is not None):
        raise StudentError(
            f"positions is {table.positions}; {start} has "
            + ("a position table to copy" if origin.has_positions else "none to copy: set it")
        )
    settings["max_position_embeddings"] = table.positions or settings["max_position_embeddings"]
    for name in ("model_type", "architectures", "transformers_version", "dtype", "torch_dtype"):
        settings.pop(name, None)
    body = _body(start, origin, table)
    if body is None:
        return BertConfig(**settings | {"num_hidden_layers": table.layers})
    return LayeredConfig(**settings | {"body": body, "embedding_rank": _rank(origin, table)})


def _body(start: str, origin: Origin, table: StudentTable) -> list[str] | None:
    """The sub-layers of a layered student; None for a plain one."""
    if origin.family != LAYERED:
        if table.body is not None:
            return [*table.body]
        return ["transformer"] * (table.layers or 0) if table.embeddings == "factorised" else None
    own: list[str] = origin.config.body
    if table.body is not None or table.initialisation != "bottom":
        raise StudentError(
            f"{start} has a body of its own: give layers and initialisation = 'bottom'"
        )
    if (table.layers or 0) > len(own):
        raise StudentError(f"{start} has {len(own)} layers, fewer than {table.layers}")
    return own[: table.layers]


def _rank(origin: Origin, table: StudentTable) -> int | None:
    if table.embeddings == "factorised":
        return table.rank
    return getattr(origin.config, "embedding_rank", None)


def _copies(
    start: str, origin: Origin, table: StudentTable, config: BertConfig
) -> Iterator[tuple[str, Tensor]]:
    """Student's name -> tensor of the start, for all that is copied."""
    yield from _embeddings(start, origin, table)
    for own, theirs in _slots(start, origin, table, config):
        for name, tensor in origin.weights.items():
            if name.startswith(theirs):
                yield own + name.removeprefix(theirs), tensor


def _embeddings(start: str, origin: Origin, table: StudentTable) -> Iterator[tuple[str, Tensor]]:
    if table.embeddings == "random":
        return
    block = {n: t for n, t in origin.weights.items() if n.startswith(EMBEDDINGS)}
    same_width = table.width in (None, origin.config.hidden_size)
    if table.embeddings == "factorised" and WORDS in block:
        words = block.pop(WORDS)
        assert table.rank is not None, "the table says so"
        if table.rank > min(words.shape):
            raise StudentError(
                f"rank {table.rank} exceeds that of the table of {start}, {min(words.shape)}"
            )
        factors, mixing = factorised(words, table.rank)
        block[FACTORS] = factors
        block[MIXING] = mixing
    elif table.embeddings == "factorised" and block[FACTORS].shape[1] != table.rank:
        raise StudentError(
            f"{start} has a table of rank {block[FACTORS].shape[1]}; rank is {table.rank}"
        )
    for name, tensor in block.items():
        if same_width or name == FACTORS:
            yield name, tensor


def _slots(
    start: str, origin: Origin, table: StudentTable, config: BertConfig
) -> Iterator[tuple[str, str]]:
    """Prefixes of the student's names -> prefixes of the start's."""
    if table.initialisation == "random":
        return
    if origin.family == LAYERED:
        yield from ((f"encoder.layer.{n}.",) * 2 for n in range(config.num_hidden_layers))
        return
    kinds: list[str] = getattr(config, "body", ["transformer"] * config.num_hidden_layers)
    attention = [n for n, kind in enumerate(kinds) if kind in ("attention", "transformer")]
    feed_forward = [n for n, kind in enumerate(kinds) if kind in ("feed-forward", "transformer")]
    chosen = _chosen(start, origin, table, wanted=max(len(attention), len(feed_forward)))
    for own, theirs in zip(attention, chosen, strict=False):
        yield f"encoder.layer.{own}.attention.", f"encoder.layer.{theirs - 1}.attention."
    for own, theirs in zip(feed_forward, chosen, strict=False):
        for part in ("intermediate", "output"):
            yield f"encoder.layer.{own}.{part}.", f"encoder.layer.{theirs - 1}.{part}."


def _chosen(start: str, origin: Origin, table: StudentTable, *, wanted: int) -> Sequence[int]:
    """Numbers of the layers that are copied, from 1, from the student's bottom to its top."""
    have = origin.layers
    if wanted > have:
        why = "" if have else ": its layers are not of BERT's kind; use initialisation = 'random'"
        raise StudentError(f"{wanted} layers are to be copied of {start}, which has {have}{why}")
    if table.copied_layers is not None:
        if len(table.copied_layers) != wanted or max(table.copied_layers) > have:
            raise StudentError(
                f"copied_layers {list(table.copied_layers)} must be {wanted} of the {have} "
                f"layers of {start}"
            )
        return table.copied_layers
    if table.initialisation == "bottom":
        return range(1, wanted + 1)
    if have % max(wanted, 1):
        raise StudentError(f"every k-th of the {have} layers of {start} does not make {wanted}")
    step = have // max(wanted, 1)
    return range(step, have + 1, step)


def _give_head(student: Encoder, encoder: Encoder) -> None:
    """Put a masked-language head on the student: the start's if it has one, else a new one."""
    given: dict[str, Tensor] = {}
    if (theirs := getattr(encoder, PIECE_HEAD, None)) is not None:
        given = theirs.state_dict()
    head = PieceHead(student.config, own_table="table" in given)
    # where the start has no bias
    torch.nn.init.zeros_(head.dense.bias)
    head.load_state_dict(given, strict=False)
    setattr(student, PIECE_HEAD, head)


def _freeze(student: Encoder, table: StudentTable, copied: dict[str, Tensor]) -> None:
    """Keep what is copied of the embedding block as it is, if the table says so."""
    if table.embeddings not in ("frozen", "factorised"):
        return
    learned = {MIXING} if table.embeddings == "factorised" else set()
    for name, parameter in student.named_parameters():
        if name.startswith(EMBEDDINGS) and name in copied.keys() - learned:
            parameter.requires_grad_(False)
