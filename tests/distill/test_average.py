"""The mean of encoders: every weight, and nothing that does not belong together."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_encoder import a_head
from tiny_world import World
from tokenizers import Tokenizer
from typer.testing import CliRunner

from app.cli import app
from distill.average import averaged
from distill.checkpoint import save_encoder
from distill.heads import load_heads, save_head
from distill.tables.average import AverageTable
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
    save_encoder(folder, encoder, first / "tokenizer.json")
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


def test_an_encoder_averaged_with_itself_stays(first: Path) -> None:
    before = load_encoder(str(first)).state_dict()
    for name, weight in (
        averaged(table(first, first, first, shares=(0.2, 0.3, 0.5))).state_dict().items()
    ):
        torch.testing.assert_close(weight, before[name])


def test_the_recipe_writes_an_encoder_of_the_same_origin_without_heads(
    first: Path, further: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "average.toml"
    recipe.write_text(
        f'[run]\nname = "a"\nfolder = "{tmp_path}/run"\nseed = 1\nthreads = 1\n'
        f'[average]\nencoders = ["{first}", "{further}"]\nshares = [0.5, 0.5]\n'
    )
    done = CliRunner().invoke(app, ["distill", "average", str(recipe)])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "run" / "encoder"
    expected = averaged(table(first, further, shares=(0.5, 0.5))).state_dict()
    for name, weight in load_encoder(str(folder)).state_dict().items():
        assert torch.equal(weight, expected[name])
    assert json.loads((folder / "provenance.json").read_text())["data_fingerprint"] == "d"
    assert (folder / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()
    assert load_heads(folder) == {}


def test_what_is_of_another_shape_is_named(first: Path, world: World) -> None:
    with pytest.raises(EncoderError, match=r"of another shape than .*first: .* is "):
        averaged(table(first, world.english))


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
    with pytest.raises(EncoderError, match="give pieces different ids"):
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
