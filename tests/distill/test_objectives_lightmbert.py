import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distill.objectives.lightmbert import attention_score_loss, hidden_state_loss


class Pair(NamedTuple):
    """Queries and keys."""

    query: Tensor
    key: Tensor


B, A, T, K, H = 3, 2, 5, 4, 6
LENGTHS = (5, 3, 1)
MASK = torch.arange(T) < torch.tensor(LENGTHS)[:, None]


def random_layer(seed: int, *, dtype: torch.dtype = torch.float32) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, B, A, T, K, generator=generator, dtype=torch.float64).to(dtype)
    return Pair(query, key)


def near(layer: Pair, distance: float) -> Pair:
    """Another layer, off by `distance` of its own size."""
    noise = random_layer(99, dtype=layer.query.dtype)
    return Pair(layer.query + distance * noise.query, layer.key + distance * noise.key)


def slow_attention_loss(student: Pair, teacher: Pair, lengths: tuple[int, ...]) -> float:
    """The obvious way, in float64: all (T, T) scores of each text cut to its real tokens."""
    total, count = 0.0, 0
    for text, length in enumerate(lengths):
        for head in range(student.query.shape[1]):
            one, other = (
                (
                    layer.query[text, head, :length].double()
                    @ layer.key[text, head, :length].double().T
                )
                / math.sqrt(layer.query.shape[-1])
                for layer in (student, teacher)
            )
            total += float((one - other).square().sum())
            count += length * length
    return total / count


def test_attention_loss_matches_a_hand_computed_value() -> None:
    # One head of width 4, so Q K' is divided by 2.
    student = Pair(
        torch.tensor([[[[1.0, 0, 1, 0], [3, 1, 0, 0]]]]),
        torch.tensor([[[[2.0, 0, 0, 0], [0, 8, 4, 0]]]]),
    )  # scores (2, 4; 6, 8) / 2
    teacher = Pair(
        torch.tensor([[[[1.0, 0, 0, 0], [1, 0, 0, 0]]]]),
        torch.tensor([[[[2.0, 0, 0, 0], [2, 0, 0, 0]]]]),
    )  # scores all 1
    loss = attention_score_loss(student, teacher, torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(loss, torch.tensor((0 + 1 + 4 + 9) / 4))


def test_attention_loss_equals_the_direct_computation() -> None:
    student, teacher = (random_layer(seed, dtype=torch.float64) for seed in (1, 2))
    loss = attention_score_loss(student, teacher, MASK)
    assert loss.item() == pytest.approx(slow_attention_loss(student, teacher, LENGTHS), rel=1e-12)


@pytest.mark.parametrize("distance", [1.0, 1e-1, 1e-2, 1e-3])
def test_attention_loss_keeps_its_precision_near_agreement(distance: float) -> None:
    # Expanding in the Gram matrices of Q and K instead is off by several percent at 1e-3.
    teacher = random_layer(1)
    student = near(teacher, distance)
    loss = attention_score_loss(student, teacher, MASK)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_attention_loss(student, teacher, LENGTHS), rel=1e-5)


def test_attention_loss_is_precise_to_float32_of_the_scores_where_terms_cancel() -> None:
    # Turning queries and keys alike leaves all scores as they were: the terms are as large as
    # the scores and cancel, so the error is bounded by them rather than by the loss, which is 0.
    teacher = random_layer(1)
    turn = torch.linalg.qr(torch.randn(K, K, generator=torch.Generator().manual_seed(3)))[0]
    student = Pair(teacher.query @ turn, teacher.key @ turn)
    nothing = Pair(torch.zeros_like(teacher.query), torch.zeros_like(teacher.key))
    scores = slow_attention_loss(teacher, nothing, LENGTHS)
    assert abs(attention_score_loss(student, teacher, MASK).item()) < 1e-6 * scores


def test_attention_loss_forms_no_matrix_of_tokens_by_tokens() -> None:
    class Largest(TorchDispatchMode):
        """Remembers the largest tensor that any operation gave."""

        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204 - torch's own signature
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.numbers = max(self.numbers, result.numel())
            return result

    tokens = 64
    student, teacher = (
        Pair(*torch.randn(2, 1, 1, tokens, K, generator=torch.Generator().manual_seed(seed)))
        for seed in (1, 2)
    )
    student.query.requires_grad_()
    with Largest() as largest:
        attention_score_loss(student, teacher, torch.ones(1, tokens, dtype=torch.bool)).backward()
    assert largest.numbers <= tokens * K


def test_hidden_loss_matches_a_hand_computed_value() -> None:
    # Two real tokens of width 2: squared errors 1, 4 and 9, 0; the third token is padding.
    student = torch.tensor([[[1.0, 2.0], [3.0, 5.0], [7.0, 7.0]]])
    teacher = torch.tensor([[[0.0, 0.0], [0.0, 5.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True, False]])
    loss = hidden_state_loss(student, teacher, mask)
    torch.testing.assert_close(loss, torch.tensor((1 + 4 + 9 + 0) / 4))


def test_hidden_loss_weighs_every_token_alike_whatever_its_text() -> None:
    student, teacher = random_hidden(1), torch.zeros(B, T, H)
    loss = hidden_state_loss(student, teacher, MASK)
    torch.testing.assert_close(loss, student[MASK].square().mean())


def random_hidden(seed: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(B, T, H, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_both_losses_are_zero_at_agreement() -> None:
    layer, hidden = random_layer(1), random_hidden(1)
    assert attention_score_loss(layer, layer, MASK).item() == 0
    assert hidden_state_loss(hidden, hidden, MASK).item() == 0


def test_both_losses_ignore_what_stands_on_padding() -> None:
    student, teacher = random_layer(1), random_layer(2)
    hidden, target = random_hidden(1), random_hidden(2)
    before = attention_score_loss(student, teacher, MASK), hidden_state_loss(hidden, target, MASK)
    padding = ~MASK
    for tensor in (student.query, student.key, teacher.query, teacher.key):
        tensor.transpose(1, 2)[padding] = 1e6
    hidden[padding], target[padding] = 1e6, -1e6
    assert torch.equal(attention_score_loss(student, teacher, MASK), before[0])
    assert torch.equal(hidden_state_loss(hidden, target, MASK), before[1])


def test_both_losses_are_the_same_with_more_padding() -> None:
    student, teacher = random_layer(1), random_layer(2)
    hidden, target = random_hidden(1), random_hidden(2)
    before = attention_score_loss(student, teacher, MASK), hidden_state_loss(hidden, target, MASK)

    def wider(tensor: Tensor) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, 0, 0, 3), value=7.0)

    mask = torch.nn.functional.pad(MASK, (0, 3))
    student, teacher = (Pair(wider(x.query), wider(x.key)) for x in (student, teacher))
    after = (
        attention_score_loss(student, teacher, mask),
        hidden_state_loss(wider(hidden), wider(target), mask),
    )
    torch.testing.assert_close(after, before, rtol=1e-6, atol=0)


def test_the_order_of_texts_does_not_matter() -> None:
    student, teacher, order = random_layer(1), random_layer(2), torch.tensor([2, 0, 1])
    moved = [Pair(layer.query[order], layer.key[order]) for layer in (student, teacher)]
    torch.testing.assert_close(
        attention_score_loss(moved[0], moved[1], MASK[order]),
        attention_score_loss(student, teacher, MASK),
    )


def test_gradients_are_those_of_finite_differences() -> None:
    teacher, target = random_layer(1, dtype=torch.float64), random_hidden(1, dtype=torch.float64)
    student, hidden = random_layer(2, dtype=torch.float64), random_hidden(2, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (student.query, student.key, hidden)]

    assert torch.autograd.gradcheck(
        lambda query, key: attention_score_loss(Pair(query, key), teacher, MASK), inputs[:2]
    )
    assert torch.autograd.gradcheck(lambda h: hidden_state_loss(h, target, MASK), inputs[2])


def test_no_gradient_reaches_the_teacher_or_the_padding() -> None:
    student, teacher, hidden, target = (
        random_layer(1),
        random_layer(2),
        random_hidden(1),
        random_hidden(2),
    )
    of_teacher = [tensor.requires_grad_() for tensor in (teacher.query, teacher.key, target)]
    of_student = [tensor.requires_grad_() for tensor in (student.query, student.key, hidden)]
    loss = attention_score_loss(student, teacher, MASK) + hidden_state_loss(hidden, target, MASK)
    loss.backward()
    assert all(tensor.grad is None for tensor in of_teacher)
    for tensor in of_student:
        assert tensor.grad is not None
        gradient = tensor.grad.transpose(1, 2) if tensor.ndim == 4 else tensor.grad
        assert gradient[MASK].abs().sum() > 0
        assert not gradient[~MASK].any()


def test_losses_of_bfloat16_are_summed_in_float32() -> None:
    teacher = random_layer(1, dtype=torch.bfloat16)
    student = near(teacher, 0.1)
    loss = attention_score_loss(student, teacher, MASK)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_attention_loss(student, teacher, LENGTHS), rel=1e-5)

    hidden, target = (random_hidden(seed, dtype=torch.bfloat16) for seed in (1, 2))
    found = hidden_state_loss(hidden, target, MASK)
    expected = hidden_state_loss(hidden.double(), target.double(), MASK)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
