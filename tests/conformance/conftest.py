"""Live servers for the real clients, and a network that ends at this machine.

These tests run in an environment of their own (`clients.txt`) and import nothing of the project:
all they know of it is what comes over HTTP.
"""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import Live, serving
from loopback import only_loopback

os.environ |= {
    "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "true",
    "NO_PROXY": "*",
}
# What a developer has set for a real account must not decide what is tested, or be sent.
for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
    os.environ.pop(name, None)

refused = only_loopback()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server-python",
        default=str(Path(__file__).resolve().parents[2] / ".venv" / "bin" / "python"),
        help="the interpreter whose environment holds lightmbert",
    )


@pytest.fixture(scope="session")
def server_python(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--server-python"))


@pytest.fixture(scope="session")
def server(server_python: str) -> Iterator[Live]:
    """The shipped student, open to all."""
    with serving(server_python) as live:
        yield live


@pytest.fixture(scope="session")
def guarded(server_python: str) -> Iterator[Live]:
    """The shipped student, for who carries the key `right`."""
    with serving(server_python, api_key="right") as live:
        yield live


@pytest.fixture(scope="session", autouse=True)
def _nothing_was_sent_elsewhere() -> Iterator[None]:
    """A client that swallows the refusal is found out here."""
    yield
    assert not refused, f"not on this machine: {sorted(set(refused))}"


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it either
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
