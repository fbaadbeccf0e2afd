import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_encoder import WIDTH, a_head

from distill.heads import HeadError, load_heads, save_head


def test_a_saved_head_is_loaded_as_it_was(tmp_path: Path) -> None:
    topic = a_head("topic", temperature=0.7, pair=True, provenance={"data": "f1a9"})
    tags = a_head("tags", problem_type="multi", threshold=0.4)
    save_head(tmp_path, topic)
    save_head(tmp_path, tags)

    loaded = load_heads(tmp_path)

    assert list(loaded) == ["tags", "topic"]
    for head in (topic, tags):
        found = loaded[head.task]
        assert torch.equal(found.weight, head.weight)
        assert torch.equal(found.bias, head.bias)
        assert replace(found, weight=head.weight, bias=head.bias) == head


def test_an_encoder_without_heads_has_none(tmp_path: Path) -> None:
    assert load_heads(tmp_path) == {}


def test_a_head_sees_the_direction_of_the_pooled_vector_and_not_its_length() -> None:
    head = a_head("topic")
    pooled = torch.randn(5, WIDTH)
    torch.testing.assert_close(head(pooled * 37), head(pooled))


def test_logits_match_a_loop_over_labels() -> None:
    head = a_head("topic")
    pooled = torch.randn(2, WIDTH)
    expected = [
        [float((text / text.norm()) @ row + bias) for row, bias in zip(head.weight, head.bias)]  # noqa: B905 - tensors
        for text in pooled
    ]
    torch.testing.assert_close(head(pooled), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_the_layer_that_is_exported_gives_the_logits_of_the_head() -> None:
    head = a_head("topic")
    unit = torch.nn.functional.normalize(torch.randn(4, WIDTH), dim=-1)
    torch.testing.assert_close(head.as_layer()(unit), head(unit))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weight": torch.zeros(2, WIDTH)}, r"3 labels, weight \(2, 32\)"),
        ({"bias": torch.zeros(4)}, r"bias \(4,\)"),
        ({"weight": torch.zeros(3, WIDTH, dtype=torch.float16)}, "must be float32"),
        ({"labels": ("a", "b", "a")}, "labels repeat"),
        ({"temperature": 0.0}, "greater than or equal to 0.001"),
        ({"threshold": 1.5}, "less than or equal to 1"),
        ({"task": "../topic"}, "string_pattern_mismatch|match pattern"),
    ],
)
def test_a_head_that_fits_no_manifest_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(HeadError, match=said):
        replace(a_head("topic"), **changes)


def test_tensors_of_another_head_are_refused(tmp_path: Path) -> None:
    save_head(tmp_path, a_head("topic", classes=3))
    save_head(tmp_path, a_head("intent", classes=5))
    heads = tmp_path / "heads"
    shutil.copy(heads / "intent.safetensors", heads / "topic.safetensors")
    with pytest.raises(HeadError, match=r"3 labels, weight \(5, 32\)"):
        load_heads(tmp_path)


@pytest.mark.parametrize("broken", ["missing tensors", "no safetensors", "unknown key"])
def test_a_damaged_head_is_refused_by_its_path(tmp_path: Path, broken: str) -> None:
    save_head(tmp_path, a_head("topic"))
    stated, tensors = (tmp_path / "heads" / f"topic.{kind}" for kind in ("json", "safetensors"))
    if broken == "missing tensors":
        tensors.unlink()
    elif broken == "no safetensors":
        tensors.write_bytes(b"pickle")
    else:
        stated.write_text(json.dumps(json.loads(stated.read_text()) | {"temprature": 2}))
    with pytest.raises(HeadError, match="topic"):
        load_heads(tmp_path)
