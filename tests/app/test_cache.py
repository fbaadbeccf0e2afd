import gc
import tracemalloc

import numpy as np

from app.cache import Cache, Known
from app.metrics import Metrics


def a_cache(max_bytes: int = 10_000) -> Cache:
    return Cache(Metrics(), model="revision/hash", max_bytes=max_bytes)


def known(value: float = 1.0, width: int = 4) -> Known:
    batch = np.full((3, width), value, dtype=np.float32)
    return Known({"pooled": batch[1]}, tokens=5, truncated=False)


def test_what_was_put_is_found_until_the_question_differs() -> None:
    cache = a_cache()
    cache.put("hund", None, known())
    found = cache.get("hund", None)
    assert found is not None
    assert found.row["pooled"].tolist() == [1, 1, 1, 1]
    assert cache.get("hund", "end") is None
    assert cache.get("Hund", None) is None
    assert cache.get(("hund", "hund"), None) is None


def test_a_row_is_copied_so_that_its_batch_can_go() -> None:
    cache, given = a_cache(), known()
    cache.put("hund", None, given)
    found = cache.get("hund", None)
    assert found is not None
    assert found.row["pooled"].base is None


def test_the_least_recently_used_goes_first() -> None:
    cache = a_cache(max_bytes=2_500)
    for text in ("a", "b"):
        cache.put(text, None, known())
    cache.get("a", None)
    cache.put("c", None, known())
    assert len(cache) == 2
    assert cache.get("a", None) is not None
    assert cache.get("b", None) is None
    assert cache.bytes <= 2_500


def test_nothing_is_kept_while_it_is_off() -> None:
    cache = a_cache(max_bytes=0)
    cache.put("hund", None, known())
    assert cache.get("hund", None) is None
    assert len(cache) == cache.bytes == 0


def test_what_is_larger_than_the_cache_throws_nothing_out() -> None:
    cache = a_cache(max_bytes=2_000)
    cache.put("a", None, known())
    cache.put("b", None, known(width=1_000))
    assert cache.get("a", None) is not None
    assert len(cache) == 1


def test_putting_the_same_text_again_counts_it_once() -> None:
    cache = a_cache()
    cache.put("a", None, known())
    once = cache.bytes
    cache.put("a", None, known(2.0))
    assert cache.bytes == once


def test_the_bytes_it_counts_are_those_it_takes() -> None:
    cache = a_cache(max_bytes=10**9)
    gc.collect()
    tracemalloc.start()
    for index in range(2_000):
        cache.put(f"text number {index}", None, known(index, width=384))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.9 * taken <= cache.bytes <= 1.3 * taken
