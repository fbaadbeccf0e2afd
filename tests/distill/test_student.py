import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_world import LAYERS, World, sentences

from distill.as_bert import Origin, as_bert
from distill.batches import Tokens, load_tokenizer, tokenize
from distill.student import student_of
from distill.tables.student import StudentTable
from distill.teacher import (
    Encoder,
    EncoderError,
    encode,
    load_encoder,
    load_teacher,
    tokenizer_file,
    vocabularies_agree,
)


@pytest.fixture(scope="module")
def tokens(world: World) -> Tokens:
    tokenizer = load_tokenizer(world.teacher / "tokenizer.json", max_tokens=32)
    texts = [sentences(language)[7] for language in ("en", "de", "ru", "zh")]
    return tokenize(tokenizer, texts)


def described(**changes: object) -> StudentTable:
    """A `[train.student]` table: the bottom two layers under frozen embeddings."""
    table = {"layers": 2, "initialisation": "bottom", "embeddings": "frozen"}
    return StudentTable.model_validate(table | changes)


@pytest.mark.parametrize("layers", range(1, LAYERS + 1))
def test_hidden_state_k_is_the_teachers_bit_for_bit(
    world: World, tokens: Tokens, layers: int
) -> None:
    teacher = load_teacher(str(world.teacher))
    student = student_of(str(world.teacher), described(layers=layers))
    with torch.inference_mode():
        every = teacher(
            input_ids=tokens.ids, attention_mask=tokens.mask.long(), output_hidden_states=True
        ).hidden_states
        answer = encode(student, tokens).hidden
    assert torch.equal(answer, every[layers])
    assert all(not torch.equal(answer, other) for other in every[:layers])


def test_a_weight_that_finds_no_place_is_not_left_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misnamed(encoder: Encoder) -> Origin:
        origin = as_bert(encoder)
        weights = {name.replace("query", "question"): t for name, t in origin.weights.items()}
        return replace(origin, weights=weights)

    monkeypatch.setattr("distill.student.as_bert", misnamed)
    with pytest.raises(AssertionError, match=r"no place for encoder\.layer\.0\..*question"):
        student_of(str(world.teacher), described())


def test_layers_left_out_on_purpose_are_no_cause_for_alarm(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    student_of(str(world.teacher), described(layers=1))
    assert capfd.readouterr().err == ""


def test_a_student_in_training_has_no_dropout(world: World, tokens: Tokens) -> None:
    student = student_of(str(world.teacher), described())
    assert student.training
    assert torch.equal(encode(student, tokens).hidden, encode(student, tokens).hidden)


def test_frozen_embeddings_are_the_tables_and_their_norm_and_nothing_else(world: World) -> None:
    student = student_of(str(world.teacher), described())
    frozen = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert frozen == {
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "embeddings.LayerNorm.weight",
        "embeddings.LayerNorm.bias",
    }
    whole = student_of(str(world.teacher), described(embeddings="trained"))
    assert all(p.requires_grad for p in whole.parameters())


def test_a_teacher_never_learns_and_never_drops_out(world: World) -> None:
    teacher = load_teacher(str(world.teacher))
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())


def test_pooled_is_the_mean_over_real_tokens(world: World, tokens: Tokens) -> None:
    encoded = encode(load_teacher(str(world.teacher)), tokens)
    for hidden, mask, pooled in zip(encoded.hidden, tokens.mask, encoded.pooled, strict=True):
        torch.testing.assert_close(pooled, hidden[: int(mask.sum())].mean(0))


def test_a_text_encodes_alike_alone_and_beside_a_longer_one(world: World) -> None:
    tokenizer = load_tokenizer(world.teacher / "tokenizer.json", max_tokens=48)
    teacher = load_teacher(str(world.teacher))
    short, long = sentences("zh")[0], sentences("de")[5]
    alone = encode(teacher, tokenize(tokenizer, [short])).pooled[0]
    beside = encode(teacher, tokenize(tokenizer, [long, short])).pooled[1]
    torch.testing.assert_close(beside, alone, rtol=1e-4, atol=1e-5)


def test_more_layers_than_there_are_is_refused(world: World) -> None:
    with pytest.raises(EncoderError, match="has 4 layers, fewer than 5"):
        load_encoder(str(world.teacher), layers=5)


@pytest.fixture
def copy(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.teacher, tmp_path / "copy"))


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_weights_that_are_not_there_are_not_made_up(copy: Path) -> None:
    change_config(copy, num_hidden_layers=5)
    with pytest.raises(EncoderError, match=r"lacks 16 of its weights, such as encoder\.layer\.4"):
        load_encoder(str(copy))


def test_weights_of_half_precision_are_loaded_in_float32(copy: Path) -> None:
    path = copy / "model.safetensors"
    save_file({name: t.half() for name, t in load_file(path).items()}, path, {"format": "pt"})
    change_config(copy, dtype="float16", torch_dtype="float16")
    assert {p.dtype for p in load_encoder(str(copy)).parameters()} == {torch.float32}


@pytest.mark.parametrize("broken", ["no config", "no weights", "half the weights", "other width"])
def test_a_folder_that_is_no_encoder_is_named(copy: Path, broken: str) -> None:
    weights = copy / "model.safetensors"
    if broken == "no config":
        (copy / "config.json").unlink()
    elif broken == "no weights":
        weights.unlink()
    elif broken == "half the weights":
        weights.write_bytes(weights.read_bytes()[:1_000])
    else:
        change_config(copy, hidden_size=64)
    with pytest.raises(EncoderError, match="copy is no encoder folder"):
        load_encoder(str(copy))


def test_an_encoder_without_a_fast_tokenizer_is_named(copy: Path) -> None:
    assert tokenizer_file(str(copy)) == copy / "tokenizer.json"
    (copy / "tokenizer.json").unlink()
    for name in (str(copy), "a/path/that/is/not/there"):
        with pytest.raises(EncoderError, match=r"has no tokenizer\.json"):
            tokenizer_file(name)


def test_vocabularies_agree_when_every_piece_has_the_same_id(world: World) -> None:
    one, other, english = (
        load_tokenizer(folder / "tokenizer.json", max_tokens=32)
        for folder in (world.teacher, world.teacher, world.english)
    )
    assert vocabularies_agree(one, other)
    assert not vocabularies_agree(one, english)
