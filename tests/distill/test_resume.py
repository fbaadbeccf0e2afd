"""A run that is killed and started again ends as one that was left alone, bit for bit.

Its processes are forked from this one, which has torch loaded already, and killed by SIGKILL.
"""

import json
import multiprocessing
import os
import resource
import signal
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import orjson
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_world import World, recipe, sentence_table, train_table

from distill import batches as batches_module
from distill.batches import Batch
from distill.checkpoint import CHECKPOINT_FILE, CheckpointError
from distill.config import LoadedRecipe
from distill.losses import Losses
from distill.records import RECORDS_FILE, Records
from distill.train import run

FORK = multiprocessing.get_context("fork")
PATIENCE_S = 120
"""For processes that have hung: nothing here takes a tenth of it."""


FORWARD = Losses.forward


def by_chance(losses: Losses, batch: Batch) -> dict[str, torch.Tensor]:
    """Losses that hang on this process's random state, as those of dropped layers do."""
    return {name: loss * torch.rand(()) for name, loss in FORWARD(losses, batch).items()}


def trains(loaded: LoadedRecipe, kill_at: int | None, place: dict[str, str]) -> None:
    """Run a recipe in a forked process, and die of SIGKILL once step `kill_at` is recorded."""
    os.environ.update(place)
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
    batches_module.BLOCK_TEXTS = 64  # a few batches, so that the run crosses from one to the next
    Losses.forward = by_chance
    write = Records.write

    def write_and_die(records: Records, record: dict[str, float]) -> None:
        write(records, record)
        if record["step"] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    Records.write = write_and_die
    run(loaded)


def start(loaded: LoadedRecipe, *, processes: int, kill_at: int | None = None) -> list[BaseProcess]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = []
    for rank in range(processes):
        place = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        arguments = (loaded, kill_at, place if processes > 1 else {})
        started.append(FORK.Process(target=trains, args=arguments))
        started[-1].start()
    return started


def ended(started: list[BaseProcess]) -> list[int | None]:
    """Exit codes, once the first process has ended and those that wait for it are killed too."""
    started[0].join(PATIENCE_S)
    if started[0].exitcode != 0:
        for process in started:
            process.kill()
    for process in started:
        process.join(PATIENCE_S)
    return [process.exitcode for process in started]


def timeless(folder: Path) -> list[dict[str, float]]:
    lines = (folder / RECORDS_FILE).read_bytes().splitlines()
    records = [orjson.loads(line) for line in lines]
    return [{k: v for k, v in record.items() if k != "tokens_per_s"} for record in records]


def progress_of(folder: Path) -> list[dict[str, object]]:
    with safe_open(folder / CHECKPOINT_FILE, "pt") as file:
        found: list[dict[str, object]] = json.loads(file.metadata()["progress"])
    return found


def assert_same_end(parted: Path, whole: Path) -> None:
    for name in (CHECKPOINT_FILE, "encoder/model.safetensors"):
        expected, found = load_file(whole / name), load_file(parted / name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items()), name
    assert timeless(parted) == timeless(whole)
    places = [
        [(each["step"], each["tokens"], each["cursor"]["block"], each["cursor"]["batch"])]
        for folder in (parted, whole)
        for each in progress_of(folder)
    ]
    half = len(places) // 2
    assert places[:half] == places[half:]


def of_memory(world: World, folder: Path) -> dict[str, object]:
    return train_table(world, accumulation_steps=2)


def of_stream(world: World, folder: Path) -> dict[str, object]:
    (folder / "text").mkdir()
    sizes = {}
    for language, words in (("de", "der Hund schläft zu Hause"), ("ru", "кошка спит дома")):
        lines = [" ".join(words.split()[: 1 + row % 5]) for row in range(90)]
        (folder / "text" / f"{language}.txt").write_text("\n".join(lines))
        sizes[language] = 90
    corpus = {"path": folder / "text", "streaming": True, "rows_by_language": sizes}
    return train_table(world, corpus=[corpus])


def of_parallel(world: World, folder: Path) -> dict[str, object]:
    return sentence_table(world, cache_targets=folder / "targets")


Table = Callable[[World, Path], dict[str, object]]


@pytest.mark.parametrize(
    ("table", "processes", "kill_at"),
    [(of_memory, 1, 6), (of_stream, 1, 7), (of_memory, 2, 6), (of_parallel, 2, 5)],
)
def test_a_killed_run_goes_on_to_the_same_end_bit_for_bit(
    world: World, tmp_path: Path, table: Table, processes: int, kill_at: int
) -> None:
    settings = table(world, tmp_path)
    whole, parted = (recipe(tmp_path / name, train=settings) for name in ("whole", "parted"))
    assert ended(start(whole, processes=processes)) == [0] * processes

    killed = ended(start(parted, processes=processes, kill_at=kill_at))
    assert killed[0] == -signal.SIGKILL
    assert [each["step"] for each in progress_of(tmp_path / "parted")] == [4] * processes
    assert timeless(tmp_path / "parted")[-1]["step"] == kill_at
    assert not (tmp_path / "parted" / "encoder").exists()

    assert ended(start(parted, processes=processes)) == [0] * processes
    assert_same_end(tmp_path / "parted", tmp_path / "whole")


def test_processes_take_each_their_own_text(world: World, tmp_path: Path) -> None:
    table = train_table(world, steps=4, warmup_steps=1)
    loaded = recipe(tmp_path, train=table)
    assert ended(start(loaded, processes=2)) == [0, 0]
    first, second = progress_of(tmp_path)
    assert first["cursor"]["block"] % 2 == 0
    assert second["cursor"]["block"] % 2 == 1
    assert timeless(tmp_path)[-1]["tokens"] == first["tokens"] + second["tokens"]
    with pytest.raises(CheckpointError, match="was written by 2 processes, and this run has 1"):
        run(loaded)


def runs_short_of_room(loaded: LoadedRecipe, room: int) -> None:
    """Go on with a run where no file may grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try:
        run(loaded)
    except CheckpointError as error:
        (loaded.recipe.run.folder / "said").write_text(str(error))
        os._exit(3)


def test_on_a_full_disk_the_former_checkpoint_is_whole_and_said_to_be(
    world: World, tmp_path: Path
) -> None:
    loaded = recipe(tmp_path, train=train_table(world))
    assert ended(start(loaded, processes=1, kill_at=5)) == [-signal.SIGKILL]
    former = (tmp_path / CHECKPOINT_FILE).read_bytes()
    process = FORK.Process(target=runs_short_of_room, args=(loaded, len(former) // 2))
    process.start()
    assert ended([process]) == [3]
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == former
    said = (tmp_path / "said").read_text()
    assert f"{CHECKPOINT_FILE} cannot be written" in said
    assert "the former one is whole" in said
    assert not list(tmp_path.glob("*.partial"))
    assert ended(start(loaded, processes=1)) == [0]
    assert progress_of(tmp_path)[0]["step"] == 8
