"""The runbook names what there is, and has an answer to every alert."""

import re

from dockerfile import ROOT
from expressions import read_rules

RUNBOOK = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    alerts = [rule["alert"] for rule in read_rules() if "alert" in rule]
    assert re.findall(r"(?m)^### (\w+)$", RUNBOOK) == alerts


def test_every_alert_says_who_is_woken_and_what_was_seen() -> None:
    for rule in read_rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
            assert "{{" in rule["annotations"]["summary"], rule["alert"]


def test_the_variables_of_compose_are_documented_with_their_defaults() -> None:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", compose))
    rows = [line for line in RUNBOOK.splitlines() if line.startswith("| `")]
    for name, default in used.items():
        (row,) = [row for row in rows if f"`{name}`" in row]
        assert default in row or name == "GRAFANA_ADMIN_PASSWORD"


def test_the_settings_it_names_exist() -> None:
    from app.settings import PREFIX, fields_by_name

    named = set(re.findall(rf"{PREFIX}([A-Z_]+)", RUNBOOK))
    assert named
    assert {name.lower() for name in named} <= set(fields_by_name())


def test_the_files_it_lists_exist() -> None:
    listed = re.findall(r"(?m)^\| `([\w./]+)` \|", RUNBOOK.split("## Start")[0])
    assert len(listed) == 5
    assert all((ROOT / "deploy" / path).exists() for path in listed)
