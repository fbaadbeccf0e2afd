"""How the CPUs are shared out among workers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.runtime import cpus


@pytest.mark.parametrize(("count", "of"), [(1, 1), (2, 2), (7, 3), (64, 5)])
def test_shares_hold_every_cpu_once_and_are_alike(count: int, of: int) -> None:
    shares = [list(cpus.share(range(count), index, of)) for index in range(of)]
    assert [cpu for share in shares for cpu in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_threads_of_a_core_and_cores_of_a_node_stay_together(tmp_path: Path) -> None:
    # Two nodes of two cores with two threads each, numbered as is common: threads last.
    for cpu in range(8):
        node, first = (cpu % 4) // 2, cpu % 4
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / f"node{node}").mkdir()
        siblings = tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        siblings.write_text(f"{first},{first + 4}\n")
    order = sorted(range(8), key=lambda cpu: cpus.cpu_place(tmp_path, cpu))
    assert order == [0, 4, 1, 5, 2, 6, 3, 7]


def test_where_the_machine_says_nothing_cpus_stay_in_order(tmp_path: Path) -> None:
    assert sorted((2, 0, 1), key=lambda cpu: cpus.cpu_place(tmp_path, cpu)) == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes")
@pytest.mark.parametrize(("quota", "counted"), [(None, 4), (5.5, 3), (1.0, 1), (99.0, 4)])
def test_a_worker_counts_its_share_of_the_set_and_of_the_quota(
    quota: float | None, counted: int
) -> None:
    """The second of two workers where eight CPUs are allowed."""
    code = f"""
import os
from app.runtime import cpus
allowed = set(range(8))
os.sched_getaffinity = lambda _: allowed
os.sched_setaffinity = lambda _, share: allowed.intersection_update(share)
cpus.cpu_quota = lambda *_: {quota}
cpus.take_share(1, 2)
print(len(allowed), cpus.allowed_cpus())
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["4", str(counted)]
