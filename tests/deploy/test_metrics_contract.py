"""The dashboard and the rules read what the service writes, and leave nothing it writes unread."""

import re

import pytest
from expressions import (
    dashboard_expressions,
    label_values,
    metric_names,
    read_rules,
    rule_expressions,
)
from prometheus_client import Metric

from app.errors import error_types
from app.metrics import Metrics

# Written by the service, read by no panel and no rule, on purpose.
UNREAD = {
    "process_virtual_memory_bytes": "address space says nothing of memory in use",
    "process_max_fds": "a limit of the host; the panel shows the climb towards it",
}
EXPRESSIONS = dashboard_expressions() | rule_expressions()
# Prometheus adds these when it scrapes.
SCRAPE_LABELS = {"job", "instance"}


@pytest.fixture(scope="module")
def families() -> list[Metric]:
    metrics = Metrics(error_codes=[error.code for error in error_types()])
    metrics.describe_model(
        tasks=["topic"],
        model="m",
        revision="r",
        precision="int8",
        target="cpu",
        provider="CPUExecutionProvider",
        onnxruntime="1",
    )
    return list(metrics.registry.collect())


@pytest.fixture(scope="module")
def label_sets(families: list[Metric]) -> dict[str, list[dict[str, str]]]:
    """Sample name -> the label sets it has at start."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_every_metric_that_is_read_exists(
    place: str, label_sets: dict[str, list[dict[str, str]]]
) -> None:
    recorded = {rule["record"] for rule in read_rules() if "record" in rule}
    assert metric_names(EXPRESSIONS[place]) <= set(label_sets) | recorded


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_every_label_value_that_is_read_exists_from_the_start(
    place: str, label_sets: dict[str, list[dict[str, str]]]
) -> None:
    for metric, label, value in label_values(EXPRESSIONS[place]):
        if label in SCRAPE_LABELS:
            continue
        written = {labels.get(label, "") for labels in label_sets[metric]}
        assert any(re.fullmatch(value, known) for known in written), (metric, label, value, written)


def test_every_metric_that_is_written_is_read_or_left_out_on_purpose(
    families: list[Metric],
) -> None:
    read = {name for expression in EXPRESSIONS.values() for name in metric_names(expression)}
    unread = set()
    for family in families:
        samples = {sample.name for sample in family.samples if not sample.name.endswith("_created")}
        if not samples & read:
            unread.add(family.name)
    assert unread == set(UNREAD)


def test_the_latency_objective_is_a_bucket_edge(
    label_sets: dict[str, list[dict[str, str]]],
) -> None:
    edges = {labels["le"] for labels in label_sets["lightmbert_request_duration_seconds_bucket"]}
    slow = [rule["expr"] for rule in read_rules() if "slow" in rule.get("record", "")]
    assert slow
    for expression in slow:
        assert set(re.findall(r'le="([^"]+)"', expression)) == {"0.1"} <= edges


def test_a_recorded_ratio_is_taken_over_the_window_in_its_name() -> None:
    recorded = [rule for rule in read_rules() if "record" in rule]
    assert recorded
    for rule in recorded:
        window = rule["record"].partition("ratio_rate")[2]
        assert set(re.findall(r"\[(\w+)\]", rule["expr"])) == {window}, rule["record"]
