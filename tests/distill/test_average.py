"""The mean of encoders: every weight, and nothing that does not belong together."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import Result
from tiny_encoder import a_head
from tiny_world import World
from tokenizers import Tokenizer
from typer.testing import CliRunner

from app.cli import app
from distill.average import averaged
from distill.checkpoint import save_encoder
from distill.heads import load_heads, save_head
from distill.student import FACTORS, student_of
from distill.tables.average import AverageTable
from distill.tables.student import StudentTable
from distill.teacher import EncoderError, load_encoder, tokenizer_file


@pytest.fixture(scope="module")
def first(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's teacher, with a head and an origin."""
    folder = tmp_path_factory.mktemp("average") / "first"
    origin = {"teacher": "t", "data_fingerprint": "d"}
    teacher = str(world.teacher)
    save_encoder(folder, load_encoder(teacher), tokenizer_file(teacher), provenance=origin)
    save_head(folder, a_head("topic"))
    return folder


@pytest.fixture(scope="module")
def further(first: Path) -> Path:
    """The first, each weight of which has moved."""
    torch.manual_seed(1)
    encoder = load_encoder(str(first))
    with torch.no_grad():
        for weight in encoder.parameters():
            weight += torch.randn_like(weight)
    folder = first.parent / "further"
    origin = {"teacher": "t", "data_fingerprint": "e"}
    save_encoder(folder, encoder, first / "tokenizer.json", provenance=origin)
    return folder


def table(*encoders: Path, shares: tuple[float, ...] = (0.7, 0.3)) -> AverageTable:
    return AverageTable(encoders=tuple(map(str, encoders)), shares=shares)


def test_every_weight_is_the_mean_by_shares(first: Path, further: Path) -> None:
    one, other = (load_encoder(str(folder)).state_dict() for folder in (first, further))
    found = averaged(table(first, further)).state_dict()
    assert found.keys() == one.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, 0.7 * one[name] + 0.3 * other[name])
        assert not torch.equal(weight, one[name])


def test_an_encoder_averaged_with_itself_stays_to_the_last_bit(first: Path) -> None:
    before = load_encoder(str(first)).state_dict()
    found = averaged(table(first, first, first, shares=(0.2, 0.3, 0.5))).state_dict()
    for name, weight in found.items():
        assert torch.equal(weight, before[name])


def run(folder: Path, *encoders: Path) -> Result:
    recipe = folder / "average.toml"
    names = ", ".join(f'"{encoder}"' for encoder in encoders)
    recipe.write_text(
        f'[run]\nname = "a"\nfolder = "{folder}/run"\nseed = 1\nthreads = 1\n'
        f"[average]\nencoders = [{names}]\nshares = [0.5, 0.5]\n"
    )
    return CliRunner().invoke(app, ["distill", "average", str(recipe)])


def test_the_recipe_writes_an_encoder_of_the_same_origin_without_heads(
    first: Path, further: Path, tmp_path: Path
) -> None:
    done = run(tmp_path, first, further)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "run" / "encoder"
    expected = averaged(table(first, further, shares=(0.5, 0.5))).state_dict()
    for name, weight in load_encoder(str(folder)).state_dict().items():
        assert torch.equal(weight, expected[name])
    assert json.loads((folder / "provenance.json").read_text()) == {
        "teacher": "t",
        "data_fingerprint": "d+e",
    }
    assert (folder / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()
    assert load_heads(folder) == {}


def test_the_result_takes_the_place_of_none_of_them(first: Path, tmp_path: Path) -> None:
    own = tmp_path / "run" / "encoder"
    shutil.copytree(first, own)
    done = run(tmp_path, first, own)
    assert done.exit_code != 0
    assert "the result would take its place" in " ".join(done.output.split())
    assert load_heads(own)


def changed(first: Path, folder: Path, **config: object) -> Path:
    shutil.copytree(first, folder)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | config))
    return folder


def test_what_computes_otherwise_is_named(first: Path, world: World, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="differ in "):
        averaged(table(first, world.english))
    with pytest.raises(EncoderError, match=r"differ in layer_norm_eps: .* and 0\.5"):
        averaged(table(first, changed(first, tmp_path / "other", layer_norm_eps=0.5)))


def test_undefined_numbers_are_refused(first: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(first))
    with torch.no_grad():
        next(iter(encoder.parameters()))[0] = torch.nan
    save_encoder(tmp_path / "broken", encoder, first / "tokenizer.json")
    with pytest.raises(EncoderError, match="broken has undefined numbers in "):
        averaged(table(first, tmp_path / "broken"))


def test_word_tables_of_different_factors_are_refused(world: World, tmp_path: Path) -> None:
    settings = {"layers": 1, "initialisation": "bottom", "embeddings": "factorised", "rank": 8}
    for name in ("one", "other"):
        student = student_of(str(world.teacher), StudentTable.model_validate(settings))
        if name == "other":
            student.get_parameter(FACTORS).data.neg_()
        save_encoder(tmp_path / name, student, tokenizer_file(str(world.teacher)))
    with pytest.raises(EncoderError, match="word tables of different factors"):
        averaged(table(tmp_path / "one", tmp_path / "other"))


def test_what_reads_pieces_otherwise_is_refused(first: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(first, other)
    tokenizer = Tokenizer.from_file(str(other / "tokenizer.json"))
    described = json.loads(tokenizer.to_str())
    described["model"]["vocab"][-1], described["model"]["vocab"][-2] = (
        described["model"]["vocab"][-2],
        described["model"]["vocab"][-1],
    )
    (other / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(EncoderError, match="have different tokenizers"):
        averaged(table(first, other))


@pytest.mark.parametrize(
    ("shares", "told"),
    [((0.5, 0.4), "shares are 0.9 together"), ((1.0,), "2 encoders have 1 shares")],
)
def test_shares_are_one_each_and_one_together(shares: tuple[float, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        table(Path("a"), Path("b"), shares=shares)


def test_one_encoder_has_no_mean() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        table(Path("a"), shares=(1.0,))
