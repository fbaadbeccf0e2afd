"""`docker compose up` gives the GPU service, the cpu profile the other; both are scraped, and shut in."""

import re
import shutil
from typing import Any

import pytest
import yaml
from dockerfile import ROOT, inherited
from outside_tools import run_tool

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("lightmbert", "lightmbert-cpu")


def _names(*arguments: str) -> set[str]:
    """Services that compose would start, read by compose itself: its plugin or its own program."""
    for command in (["docker", "compose"], ["docker-compose"]):
        version = run_tool(*command, "version", "--short") if shutil.which(command[0]) else None
        if version and re.match(r"v?([2-9]|\d\d)\.", version.stdout):
            result = run_tool(*command, *arguments, "config", "--services")
            assert result.returncode == 0, result.stderr
            return set(result.stdout.split())
    pytest.skip("no docker compose 2 or newer is installed")


def test_compose_itself_reads_the_file() -> None:
    assert _names() == {"lightmbert", "prometheus", "grafana"}
    assert _names("--profile", "cpu") == set(SERVICES)


def test_the_plain_command_starts_the_gpu_service() -> None:
    started = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert started == {"lightmbert", "prometheus", "grafana"}
    assert SERVICES["lightmbert"]["build"]["target"] == "gpu"
    (device,) = SERVICES["lightmbert"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_the_cpu_service_asks_for_no_gpu() -> None:
    service = SERVICES["lightmbert-cpu"]
    assert service["profiles"] == ["cpu"]
    assert service["build"]["target"] == "cpu"
    assert "reservations" not in service["deploy"]["resources"]


def test_starting_the_cpu_service_does_not_start_the_gpu_service() -> None:
    needed, queue = set(), ["lightmbert-cpu", "prometheus", "grafana"]
    while queue:
        needed.add(name := queue.pop())
        queue += [other for other in SERVICES[name].get("depends_on", []) if other not in needed]
    assert needed == {"lightmbert-cpu", "prometheus", "grafana"}


@pytest.mark.parametrize("name", OURS)
def test_prometheus_reaches_whichever_service_runs(name: str) -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    (scrape,) = [s for s in config["scrape_configs"] if s["job_name"] == "lightmbert"]
    (target,) = scrape["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in SERVICES[name]["networks"]["default"]["aliases"]
    assert inherited(SERVICES[name]["build"]["target"], "EXPOSE") == [port]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_shut_in(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"privileged", "cap_add", "pid", "network_mode", "user"}.isdisjoint(service)
    assert any(mount.startswith("/tmp") for mount in service["tmpfs"])
    for volume in service.get("volumes", []):
        assert volume.endswith(":ro") or volume.split(":")[0] in COMPOSE["volumes"], volume


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_limits(name: str) -> None:
    service = SERVICES[name]
    assert {"cpus", "memory", "pids"} == set(service["deploy"]["resources"]["limits"])
    assert {"max-size", "max-file"} == set(service["logging"]["options"])
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_no_port_is_open_to_the_network_by_default(name: str) -> None:
    for port in SERVICES[name]["ports"]:
        by_default = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", port)
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", by_default), port


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_images_of_others_are_pinned_and_on_this_host_only(name: str) -> None:
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])


def test_grafana_is_readable_by_all_and_its_password_is_not_in_the_file() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    password = environment["GF_SECURITY_ADMIN_PASSWORD"]
    # By default Grafana reads a fresh number from the kernel: nobody knows it, nor is it "admin".
    assert password == "${GRAFANA_ADMIN_PASSWORD:-$$__file{/proc/sys/kernel/random/uuid}}"


@pytest.mark.parametrize("mount", ["prometheus", "grafana"])
def test_mounted_files_exist(mount: str) -> None:
    bound = [volume for volume in SERVICES[mount]["volumes"] if volume.startswith("./")]
    assert bound
    assert all((ROOT / volume.split(":")[0]).exists() for volume in bound)


@pytest.mark.parametrize("name", OURS)
def test_the_service_may_finish_draining_before_it_is_killed(name: str) -> None:
    from app.settings import Settings

    drain_s = Settings.model_fields["drain_timeout_s"].default
    assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= drain_s + 5
