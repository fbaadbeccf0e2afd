import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import orjson
import pytest
import torch
from tiny_world import World, recipe, train_table

from distill import run_page
from distill.agreement import agreement, cosines
from distill.batches import Batch, Tokens
from distill.config import LoadedRecipe
from distill.records import RECORDS_FILE, TENSORBOARD_FOLDER, Records, RecordsError
from distill.run_page import PAGE, curves, is_due, write_page
from distill.teacher import load_encoder, load_teacher
from distill.train import run

SOURCE = '# a <recipe>\n[run]\nname = "tiny"\n'


def loaded_run(world: World, folder: Path, **changes: object) -> LoadedRecipe:
    found = recipe(folder, train=train_table(world, **changes))
    return LoadedRecipe(found.recipe, found.file_name, found.sha256, SOURCE)


def records(steps: int) -> list[dict[str, float]]:
    return [
        {
            "step": step,
            "loss": 10.0 / step,
            "lightmbert.hidden": 1.0,
            "gradient_norm": 1.0,
            "learning_rate_scale": 1.0,
            "tokens": 1000 * step,
            "tokens_per_s": 123.0,
        }
        for step in range(1, steps + 1)
    ]


def write_records(folder: Path, written: list[dict[str, float]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / RECORDS_FILE).write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in written))


def test_a_page_tells_recipe_text_losses_and_agreement(world: World, tmp_path: Path) -> None:
    write_records(tmp_path, records(40))
    loaded = loaded_run(world, tmp_path, steps=40)
    assert write_page(loaded, fingerprint="f1a9", agreement=0.98765) == tmp_path / PAGE
    page = (tmp_path / PAGE).read_text()
    for told in ("40 of 40", "40,000", "123", "fingerprint f1a9", "0.9877", "a &lt;recipe&gt;"):
        assert told in page, told
    first, last = (10 + 5 + 10 / 3 + 2.5) / 4, sum(10 / step for step in range(37, 41)) / 4
    row = f"<td>loss</td><td>{first:.5g}</td><td>{last:.5g}</td><td>{last / first:.3f}</td>"
    assert row in page
    assert "<td>lightmbert.hidden</td><td>1</td><td>1</td><td>1.000</td>" in page
    assert "tokens_per_s</td>" not in page
    assert not re.search(r'src=|<link|href="[^#]', page)  # nothing is fetched
    assert not list(tmp_path.rglob("*.partial"))


def test_curves_are_one_element_with_a_title_for_every_number() -> None:
    root = ElementTree.fromstring(curves(records(30)))
    assert root.tag.endswith("svg")
    told = {text.text for text in root.iter() if text.tag.endswith("text")}
    assert {"loss", "lightmbert.hidden", "gradient_norm", "learning_rate_scale"} <= told
    assert curves(records(30)) == curves(records(30))


def test_a_run_without_records_has_a_page_too(world: World, tmp_path: Path) -> None:
    write_page(loaded_run(world, tmp_path), fingerprint="f1a9")
    page = (tmp_path / PAGE).read_text()
    assert "0 of 8" in page
    assert "measured at the end" in page


def test_a_page_is_drawn_anew_when_it_is_old_enough(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loaded_run(world, tmp_path)
    assert is_due(loaded)
    write_page(loaded, fingerprint="f1a9")
    assert not is_due(loaded)
    monkeypatch.setattr(run_page, "LEAST_AGE_S", -1.0)
    assert is_due(loaded)


def test_a_run_ends_with_its_page_and_its_agreement(world: World, tmp_path: Path) -> None:
    student = {"layers": 4, "initialisation": "bottom", "embeddings": "frozen"}
    run(loaded_run(world, tmp_path, steps=3, student=student, weight_decay=0.0))
    page = (tmp_path / PAGE).read_text()
    assert "3 of 3" in page
    assert "1.0000 (correlation" in page  # all of the teacher is the student


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # tensorboard's own
def test_numbers_go_to_tensorboard_where_it_is_asked_for(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Records(tmp_path, steps_done=0, tensorboard=True) as kept:
        for each in records(3):
            kept.write(each)
    with Records(tmp_path, steps_done=2, tensorboard=True) as kept:
        kept.write({"step": 3, "loss": 7.0})
    events = EventAccumulator(str(tmp_path / TENSORBOARD_FOLDER))
    events.Reload()
    found = [(each.step, each.value) for each in events.Scalars("loss")]
    assert found == [(1, 10.0), (2, 5.0), (3, 7.0)]
    assert "step" not in events.Tags()["scalars"]


def test_records_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    kept = Records(tmp_path, steps_done=0)
    kept._file.close()
    with Path("/dev/full").open("ab", buffering=0) as full:
        kept._file = full
        with pytest.raises(RecordsError, match=r"/dev/full cannot be written: .*No space left"):
            kept.write({"step": 1, "loss": 1.0})


def test_agreement_is_one_with_oneself_and_less_with_another(world: World) -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (24, 9), generator=generator)
    batch = Batch(Tokens(ids, torch.ones_like(ids, dtype=torch.bool)), None, None, ids[:, 0])
    teacher = load_teacher(str(world.teacher))
    half = load_encoder(str(world.teacher), layers=2).train()
    assert agreement(load_encoder(str(world.teacher)), teacher, batch) == pytest.approx(1)
    assert agreement(half, teacher, batch) < 0.99
    assert half.training


def test_agreement_compares_every_two_texts_and_not_widths() -> None:
    pooled = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    half = math.sqrt(0.5)
    torch.testing.assert_close(cosines(pooled), torch.tensor([0.0, half, half]))
    torch.testing.assert_close(cosines(pooled.repeat(1, 3)), torch.tensor([0.0, half, half]))
