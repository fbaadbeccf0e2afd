import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoder import FAMILIES, FAMILY_LAYERS, FAMILY_TOKENS, TEXTS, WIDTH, write_family
from transformers import BertConfig, BertModel, PreTrainedModel

from distill.anatomy import anatomy
from distill.batches import Tokens, load_tokenizer, tokenize
from distill.taps import Observer, Wants
from distill.teacher import (
    EncoderError,
    encode,
    load_encoder,
    load_skeleton,
    load_teacher,
    tokenizer_file,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(root: Path, family: str) -> Path:
    return root / family


@pytest.fixture(scope="module")
def model(folder: Path, family: str) -> PreTrainedModel:
    return write_family(folder, family)


@pytest.fixture
def tokens(folder: Path, model: PreTrainedModel) -> Tokens:
    tokenizer = load_tokenizer(tokenizer_file(str(folder)), max_tokens=FAMILY_TOKENS)
    return tokenize(tokenizer, TEXTS)


def test_every_family_encodes_as_its_own_model_does(
    folder: Path, model: PreTrainedModel, tokens: Tokens
) -> None:
    with torch.inference_mode():
        found = encode(load_teacher(str(folder)), tokens).hidden
        expected = model.base_model(
            input_ids=tokens.ids, attention_mask=tokens.mask.long()
        ).last_hidden_state
    torch.testing.assert_close(found[tokens.mask], expected[tokens.mask])


def test_a_text_encodes_alike_alone_and_in_company(
    folder: Path, model: PreTrainedModel, tokens: Tokens
) -> None:
    teacher = load_teacher(str(folder))
    together = encode(teacher, tokens).pooled
    for index, mask in enumerate(tokens.mask):
        alone = Tokens(tokens.ids[index : index + 1, mask], tokens.mask[index : index + 1, mask])
        torch.testing.assert_close(
            encode(teacher, alone).pooled[0], together[index], rtol=1e-4, atol=1e-5
        )


def test_an_encoder_in_training_has_no_dropout(
    folder: Path, model: PreTrainedModel, tokens: Tokens
) -> None:
    encoder = load_encoder(str(folder)).train()
    assert torch.equal(encode(encoder, tokens).hidden, encode(encoder, tokens).hidden)


def test_anatomy_tells_the_measures(folder: Path, family: str, model: PreTrainedModel) -> None:
    parts = anatomy(load_teacher(str(folder)))
    assert (parts.family, parts.depth, parts.width, parts.heads) == (
        family,
        FAMILY_LAYERS,
        WIDTH,
        4,
    )
    assert parts.attention_layers == (1, 2, 3, 4)
    assert parts.rotary == (family == "modernbert")
    assert parts.word_table.weight.shape == (parts.vocabulary, WIDTH)
    assert not parts.has_pieces


def test_the_longest_text_is_that_of_the_anatomy(
    folder: Path, family: str, model: PreTrainedModel
) -> None:
    teacher = load_teacher(str(folder))
    room = anatomy(teacher).max_tokens
    assert room == FAMILY_TOKENS
    ids = torch.full((1, room + 1), 7)
    encode(teacher, Tokens(ids[:, :room], torch.ones(1, room, dtype=torch.bool)))
    if family != "modernbert":  # rotation has no end
        with pytest.raises((IndexError, RuntimeError)):
            encode(teacher, Tokens(ids, torch.ones(1, room + 1, dtype=torch.bool)))


def test_the_bottom_layers_are_kept(folder: Path, model: PreTrainedModel, tokens: Tokens) -> None:
    whole = Observer(load_teacher(str(folder)), Wants(hidden=frozenset({2})))(tokens)
    part = load_encoder(str(folder), layers=2).eval()
    assert anatomy(part).depth == 2
    found = Observer(part, Wants(hidden=frozenset({2})))(tokens)
    assert torch.equal(found.hidden[2], whole.hidden[2])
    with pytest.raises(EncoderError, match="has 4 layers, fewer than 5"):
        load_encoder(str(folder), layers=5)


def test_the_masked_language_head_gives_the_models_logits(
    folder: Path, model: PreTrainedModel, tokens: Tokens
) -> None:
    teacher = load_teacher(str(folder), pieces=True)
    assert anatomy(teacher).has_pieces
    with torch.inference_mode():
        found = Observer(teacher, Wants(pieces=True))(tokens).piece_logits
        expected = model(input_ids=tokens.ids, attention_mask=tokens.mask.long()).logits
    assert found is not None
    torch.testing.assert_close(found[tokens.mask], expected[tokens.mask])


def test_a_tied_table_is_held_once(folder: Path, model: PreTrainedModel) -> None:
    teacher = load_teacher(str(folder), pieces=True)
    held = sum(p.numel() for p in teacher.parameters())
    # transformers names a shared tensor once
    assert held == sum(p.numel() for p in model.parameters())


def test_a_head_is_saved_with_its_encoder_and_loaded_again(
    folder: Path, model: PreTrainedModel, tmp_path: Path
) -> None:
    encoder = load_encoder(str(folder), pieces=True)
    with torch.no_grad():
        encoder.piece_head.bias.add_(1.0)
    encoder.save_pretrained(tmp_path)
    again = load_encoder(str(tmp_path), pieces=True)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert not anatomy(load_encoder(str(tmp_path))).has_pieces


def test_a_folder_without_a_head_is_refused_with_what_it_lacks(
    folder: Path, model: PreTrainedModel, tmp_path: Path
) -> None:
    load_encoder(str(folder)).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"has no masked-language head: it lacks .*bias"):
        load_encoder(str(tmp_path), pieces=True)


def test_a_skeleton_has_the_shapes_and_no_weights(folder: Path, model: PreTrainedModel) -> None:
    skeleton, encoder = (
        load(str(folder), layers=3, pieces=True) for load in (load_skeleton, load_encoder)
    )
    assert {p.device.type for p in skeleton.parameters()} == {"meta"}
    shapes = [
        {name: tensor.shape for name, tensor in each.named_parameters()}
        for each in (skeleton, encoder)
    ]
    assert shapes[0] == shapes[1]
    assert anatomy(skeleton).depth == 3


def test_an_untied_table_is_the_heads_own(tmp_path: Path) -> None:
    model = write_family(tmp_path, "bert", tie_word_embeddings=False)
    teacher = load_teacher(str(tmp_path), pieces=True)
    tokens = Tokens(torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.bool))
    with torch.inference_mode():
        found = Observer(teacher, Wants(pieces=True))(tokens).piece_logits
        torch.testing.assert_close(found, model(input_ids=tokens.ids).logits)


def test_a_robertas_head_is_gelu_whatever_its_layers_are(tmp_path: Path) -> None:
    model = write_family(tmp_path, "xlm-roberta", hidden_act="relu")
    teacher = load_teacher(str(tmp_path), pieces=True)
    tokens = Tokens(torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.bool))
    with torch.inference_mode():
        found = Observer(teacher, Wants(pieces=True))(tokens).piece_logits
        torch.testing.assert_close(found, model(input_ids=tokens.ids).logits)


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    write_family(tmp_path, "bert")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "electra"}))
    with pytest.raises(EncoderError, match="of family 'electra'; known: bert, xlm-roberta"):
        load_encoder(str(tmp_path))


def sentence_transformer(folder: Path, *, inner: str = "", **pooling: object) -> Path:
    """A folder as sentence-transformers writes it, around a BERT encoder."""
    write_family(folder / inner if inner else folder, "bert")
    kinds = {"Transformer": inner, "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    listed = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": f"sentence_transformers.models.{k}",
        }
        for index, (k, path) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    settings = pooling or {
        "word_embedding_dimension": WIDTH,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "include_prompt": True,
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("inner", ["", "0_Transformer"])
def test_a_sentence_transformers_folder_is_its_transformer(tmp_path: Path, inner: str) -> None:
    folder = sentence_transformer(tmp_path / "st", inner=inner)
    plain = load_teacher(str(folder / inner)) if inner else None
    teacher = load_teacher(str(folder), pieces=True)
    assert anatomy(teacher).depth == FAMILY_LAYERS
    assert tokenizer_file(str(folder)) == folder / inner / "tokenizer.json"
    if plain is not None:
        for name, tensor in plain.state_dict().items():
            assert torch.equal(teacher.state_dict()[name], tensor)


def test_pooling_other_than_the_mean_is_refused(tmp_path: Path) -> None:
    folder = sentence_transformer(
        tmp_path / "st", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False
    )
    with pytest.raises(EncoderError, match="pools by cls_token; students pool by the mean"):
        load_encoder(str(folder))
    newer = sentence_transformer(tmp_path / "newer", pooling_mode="lasttoken")
    with pytest.raises(EncoderError, match="pools by lasttoken"):
        load_encoder(str(newer))


def test_a_module_that_changes_embeddings_is_refused(tmp_path: Path) -> None:
    folder = sentence_transformer(tmp_path / "st")
    path = folder / "modules.json"
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    path.write_text(json.dumps([*json.loads(path.read_text()), dense]))
    with pytest.raises(EncoderError, match="has a module Dense"):
        load_encoder(str(folder))


def test_weights_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    write_family(tmp_path, "distilbert")
    weights = tmp_path / "model.safetensors"
    kept = {n: t for n, t in load_file(weights).items() if "layer.2.ffn" not in n}
    save_file(kept, weights, {"format": "pt"})
    with pytest.raises(
        EncoderError, match=r"lacks 4 of its weights, such as transformer\.layer\.2"
    ):
        load_encoder(str(tmp_path))


def test_a_pooler_in_the_file_is_left_out(tmp_path: Path) -> None:
    write_family(tmp_path / "head", "bert")
    config = BertConfig.from_pretrained(tmp_path / "head")
    BertModel(config).save_pretrained(tmp_path / "pooler")
    shutil.copy(tmp_path / "head" / "tokenizer.json", tmp_path / "pooler")
    names = load_encoder(str(tmp_path / "pooler")).state_dict()
    assert not any("pooler" in name for name in names)
