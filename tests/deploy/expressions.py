"""Every PromQL expression of the dashboard and the rules, with the place it stands in."""

import json
import re
from typing import Any

import yaml
from dockerfile import ROOT

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "latency.json"
RULES = sorted((ROOT / "deploy" / "rules").glob("*.yml"))


def read_dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


def read_rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in RULES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def dashboard_expressions() -> dict[str, str]:
    dashboard = read_dashboard()
    found = {
        f"panel {panel['title']!r} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    }
    for annotation in dashboard["annotations"]["list"]:
        found[f"annotation {annotation['name']!r}"] = annotation["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found[f"variable {variable['name']!r}"] = variable["query"]["query"]
    return found


def rule_expressions() -> dict[str, str]:
    return {rule.get("alert") or rule["record"]: rule["expr"] for rule in read_rules()}


def metric_names(expression: str) -> set[str]:
    """Metrics an expression reads: ours, the process's, and what the recording rules write."""
    without_strings = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"\b(?:lightmbert_|process_|job:)[\w:]+", without_strings))


def label_values(expression: str) -> list[tuple[str, str, str]]:
    """(metric, label, value) of each matcher on one of our metrics; `=~` gives each alternative."""
    found = []
    for metric, matchers in re.findall(r"\b(lightmbert_\w+)\{([^}]*)\}", expression):
        for label, operator, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', matchers):
            alternatives = value.split("|") if operator == "=~" else [value]
            found += [(metric, label, alternative) for alternative in alternatives]
    return found
