from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tiny_encoder import (
    FAMILIES,
    FAMILY_TOKENS,
    TEXTS,
    WIDTH,
    roughen,
    write_encoder,
    write_family,
)
from torch import nn
from transformers import BertModel

from distill.anatomy import Encoder, anatomy
from distill.batches import Tokens, load_tokenizer, tokenize
from distill.factors import factorised
from distill.layered import FactorisedTable, LayeredEncoder
from distill.student import StudentError, student_of
from distill.tables.student import StudentTable
from distill.taps import Observer, View, Wants
from distill.teacher import encode, load_encoder, load_teacher, tokenizer_file

OF_BERTS_KIND = [family for family in FAMILIES if family != "modernbert"]
RANK = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("specs")
    for family in FAMILIES:
        write_family(root / family, family)
    return root


@pytest.fixture(scope="module")
def bert(root: Path) -> str:
    return str(root / "bert")


def described(**changes: object) -> StudentTable:
    """The bottom two layers under frozen embeddings, but for `changes`."""
    table = {"layers": 2, "initialisation": "bottom", "embeddings": "frozen"} | changes
    if "body" in changes:
        del table["layers"]
    return StudentTable.model_validate(table)


def of_other_width(**changes: object) -> StudentTable:
    measures = {"width": 24, "heads": 3, "feed_forward_width": 40, "initialisation": "random"}
    return described(**measures | changes)


def tokens_of(start: str) -> Tokens:
    tokenizer = load_tokenizer(tokenizer_file(start), max_tokens=FAMILY_TOKENS)
    return tokenize(tokenizer, TEXTS)


@torch.no_grad()
def seen(encoder: Encoder, tokens: Tokens, *layers: int, pieces: bool = False) -> View:
    return Observer(encoder.eval(), Wants(frozenset(layers), pieces=pieces))(tokens)


def learn(student: Encoder, tokens: Tokens, *, steps: int = 3) -> None:
    """A few steps towards nothing in particular, with weight decay."""
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        encode(student, tokens).pooled.square().sum().backward()
        optimizer.step()


def layer_states(encoder: Encoder) -> list[dict[str, torch.Tensor]]:
    return [layer.state_dict() for layer in encoder.encoder.layer]


@pytest.mark.parametrize("family", OF_BERTS_KIND)
@pytest.mark.parametrize("body", [None, ("attention", "feed-forward") * 2], ids=["plain", "listed"])
def test_a_bottom_student_says_what_its_start_says_there(
    root: Path, family: str, body: tuple[str, ...] | None
) -> None:
    start = str(root / family)
    table = described() if body is None else described(body=body)
    student, tokens = student_of(start, table), tokens_of(start)
    assert type(student) is (BertModel if body is None else LayeredEncoder)
    teacher = seen(load_teacher(start), tokens, 0, 2)
    found = seen(student, tokens, 0)
    assert torch.equal(found.hidden[0][tokens.mask], teacher.hidden[0][tokens.mask])
    # DistilBERT divides queries where BERT divides scores
    rounding = 1e-5 if family == "distilbert" else 0
    torch.testing.assert_close(
        found.last_hidden[tokens.mask], teacher.hidden[2][tokens.mask], rtol=0, atol=rounding
    )
    assert anatomy(student).max_tokens == FAMILY_TOKENS


@pytest.mark.parametrize("family", OF_BERTS_KIND)
def test_frozen_embeddings_stay_bit_for_bit_while_the_body_learns(root: Path, family: str) -> None:
    start = str(root / family)
    student, tokens = student_of(start, described()), tokens_of(start)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    learn(student, tokens)
    for name, tensor in student.state_dict().items():
        frozen = name.startswith("embeddings.")
        assert torch.equal(tensor, before[name]) == frozen, name
    assert all(p.grad is None for p in student.embeddings.parameters())


def test_trained_embeddings_learn(bert: str) -> None:
    student = student_of(bert, described(embeddings="trained"))
    before = student.embeddings.word_embeddings.weight.detach().clone()
    learn(student, tokens_of(bert))
    assert not torch.equal(student.embeddings.word_embeddings.weight, before)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"layers": 2}, [1, 2]),
        ({"layers": 2, "initialisation": "every-k"}, [2, 4]),
        ({"layers": 1, "initialisation": "every-k"}, [4]),
        ({"layers": 3, "initialisation": "layers", "copied_layers": [4, 1, 1]}, [4, 1, 1]),
    ],
    ids=["bottom", "every second", "every fourth", "listed"],
)
def test_the_layers_asked_for_are_copied(
    bert: str, changes: dict[str, object], expected: list[int]
) -> None:
    theirs = layer_states(load_teacher(bert))
    found = layer_states(student_of(bert, described(**changes)))
    for own, number in zip(found, expected, strict=True):
        for name, tensor in own.items():
            assert torch.equal(tensor, theirs[number - 1][name])


def test_random_layers_are_new_and_of_the_seed(bert: str) -> None:
    table = described(layers=6, initialisation="random")
    torch.manual_seed(3)
    one = student_of(bert, table)
    torch.manual_seed(3)
    again = student_of(bert, table)
    assert anatomy(one).depth == 6
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    start = layer_states(load_teacher(bert))[0]["attention.self.query.weight"]
    assert not torch.equal(layer_states(one)[0]["attention.self.query.weight"], start)


def test_slots_of_a_body_copy_the_nth_of_their_kind(bert: str) -> None:
    body = ("feed-forward", "dynamic-convolution", "attention", "attention", "transformer")
    student = student_of(bert, described(body=body))
    start = load_teacher(bert).state_dict()
    found = student.state_dict()
    sources = {
        "0.intermediate.": "0.intermediate.",
        "0.output.": "0.output.",
        "2.attention.": "0.attention.",
        "3.attention.": "1.attention.",
        "4.attention.": "2.attention.",
        "4.intermediate.": "1.intermediate.",
        "4.output.": "1.output.",
    }
    copied = 0
    for name, tensor in found.items():
        own = name.removeprefix("encoder.layer.")
        for mine, theirs in sources.items():
            if own.startswith(mine):
                source = f"encoder.layer.{theirs}{own.removeprefix(mine)}"
                assert torch.equal(tensor, start[source]), name
                copied += 1
    assert copied == 2 * 6 + 3 * 10  # two feed-forwards, three attentions
    assert anatomy(student).attention_layers == (3, 4, 5)


def test_the_product_of_factors_is_the_nearest_of_its_rank() -> None:
    table = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    factors, mixing = factorised(table, RANK)
    assert (factors.shape, mixing.shape) == ((50, RANK), (12, RANK))
    torch.testing.assert_close(mixing.T @ mixing, torch.eye(RANK), rtol=0, atol=1e-6)
    missed = (table - factors @ mixing.T).square().sum()
    # Eckart and Young: what the smallest singular values hold
    expected = torch.linalg.svdvals(table)[RANK:].square().sum()
    torch.testing.assert_close(missed, expected)


def test_factors_are_of_the_starts_table_and_only_the_small_one_learns(bert: str) -> None:
    student = student_of(bert, described(embeddings="factorised", rank=RANK))
    table = student.embeddings.word_embeddings
    assert isinstance(table, FactorisedTable)
    words = load_teacher(bert).embeddings.word_embeddings.weight
    _, _, right = torch.linalg.svd(words)
    nearest = words @ right[:RANK].T @ right[:RANK]
    torch.testing.assert_close(table.weight, nearest, rtol=1e-4, atol=1e-4)
    trained = {n for n, p in student.embeddings.named_parameters() if p.requires_grad}
    assert trained == {"word_embeddings.mixing.weight"}
    before = table.factors.weight.clone(), table.mixing.weight.detach().clone()
    learn(student, tokens_of(bert))
    assert torch.equal(table.factors.weight, before[0])
    assert not torch.equal(table.mixing.weight, before[1])


def test_factors_of_full_rank_change_nothing(bert: str) -> None:
    tokens = tokens_of(bert)
    student = student_of(bert, described(embeddings="factorised", rank=WIDTH))
    expected = seen(load_teacher(bert), tokens, 2).hidden[2]
    torch.testing.assert_close(
        seen(student, tokens).last_hidden[tokens.mask], expected[tokens.mask], rtol=0, atol=1e-4
    )


def test_another_width_takes_the_starts_factors_and_draws_the_rest(bert: str) -> None:
    student = student_of(bert, of_other_width(layers=3, embeddings="factorised", rank=RANK))
    parts = anatomy(student)
    assert (parts.width, parts.heads, parts.depth) == (24, 3, 3)
    frozen = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert frozen == {"embeddings.word_embeddings.factors.weight"}
    words = load_teacher(bert).embeddings.word_embeddings.weight
    factors = student.embeddings.word_embeddings.factors.weight
    torch.testing.assert_close(factors, factorised(words, RANK).factors)
    plain = student_of(bert, of_other_width(embeddings="random"))
    assert type(plain) is BertModel
    assert all(p.requires_grad for p in plain.parameters())


def test_of_a_modernbert_only_the_word_table_is_copied(root: Path) -> None:
    start = str(root / "modernbert")
    table = described(layers=3, initialisation="random", positions=FAMILY_TOKENS)
    student, teacher = student_of(start, table), load_teacher(start)
    assert type(student) is BertModel
    assert torch.equal(
        student.embeddings.word_embeddings.weight, teacher.embeddings.tok_embeddings.weight
    )
    frozen = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert frozen == {"embeddings.word_embeddings.weight", "embeddings.LayerNorm.weight"}
    nn.init.zeros_(student.embeddings.position_embeddings.weight)
    nn.init.zeros_(student.embeddings.token_type_embeddings.weight)
    tokens = tokens_of(start)
    found, expected = (seen(each, tokens, 0).hidden[0] for each in (student, teacher))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_students_head_is_that_of_its_start(root: Path, family: str, tmp_path: Path) -> None:
    start = str(root / family)
    own = {"initialisation": "random", "positions": 48} if family == "modernbert" else {}
    student = student_of(start, described(**own), pieces=True)
    theirs = load_teacher(start, pieces=True)
    hidden = torch.randn(2, 5, WIDTH)
    table = theirs.get_input_embeddings().weight
    torch.testing.assert_close(
        student.piece_head(hidden, table), theirs.piece_head(hidden, table), rtol=1e-5, atol=1e-5
    )
    student.save_pretrained(tmp_path)
    tokens = tokens_of(start)
    again = seen(load_encoder(str(tmp_path), pieces=True), tokens, pieces=True)
    now = seen(student, tokens, pieces=True)
    assert now.piece_logits is not None
    assert torch.equal(now.piece_logits, again.piece_logits)


def test_a_student_of_another_width_gets_a_new_head(bert: str) -> None:
    student = student_of(bert, of_other_width(embeddings="random"), pieces=True)
    logits = seen(student, tokens_of(bert), pieces=True).piece_logits
    assert logits is not None
    assert logits.shape[-1] == anatomy(student).vocabulary


@pytest.mark.parametrize(
    "table",
    [
        described(),
        described(body=("dynamic-convolution", "attention", "feed-forward")),
        described(embeddings="factorised", rank=RANK),
        of_other_width(embeddings="random"),
    ],
    ids=["plain", "listed", "factorised", "other width"],
)
def test_a_skeleton_is_the_student_without_weights(bert: str, table: StudentTable) -> None:
    skeleton = student_of(bert, table, pieces=True, skeleton=True)
    student = student_of(bert, table, pieces=True)
    told = [
        [(name, p.shape, p.requires_grad) for name, p in each.named_parameters()]
        for each in (skeleton, student)
    ]
    assert told[0] == told[1]
    assert {p.device.type for p in skeleton.parameters()} == {"meta"}


def test_a_student_can_start_from_a_layered_one(bert: str, tmp_path: Path) -> None:
    body = ("dynamic-convolution", "attention", "feed-forward", "attention")
    first = student_of(bert, described(body=body, embeddings="factorised", rank=RANK))
    roughen(first.encoder)
    first.save_pretrained(tmp_path)
    tokens = tokens_of(bert)
    for embeddings, learned in (("frozen", 0), ("factorised", 1), ("trained", 6)):
        rank = {"rank": RANK} if embeddings == "factorised" else {}
        again = student_of(str(tmp_path), described(layers=4, embeddings=embeddings, **rank))
        assert torch.equal(seen(again, tokens).last_hidden, seen(first, tokens).last_hidden)
        assert sum(p.requires_grad for p in again.embeddings.parameters()) == learned
    shorter = student_of(str(tmp_path), described(layers=3))
    assert anatomy(shorter).attention_layers == (2,)
    refused = {
        "has 4 layers, fewer than 5": described(layers=5),
        "rank 8; rank is 3": described(layers=4, embeddings="factorised", rank=3),
        "body of its own": described(body=("attention",)),
    }
    for why, table in refused.items():
        with pytest.raises(StudentError, match=why):
            student_of(str(tmp_path), table)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (described(layers=5), "5 layers are to be copied of .*, which has 4"),
        (described(layers=3, initialisation="every-k"), "every k-th of the 4 layers"),
        (
            described(layers=2, initialisation="layers", copied_layers=[1, 5]),
            r"copied_layers \[1, 5\] must be 2 of the 4",
        ),
        (
            described(layers=2, initialisation="layers", copied_layers=[1]),
            r"copied_layers \[1\] must be 2",
        ),
        (of_other_width(), "copies a table 32 wide .* the student is 24 wide"),
        (described(embeddings="factorised", rank=33), "rank 33 exceeds .* 32"),
        (described(positions=20), "positions is 20; .* has a position table"),
    ],
    ids=["too deep", "no k", "no such layer", "too few", "width", "rank", "positions"],
)
@pytest.mark.parametrize("skeleton", [False, True])
def test_what_the_start_cannot_give_is_refused(
    bert: str, table: StudentTable, why: str, skeleton: bool
) -> None:
    with pytest.raises(StudentError, match=why):
        student_of(bert, table, skeleton=skeleton)


def test_what_a_modernbert_cannot_give_is_refused(root: Path) -> None:
    start = str(root / "modernbert")
    with pytest.raises(StudentError, match=r"positions is None; .* has none to copy"):
        student_of(start, described(initialisation="random"))
    with pytest.raises(StudentError, match="which has 0: its layers are not of BERT's kind"):
        student_of(start, described(positions=48))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"layers": None}, "either layers or body"),
        ({"body": ["attention"], "layers": 2}, "either layers or body"),
        ({"body": [], "layers": None}, "body is empty"),
        ({"body": ["pooling"], "layers": None}, "dynamic-convolution"),
        ({"copied_layers": [1, 2]}, "copied_layers goes with"),
        ({"initialisation": "layers"}, "copied_layers goes with"),
        ({"rank": 3}, "rank goes with"),
        ({"embeddings": "factorised"}, "rank goes with"),
        ({"width": 24, "initialisation": "random"}, "go together"),
        ({"width": 24, "heads": 3, "feed_forward_width": 9}, "must be 'random'"),
        (
            {"width": 24, "heads": 5, "feed_forward_width": 9, "initialisation": "random"},
            "width 24 is no multiple of heads 5",
        ),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(changes: dict[str, object], why: str) -> None:
    table = {"layers": 2, "initialisation": "bottom", "embeddings": "frozen"}
    with pytest.raises(ValidationError, match=why):
        StudentTable.model_validate(table | changes)


def test_a_student_of_every_layer_of_bert_is_its_start(tmp_path: Path) -> None:
    start = str(write_encoder(tmp_path / "encoder"))
    student = student_of(start, described())
    assert student.state_dict().keys() == load_encoder(start).state_dict().keys()
    for name, tensor in load_encoder(start).state_dict().items():
        assert torch.equal(student.state_dict()[name], tensor)
