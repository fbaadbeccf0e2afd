"""Grafana finds the dashboard, and the dashboard is whole."""

import re
from itertools import combinations
from typing import Any

import yaml
from dockerfile import ROOT
from expressions import read_dashboard

PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"


def _provisioned(path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((PROVISIONING / path).read_text(encoding="utf-8"))
    return loaded


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
    below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    return not (beside or below)


def test_panels_have_their_own_id_and_place_on_the_grid() -> None:
    panels = read_dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    for one, other in combinations(panels, 2):
        assert not _overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def test_every_variable_that_is_used_is_defined() -> None:
    dashboard = read_dashboard()
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", str(dashboard["panels"])))
    assert used == defined


def test_every_panel_but_a_row_has_a_query_and_a_unit() -> None:
    for panel in read_dashboard()["panels"]:
        if panel["type"] in ("row", "alertlist"):
            continue
        assert panel["targets"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_the_dashboard_opens_on_the_provisioned_data_source() -> None:
    (source,) = _provisioned("datasources/prometheus.yml")["datasources"]
    variables = {variable["name"]: variable for variable in read_dashboard()["templating"]["list"]}
    assert variables["datasource"]["current"] == {"text": source["name"], "value": source["uid"]}
    alerts = [panel for panel in read_dashboard()["panels"] if panel["type"] == "alertlist"]
    assert [panel["options"]["datasource"] for panel in alerts] == [source["name"]]


def test_rates_are_taken_over_the_interval_that_is_scraped() -> None:
    (source,) = _provisioned("datasources/prometheus.yml")["datasources"]
    config = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
