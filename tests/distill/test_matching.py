from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from tiny_objectives import (
    ALL,
    CODIR,
    DISTILBERT,
    MINILM,
    MINILM2,
    TINYBERT,
    objective,
)
from tiny_world import FOREIGN, LAYERS, LIGHTMBERT, SENTENCE, World, sentences
from torch import Tensor

from distill.anatomy import PIECE_HEAD, Anatomy, Encoder, anatomy
from distill.batches import Batch, Masked, Tokens, load_tokenizer, tokenize
from distill.config import RecipeError
from distill.losses import Losses
from distill.matching import match_class, match_of
from distill.piece_head import PieceHead
from distill.taps import Wants
from distill.teacher import load_encoder, load_skeleton, load_teacher


@pytest.fixture(scope="module")
def student(world: World) -> Anatomy:
    return anatomy(load_skeleton(str(world.teacher), layers=2, pieces=True))


@pytest.fixture(scope="module")
def teacher(world: World) -> Anatomy:
    return anatomy(load_skeleton(str(world.teacher), pieces=True))


@pytest.fixture(scope="module")
def batch(world: World) -> Batch:
    tokenizer = load_tokenizer(world.teacher / "tokenizer.json", max_tokens=32)
    texts = [sentences(language)[row] for row in (5, 40, 63) for language in FOREIGN]
    english = tokenize(tokenizer, [sentences("en")[row] for row in (5, 40, 63) for _ in FOREIGN])
    text = tokenize(tokenizer, texts)
    labels = torch.full_like(text.ids, -100)
    labels[:, 1] = text.ids[:, 1]
    masked = text.ids.clone()
    masked[:, 1] = tokenizer.token_to_id("[MASK]")
    return Batch(text, english, english, torch.arange(3).repeat(3), Masked(masked, labels))


def encoders(world: World) -> tuple[Encoder, Encoder]:
    student, teacher = load_encoder(str(world.teacher), layers=2), load_teacher(str(world.teacher))
    for encoder in (student, teacher):
        torch.manual_seed(1)
        setattr(encoder, PIECE_HEAD, PieceHead(encoder.config))
    return student.train(), teacher


def losses_of(world: World, *tables: dict[str, object]) -> Losses:
    student, teacher = encoders(world)
    facts = anatomy(student), anatomy(teacher)
    matches = [match_of(objective(table), *facts) for table in tables]
    return Losses(student, teacher, matches, nullcontext)


REFUSED = {
    "no weight at all": (
        LIGHTMBERT | {"attention_weight": 0.0, "hidden_weight": 0.0},
        {},
        "'lightmbert' has no weight above 0",
    ),
    "no attention": (LIGHTMBERT, {"attention_layers": ()}, "the student has no attention layer"),
    "relations without attention": (
        MINILM2,
        {"attention_layers": ()},
        "'minilm' compares attention, and the student has no attention layer",
    ),
    "tinybert without attention": (TINYBERT, {"attention_layers": ()}, "has no attention layer"),
    "rotary scores": (LIGHTMBERT, {"rotary": True}, "the student turns queries and keys"),
    "rotary layer by layer": (TINYBERT, {"rotary": True}, "the student turns queries and keys"),
    "rotary distributions": (MINILM, {"rotary": True}, "'minilm' of version 2"),
    "other heads": (LIGHTMBERT, {"heads": 2}, "2 heads in the student, 4 in the teacher"),
    "other heads of values": (
        MINILM | {"attention_weight": 0.0},
        {"heads": 2},
        "2 heads in the student, 4 in the teacher",
    ),
    "narrower": (LIGHTMBERT, {"width": 16}, "width 16 in the student and 32 .*'learned'"),
    "narrower layers": (TINYBERT, {"width": 16}, "width 16 in the student and 32 .*'learned'"),
    "narrower directions": (DISTILBERT, {"width": 16}, "set direction_weight = 0.0"),
    "narrower sentences": (SENTENCE, {"width": 16}, "its embeddings must be as wide"),
    "no pieces": (DISTILBERT, {"has_pieces": False}, "the student has no masked-language head"),
    "no predictions": (
        TINYBERT | {"prediction_weight": 1.0},
        {"has_pieces": False},
        "'tinybert' compares pieces, and the student has no masked-language head",
    ),
    "a layer too high": (
        MINILM2 | {"teacher_layer": 5},
        {},
        "attention of layer 5; the teacher has it in 1, 2, 3, 4",
    ),
    "uneven heads": (
        MINILM2 | {"relation_heads": 24},
        {"width": 48},
        "24 relation heads; the teacher is 32 wide",
    ),
    "codir too high in the student": (
        CODIR | {"student_layers": [1, 3]},
        {},
        "layer 3 of the student, which has 2",
    ),
    "codir too high in the teacher": (
        CODIR | {"teacher_layers": [9]},
        {},
        "layer 9 of the teacher, which has 4",
    ),
    "uneven layers": (TINYBERT, {"depth": 3}, "3 layers cannot be spread .* set teacher_layers"),
    "a layer too many": (
        TINYBERT | {"teacher_layers": [1, 2, 4]},
        {},
        "names 3 teacher layers for 2 layers of the student",
    ),
    "a teacher layer too high": (
        TINYBERT | {"teacher_layers": [2, 6]},
        {},
        "layer 6 of the teacher, which has 4",
    ),
}


@pytest.mark.parametrize(("table", "changes", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_from_configs_alone(
    student: Anatomy,
    teacher: Anatomy,
    table: dict[str, object],
    changes: dict[str, object],
    said: str,
) -> None:
    odd = replace(student, **changes)  # type: ignore[arg-type]  # any of its fields
    with pytest.raises(RecipeError, match=said):
        match_of(objective(table), odd, teacher)


@pytest.mark.parametrize("table", [LIGHTMBERT, TINYBERT, MINILM])
def test_a_rotary_teacher_is_refused_as_well(
    student: Anatomy, teacher: Anatomy, table: dict[str, object]
) -> None:
    with pytest.raises(RecipeError, match="the teacher turns queries and keys"):
        match_of(objective(table), student, replace(teacher, rotary=True))


FITS = {
    "hidden states of a rotary teacher": (LIGHTMBERT | {"attention_weight": 0.0}, {"rotary": True}),
    "relations of a rotary teacher": (MINILM2, {"rotary": True}),
    "relations of other heads and width": (MINILM2, {"heads": 8, "width": 64}),
    "no attention, none compared": (
        LIGHTMBERT | {"attention_weight": 0.0},
        {"attention_layers": ()},
    ),
    "codir without attention": (CODIR, {"attention_layers": (), "width": 8, "heads": 1}),
    "directions alone need no pieces": (
        DISTILBERT | {"pieces_weight": 0.0, "masked_language_weight": 0.0},
        {"has_pieces": False},
    ),
    "pieces alone need no width": (DISTILBERT | {"direction_weight": 0.0}, {"width": 16}),
    "a projection over the difference": (LIGHTMBERT | {"projection": "learned"}, {"width": 16}),
}


@pytest.mark.parametrize(("table", "changes"), FITS.values(), ids=FITS)
def test_what_can_work_is_not_refused(
    student: Anatomy, teacher: Anatomy, table: dict[str, object], changes: dict[str, object]
) -> None:
    odd = replace(student, **changes)  # type: ignore[arg-type]  # any of its fields
    match_of(objective(table), odd, teacher)


def test_only_what_is_compared_is_wanted(student: Anatomy, teacher: Anatomy) -> None:
    wanted = {
        kind: (match.student_wants, match.teacher_wants)
        for kind, table in ALL.items()
        for match in [match_of(objective(table), student, teacher)]
    }
    none = frozenset[int]()
    assert wanted == {
        "lightmbert": (Wants(none, frozenset({2})), Wants(none, frozenset({4}))),
        "tinybert": (
            Wants(frozenset({0, 1, 2}), frozenset({1, 2})),
            Wants(frozenset({0, 2, 4}), frozenset({2, 4})),
        ),
        "distilbert": (Wants(pieces=True), Wants(pieces=True)),
        "minilm": (Wants(none, frozenset({2})), Wants(none, frozenset({4}))),
        "minilm2": (Wants(none, frozenset({2})), Wants(none, frozenset({3}))),
        "codir": (Wants(frozenset({1, 2})), Wants(frozenset({2, 4}))),
        "sentence": (Wants(), Wants()),
    }


def test_attention_is_compared_where_a_layered_body_has_it(
    student: Anatomy, teacher: Anatomy
) -> None:
    layered = replace(student, depth=4, attention_layers=(1, 3))
    match = match_of(objective(TINYBERT, teacher_layers=[1, 2, 3, 4]), layered, teacher)
    assert match.student_wants.attention == {1, 3}
    assert match.teacher_wants.attention == {1, 3}
    assert match.student_wants.hidden == {0, 1, 2, 3, 4}


def test_what_a_kind_needs_is_told_before_anything_loads() -> None:
    needs = {
        kind: (match.parallel, match.masks_text, match.same_pieces, match.asks_pieces(table))
        for kind, table in ((kind, objective(table)) for kind, table in ALL.items())
        for match in [match_class(table)]
    }
    assert needs == {
        "lightmbert": (False, False, True, False),
        "tinybert": (False, False, True, False),
        "distilbert": (False, True, True, True),
        "minilm": (False, False, True, False),
        "minilm2": (False, False, True, False),
        "codir": (False, False, True, False),
        "sentence": (True, False, False, False),
    }
    predicting = objective(TINYBERT, prediction_weight=1.0)
    assert match_class(predicting).asks_pieces(predicting)
    for match in {match_class(objective(table)) for table in ALL.values()}:
        sides = match.student_reads | match.teacher_reads
        assert match.parallel == ("english" in sides)
        assert match.masks_text == ("masked" in sides)


@pytest.mark.parametrize("kind", ALL)
def test_terms_are_those_of_the_weights_and_carry_gradient(
    world: World, batch: Batch, kind: str
) -> None:
    losses = losses_of(world, ALL[kind])
    terms = losses(batch)
    assert terms.keys() == losses.weights.keys()
    torch.stack([*terms.values()]).sum().backward()
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    assert any(p.grad is not None and p.grad.any() for p in losses.student.parameters())
    assert all(p.grad is None for p in losses.teacher.parameters())
    assert all(p.grad is not None and p.grad.any() for p in losses.trained())


@pytest.mark.parametrize(
    ("kind", "zero"),
    [
        ("lightmbert", True),
        ("tinybert", True),
        ("minilm", True),
        ("minilm2", False),  # against layer 3
        ("distilbert", False),  # the masked pieces themselves stay to be learnt
    ],
)
def test_a_student_that_is_the_teacher_has_nothing_to_learn(
    world: World, batch: Batch, kind: str, zero: bool
) -> None:
    _, teacher = encoders(world)
    facts = anatomy(teacher)
    match = match_of(objective(ALL[kind]), facts, facts)
    terms = Losses(teacher, teacher, [match], nullcontext)(batch)
    assert (sum(terms.values()) == 0) == zero
    if kind == "distilbert":
        assert abs(terms["distilbert.pieces"]) < 1e-6
        assert abs(terms["distilbert.direction"]) < 1e-6


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "sentence"])
def test_terms_are_the_same_with_more_padding(world: World, batch: Batch, kind: str) -> None:
    def wider(tensor: Tensor, value: int) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, 4), value=value)

    def wider_tokens(tokens: Tokens) -> Tokens:
        return Tokens(wider(tokens.ids, 9), wider(tokens.mask, 0))

    assert batch.masked is not None
    assert batch.english is not None
    wide = Batch(
        wider_tokens(batch.text),
        wider_tokens(batch.english),
        None,
        batch.languages,
        Masked(wider(batch.masked.ids, 9), wider(batch.masked.labels, -100)),
    )
    found = []
    for each in (batch, wide):
        torch.manual_seed(5)
        found.append(losses_of(world, ALL[kind])(each))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["lightmbert", "tinybert"])
def test_a_learned_projection_stands_between_student_and_teacher(
    world: World, batch: Batch, kind: str
) -> None:
    losses = losses_of(world, ALL[kind] | {"projection": "learned"})
    before = losses(batch)
    with torch.no_grad():
        losses.matches[kind].get_submodule("projection").weight.zero_()
    after = losses(batch)
    for term in (f"{kind}.attention", f"{kind}.hidden"):
        assert torch.equal(before[term], after[term]) == term.endswith("attention")


def test_distilbert_reads_masked_text_and_compares_where_it_is_told(
    world: World, batch: Batch
) -> None:
    assert batch.masked is not None
    losses = losses_of(world, DISTILBERT)
    logits = losses._student_views(batch, english=None).masked.piece_logits
    asked = batch.masked.labels >= 0
    direct = torch.nn.functional.cross_entropy(logits[asked], batch.masked.labels[asked])
    found = losses(batch)
    torch.testing.assert_close(found["distilbert.masked_language"], direct)
    plain = replace(batch, masked=replace(batch.masked, ids=batch.text.ids))
    assert not torch.equal(losses(plain)["distilbert.masked_language"], direct)
    everywhere = losses_of(world, DISTILBERT | {"tokens": "real"})(batch)
    assert found["distilbert.pieces"] != everywhere["distilbert.pieces"]


def test_several_objectives_are_weighted_by_entry_and_term(world: World, batch: Batch) -> None:
    tables = [
        LIGHTMBERT | {"weight": 2.0, "attention_weight": 0.5, "hidden_weight": 3.0},
        DISTILBERT | {"weight": 0.1, "direction_weight": 0.0},
        SENTENCE | {"distance_weight": 4.0, "contrastive_weight": 0.0},
    ]
    losses = losses_of(world, *tables)
    assert losses.weights == {
        "lightmbert.attention": 1.0,
        "lightmbert.hidden": 6.0,
        "distilbert.pieces": pytest.approx(0.5),
        "distilbert.masked_language": pytest.approx(0.2),
        "sentence.distance": 4.0,
        "sentence.distance_english": 4.0,
    }
    together = losses(batch)
    for table in tables:
        for name, term in losses_of(world, table)(batch).items():
            torch.testing.assert_close(together[name], term)


def test_the_english_of_every_other_pair_may_do(world: World, batch: Batch) -> None:
    of_all, of_some = (
        losses_of(world, SENTENCE | {"english_every": every})(batch) for every in (1, 2)
    )
    rows = range(0, len(batch.text.ids), 2)
    assert batch.english is not None
    assert batch.teacher_english is not None
    chosen = replace(
        batch,
        text=batch.text.every(2),
        english=Tokens(batch.english.ids[rows], batch.english.mask[rows]),
        teacher_english=batch.teacher_english.every(2),
    )
    expected = losses_of(world, SENTENCE)(chosen)["sentence.distance_english"]
    torch.testing.assert_close(of_some.pop("sentence.distance_english"), expected)
    assert of_all.pop("sentence.distance_english") != expected
    assert of_some == of_all


def test_a_side_is_looked_at_only_as_far_as_something_reads_it_there(
    world: World, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[torch.Size] = []
    forward = PieceHead.forward

    def watched(head: PieceHead, hidden: Tensor, table: Tensor) -> Tensor:
        shapes.append(hidden.shape)
        return forward(head, hidden, table)

    monkeypatch.setattr(PieceHead, "forward", watched)
    losses_of(world, LIGHTMBERT, DISTILBERT, SENTENCE)(batch)
    assert len(shapes) == 2  # the masked text, by either encoder; no other side has logits


def test_in_bfloat16_terms_are_float32_and_close(world: World, batch: Batch) -> None:
    for kind, table in ALL.items():
        exact = losses_of(world, table)
        torch.manual_seed(5)
        terms = exact(batch)
        rough = losses_of(world, table)
        rough._autocast = lambda: torch.autocast("cpu", torch.bfloat16)
        rough.load_state_dict(exact.state_dict())
        for name in rough.state_dict():
            if ".queue." in name:  # as it was before the batch went in
                rough.get_buffer(name).copy_(losses_of(world, table).get_buffer(name))
        torch.manual_seed(5)
        found = rough(batch)
        for name, term in found.items():
            assert term.dtype == torch.float32, (kind, name)
            assert term.item() == pytest.approx(terms[name].item(), rel=0.15), (kind, name)


def test_checkpoints_hold_student_projections_and_queues_but_no_teacher(world: World) -> None:
    losses = losses_of(world, LIGHTMBERT | {"projection": "learned"}, CODIR)
    names = {name.rsplit(".", 1)[0] for name in losses.state_dict() if name[:8] != "student."}
    assert names == {
        "matches.lightmbert.projection",
        "matches.codir",
        "matches.codir.student_projection",
        "matches.codir.teacher_projection",
        "matches.codir.queue",
    }
    assert len([*losses.trained()]) == 6
    assert len(losses.teacher.encoder.layer) == LAYERS
