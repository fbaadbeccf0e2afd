import multiprocessing
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_objectives import CODIR, objective
from tiny_world import World, sentences
from tokenizers import Tokenizer
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from distill.anatomy import anatomy
from distill.batches import Batch, Tokens, load_tokenizer, tokenize
from distill.losses import Losses
from distill.matching import match_of
from distill.matching.codir import CodirMatch
from distill.matching.identity import identities, of_one_meaning
from distill.matching.queue import NOBODY, Entries, Queue, from_all
from distill.teacher import load_encoder, load_teacher


@pytest.fixture(scope="module")
def tokenizer(world: World) -> Tokenizer:
    return load_tokenizer(world.teacher / "tokenizer.json", max_tokens=32)


def batch_of(
    tokenizer: Tokenizer, texts: list[str], english: list[str] | None, languages: list[int]
) -> Batch:
    other = None if english is None else tokenize(tokenizer, english)
    return Batch(tokenize(tokenizer, texts), other, other, torch.tensor(languages))


def entries(first: int, count: int) -> Entries:
    numbers = torch.arange(first, first + count)
    rows = numbers[:, None].float()
    return Entries(rows.expand(-1, 3), -rows.expand(-1, 3), numbers, numbers[:, None].expand(-1, 2))


def test_the_oldest_texts_go_out_first() -> None:
    queue = Queue(5, 3)
    assert queue.languages.tolist() == [NOBODY] * 5
    queue.push(entries(0, 3))
    assert queue.languages.tolist() == [0, 1, 2, NOBODY, NOBODY]
    queue.push(entries(3, 4))
    assert sorted(queue.languages.tolist()) == [2, 3, 4, 5, 6]
    queue.push(entries(7, 1))
    assert sorted(queue.languages.tolist()) == [3, 4, 5, 6, 7]
    for name, expected in (("student", 1), ("teacher", -1)):
        assert torch.equal(getattr(queue, name)[:, 0], expected * queue.languages.float())
    assert torch.equal(queue.identities[:, 1], queue.languages)


def test_a_batch_larger_than_the_queue_leaves_its_last_texts() -> None:
    queue = Queue(3, 3)
    queue.push(entries(0, 2))
    queue.push(entries(2, 8))
    assert sorted(queue.languages.tolist()) == [7, 8, 9]


def test_a_queue_of_nothing_keeps_nothing() -> None:
    queue = Queue(0, 3)
    queue.push(entries(0, 4))
    assert len(queue.after(entries(0, 4)).languages) == 4


def test_what_was_taken_out_is_not_changed_by_a_push() -> None:
    queue = Queue(3, 3)
    queue.push(entries(1, 3))
    taken = queue.after(entries(4, 1))
    before = taken.student.clone()
    queue.push(entries(9, 3))
    assert torch.equal(taken.student, before)
    assert taken.languages.tolist() == [4, 1, 2, 3]


def test_texts_are_known_again_whatever_their_padding(tokenizer: Tokenizer) -> None:
    texts = [*sentences("de")[:30], *sentences("ru")[:30]]
    alone = torch.cat([identities(batch_of(tokenizer, [text], None, [0])) for text in texts])
    together = identities(batch_of(tokenizer, texts, None, [0] * 60))
    assert torch.equal(alone, together)
    assert torch.equal(of_one_meaning(alone, together), torch.eye(60, dtype=torch.bool))


def test_order_length_and_the_id_0_make_another_text() -> None:
    ids = torch.tensor([[5, 6, 0], [6, 5, 0], [5, 6, 0], [5, 0, 0], [0, 0, 0], [0, 5, 0]])
    lengths = torch.tensor([2, 2, 3, 1, 1, 2])
    mask = torch.arange(3) < lengths[:, None]
    found = identities(Batch(Tokens(ids, mask), None, None, lengths))
    assert len(found[:, 0].unique()) == 6


def test_translations_are_known_by_their_english(tokenizer: Tokenizer) -> None:
    english = sentences("en")
    batch = batch_of(
        tokenizer,
        [sentences("de")[1], sentences("ru")[1], sentences("zh")[2], english[2], english[1]],
        [english[1], english[1], english[2], english[2], english[1]],
        [0, 1, 2, 3, 3],
    )
    found = of_one_meaning(identities(batch), identities(batch))
    meaning = torch.tensor([1, 1, 2, 2, 1])
    assert torch.equal(found, meaning[:, None] == meaning)
    # an English text of a batch without translations is still one of theirs
    plain = identities(batch_of(tokenizer, [english[2]], None, [3]))
    assert of_one_meaning(identities(batch), plain)[:, 0].tolist() == [
        False,
        False,
        True,
        True,
        False,
    ]


def losses_of(world: World, **changes: object) -> Losses:
    torch.manual_seed(3)
    student, teacher = load_encoder(str(world.teacher), layers=2), load_teacher(str(world.teacher))
    match = match_of(objective(CODIR, **changes), anatomy(student), anatomy(teacher))
    return Losses(student.train(), teacher, [match], nullcontext)


def some_batch(tokenizer: Tokenizer, first: int, *, rows: int = 4) -> Batch:
    """Sentences from `first` on, in German and then in Russian, with their English."""
    numbers = range(first, first + rows)
    texts = [sentences(language)[row] for language in ("de", "ru") for row in numbers]
    english = [sentences("en")[row] for _ in range(2) for row in numbers]
    return batch_of(tokenizer, texts, english, [0] * rows + [1] * rows)


def test_translations_and_the_text_itself_are_no_negatives(
    world: World, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = losses_of(world, negatives=100)
    chosen = []
    module = sys.modules["distill.matching.codir"]
    choose = module.choose_negatives

    def watched(*args: Tensor, **kwargs: int) -> object:
        chosen.append(choose(*args, **kwargs))
        return chosen[-1]

    monkeypatch.setattr(module, "choose_negatives", watched)
    for _ in range(2):
        losses(some_batch(tokenizer, 0))
    rows = torch.arange(8)[:, None].expand(8, 38)
    # In the second batch the queue holds the first, and nothing else yet.
    for negatives, others in zip(chosen, (6, 12), strict=True):
        assert negatives.index.shape == rows.shape  # all that there are
        assert negatives.counts.sum(1).tolist() == [others] * 8
        assert (negatives.index % 4 != rows % 4)[negatives.counts].all()


def test_the_queue_fills_in_training_alone(world: World, tokenizer: Tokenizer) -> None:
    losses = losses_of(world, loss="nce")
    match = losses.matches["codir"]
    assert isinstance(match, CodirMatch)
    match.eval()
    with torch.no_grad():
        assert losses(some_batch(tokenizer, 0))["codir.contrast"].isfinite()
    assert (match.queue.languages == NOBODY).all()
    assert match.log_mean.isnan().all()
    match.train()
    losses(some_batch(tokenizer, 0))
    assert sorted(match.queue.languages.tolist()) == [NOBODY] * 22 + [0] * 4 + [1] * 4
    first = match.log_mean.clone()
    assert first.isfinite().all()
    losses(some_batch(tokenizer, 8))
    assert torch.equal(match.log_mean, first)


def test_a_restored_queue_goes_on_as_before(world: World, tokenizer: Tokenizer) -> None:
    losses, twin = losses_of(world, loss="nce"), losses_of(world, loss="nce")
    losses(some_batch(tokenizer, 0))
    twin.load_state_dict(losses.state_dict())
    found = []
    for each in (losses, twin):
        torch.manual_seed(8)
        found.append(each(some_batch(tokenizer, 4))["codir.contrast"])
    assert torch.equal(*found)


def joined(rank: int, port: int) -> None:
    torch.set_num_threads(1)  # a second only waits on an encoder of this size
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)


def push(rank: int, port: int, folder: Path) -> None:
    """One of two processes, each of which has seen another number of texts."""
    joined(rank, port)
    queue = Queue(8, 3)
    for step in range(3):
        queue.push(entries(100 * rank + 10 * step, 2 + rank + step))
    mean = from_all(torch.tensor([float(rank)])).mean(0, keepdim=True)
    save_file({**queue.state_dict(), "mean": mean}, folder / f"{rank}.safetensors")
    distributed.destroy_process_group()


def train(rank: int, port: int, folder: Path, world: World, tokenizer: Tokenizer) -> None:
    """One of two processes that train on other texts, one of them on more."""
    joined(rank, port)
    losses = losses_of(world, loss="nce")
    model = DistributedDataParallel(losses, find_unused_parameters=True)
    optimizer = torch.optim.SGD([*losses.student.parameters(), *losses.trained()], lr=0.1)
    torch.manual_seed(rank)
    for step in range(2):
        optimizer.zero_grad()
        model(some_batch(tokenizer, 8 * step + 4 * rank, rows=4 + rank))[
            "codir.contrast"
        ].backward()
        optimizer.step()
    save_file(losses.state_dict(), folder / f"{rank}.safetensors")
    distributed.destroy_process_group()


def in_two_processes(
    target: Callable[..., None], folder: Path, *more: object
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What each of them saved."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")  # a fork lacks threads that autograd waits for
    processes = [spawn.Process(target=target, args=(r, port, folder, *more)) for r in range(2)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(timeout=120)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    one, other = (load_file(folder / f"{rank}.safetensors") for rank in range(2))
    return one, other


def test_two_processes_keep_one_queue_of_what_both_have_seen(tmp_path: Path) -> None:
    one, other = in_two_processes(push, tmp_path)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    # The last 8 of 2 + 3, 3 + 4 and 4 + 5 texts, in the order of processes.
    assert sorted(one["languages"].tolist()) == [21, 22, 23, 120, 121, 122, 123, 124]
    assert torch.equal(one["student"][:, 0], one["languages"].float())
    assert one["mean"].item() == 0.5


def test_two_processes_train_one_student_against_one_queue(
    world: World, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    one, other = in_two_processes(train, tmp_path, world, tokenizer)
    before = losses_of(world, loss="nce").state_dict()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    moved = {name for name, tensor in one.items() if not torch.equal(tensor, before[name])}
    assert "student.encoder.layer.0.output.dense.weight" in moved
    assert "matches.codir.teacher_projection.weight" in moved
    # 8 + 10 texts of either step; the queue keeps 30 of these 36
    assert (one["matches.codir.queue.languages"] != NOBODY).all()
    assert one["matches.codir.log_mean"].isfinite().all()
