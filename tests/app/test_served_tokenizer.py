from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_student import MAX_TOKENS, WORDS

from app.errors import ManifestError, TextTooLongError
from app.runtime.tokenizer import Text, Tokenizer, longest_first, pad

PAD, UNK, CLS, SEP = (list(WORDS).index(word) for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]"))
HUND, DOG, TAX = (list(WORDS).index(word) for word in ("hund", "dog", "tax"))


@pytest.fixture(scope="module")
def tokenizer(toy_model_dir: Path) -> Tokenizer:
    return Tokenizer.load(toy_model_dir / "tokenizer.json", max_tokens=MAX_TOKENS)


def test_a_text_is_encoded_whole_whatever_the_file_says_of_cutting_and_padding(
    tokenizer: Tokenizer,
) -> None:
    [encoded] = tokenizer.encode(["hund tax hund"], truncate=False)
    assert encoded.ids.tolist() == [CLS, HUND, TAX, HUND, SEP]
    assert encoded.ids.dtype == np.int64
    assert encoded.tokens == 5
    assert not encoded.truncated


def test_the_second_text_of_a_pair_has_its_own_type(tokenizer: Tokenizer) -> None:
    [encoded] = tokenizer.encode([("hund", "tax dog")], truncate=False)
    assert encoded.ids.tolist() == [CLS, HUND, SEP, TAX, DOG, SEP]
    assert encoded.type_ids.tolist() == [0, 0, 0, 1, 1, 1]


def test_the_limit_itself_is_allowed(tokenizer: Tokenizer) -> None:
    [encoded] = tokenizer.encode(["hund " * (MAX_TOKENS - 2)], truncate=False)
    assert encoded.tokens == MAX_TOKENS


def test_a_text_above_the_limit_is_refused_by_its_index(tokenizer: Tokenizer) -> None:
    with pytest.raises(TextTooLongError, match=r"texts\[1\] has 9 tokens; this model accepts 8"):
        tokenizer.encode(["hund", "hund " * (MAX_TOKENS - 1)], truncate=False)


def test_a_cut_text_keeps_its_beginning_and_its_special_tokens(tokenizer: Tokenizer) -> None:
    [encoded] = tokenizer.encode(["tax " + "hund " * 50], truncate=True)
    assert encoded.ids.tolist() == [CLS, TAX, *[HUND] * (MAX_TOKENS - 3), SEP]
    assert encoded.truncated


def test_of_a_pair_the_longer_text_is_cut(tokenizer: Tokenizer) -> None:
    [encoded] = tokenizer.encode([("hund " * 20, "dog")], truncate=True)
    assert encoded.ids.tolist() == [CLS, *[HUND] * 4, SEP, DOG, SEP]
    [encoded] = tokenizer.encode([("hund", "dog " * 20)], truncate=True)
    assert encoded.ids.tolist() == [CLS, HUND, SEP, *[DOG] * 4, SEP]


def test_a_pair_of_long_texts_is_cut_on_both_sides(tokenizer: Tokenizer) -> None:
    [encoded] = tokenizer.encode([("hund " * 20, "dog " * 9)], truncate=True)
    assert encoded.ids.tolist() == [CLS, *[HUND] * 3, SEP, *[DOG] * 2, SEP]


def test_of_a_huge_text_only_the_beginning_is_counted(tokenizer: Tokenizer) -> None:
    with pytest.raises(TextTooLongError, match=r"texts\[0\] has at least \d\d tokens") as refused:
        tokenizer.encode(["hund " * 1_000_000], truncate=False)
    assert "1000002" not in str(refused.value)


def test_a_text_that_is_long_only_in_spaces_is_not_too_long(tokenizer: Tokenizer) -> None:
    [encoded] = tokenizer.encode(["hund" + " " * 100_000 + "tax"], truncate=False)
    assert encoded.ids.tolist() == [CLS, HUND, TAX, SEP]


def test_a_huge_text_is_cut_between_code_points(tokenizer: Tokenizer) -> None:
    [encoded] = tokenizer.encode(["𝔥" * 10_000], truncate=True)
    assert encoded.ids.tolist() == [CLS, UNK, SEP]


@given(texts=st.lists(st.sampled_from(["hund", "hund tax " * 9, ("dog", "tax " * 9), ("a", "b")])))
def test_order_is_kept_and_no_text_exceeds_the_limit(
    texts: list[Text], toy_model_dir: Path
) -> None:
    tokenizer = Tokenizer.load(toy_model_dir / "tokenizer.json", max_tokens=MAX_TOKENS)
    encoded = tokenizer.encode(texts, truncate=True)
    alone = [tokenizer.encode([text], truncate=True)[0] for text in texts]
    assert [each.ids.tolist() for each in encoded] == [each.ids.tolist() for each in alone]
    assert all(each.tokens <= MAX_TOKENS for each in encoded)


@given(first=st.integers(0, 30), second=st.integers(0, 30), room=st.integers(0, 40))
def test_longest_first_agrees_with_cutting_one_token_at_a_time(
    first: int, second: int, room: int
) -> None:
    sequence_ids = [None, *[0] * first, None, *[1] * second, None]
    left = [first, second]
    while sum(left) > room:
        left[0 if left[0] > left[1] else 1] -= 1
    kept = longest_first(sequence_ids, room + 3)
    owners = [owner for owner, stays in zip(sequence_ids, kept, strict=True) if stays]
    assert [owners.count(0), owners.count(1), owners.count(None)] == [*left, 3]
    assert kept[1 : 1 + left[0]].all()  # the beginning stays, the end goes


def test_padding_is_on_the_right_with_the_tokenizers_own_token(tokenizer: Tokenizer) -> None:
    feed = pad(tokenizer.encode(["hund tax", ("hund", "tax")], truncate=False))
    assert feed["input_ids"].tolist() == [[CLS, HUND, TAX, SEP, PAD], [CLS, HUND, SEP, TAX, SEP]]
    assert feed["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert feed["token_type_ids"].tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]
    assert all(array.dtype == np.int64 for array in feed.values())


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.load(tmp_path / "tokenizer.json", max_tokens=8)


def test_a_text_cut_at_its_beginning_keeps_its_end(tokenizer: Tokenizer) -> None:
    for long in ("hund " * 50 + "tax", "hund " * 100_000 + "tax"):
        [encoded] = tokenizer.encode([long], truncate=True, cut="beginning")
        assert encoded.ids.tolist() == [CLS, *[HUND] * (MAX_TOKENS - 3), TAX, SEP]
        assert encoded.truncated


def test_a_pair_cut_at_the_beginning_keeps_both_ends(tokenizer: Tokenizer) -> None:
    [encoded] = tokenizer.encode([("hund tax", "tax " * 9 + "dog")], truncate=True, cut="beginning")
    assert encoded.ids.tolist() == [CLS, HUND, TAX, SEP, TAX, TAX, DOG, SEP]


@given(
    first=st.integers(0, 12),
    second=st.integers(0, 12),
    room=st.integers(0, 20),
)
def test_cutting_the_beginning_mirrors_cutting_the_end(first: int, second: int, room: int) -> None:
    sides = [None, *[0] * first, None, *[1] * second, None]
    at_end = longest_first(sides, room + 3)
    at_beginning = longest_first(sides, room + 3, "beginning")
    for side in (0, 1):
        mine = np.array([each == side for each in sides])
        assert at_beginning[mine].tolist() == at_end[mine][::-1].tolist()
