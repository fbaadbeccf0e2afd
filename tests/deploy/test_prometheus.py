"""Prometheus accepts its configuration, the rules do what they say, every query parses."""

from pathlib import Path

import pytest
import yaml
from dockerfile import ROOT
from expressions import RULES, dashboard_expressions, read_rules
from outside_tools import run_tool

RULE_TESTS = sorted((Path(__file__).parent / "promtool").glob("*.yml"))


def test_the_configuration_is_valid() -> None:
    result = run_tool("promtool", "check", "config", "deploy/prometheus.yml")
    assert result.returncode == 0, result.stderr
    assert f"{len(RULES)} rule files found" in result.stdout


@pytest.mark.parametrize("rule_test", RULE_TESTS, ids=lambda path: path.stem)
def test_the_alerts_fire_when_they_should_and_only_then(rule_test: Path) -> None:
    result = run_tool("promtool", "test", "rules", str(rule_test))
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    fires = set()
    for path in RULE_TESTS:
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            fires |= {
                check["alertname"]
                for check in case.get("alert_rule_test", [])
                if check["exp_alerts"]
            }
    assert fires == {rule["alert"] for rule in read_rules() if "alert" in rule}


def test_every_query_of_the_dashboard_parses(tmp_path: Path) -> None:
    rules = [
        {"record": f"query_{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, (place, expression) in enumerate(dashboard_expressions().items())
        if not place.startswith("variable")
    ]
    assert len(rules) > 20
    path = tmp_path / "queries.yml"
    path.write_text(
        yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8"
    )
    result = run_tool("promtool", "check", "rules", str(path))
    assert result.returncode == 0, result.stderr


def test_the_job_that_rules_and_panels_select_is_scraped() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    assert "lightmbert" in {scrape["job_name"] for scrape in config["scrape_configs"]}
