"""What this process may use of the machine's processors: how many, and which instructions.

The number honours the CPU set and the quota of the control group, because a container with
two CPUs on a host with sixty-four must not start sixty-four threads.
"""

import math
import os
import platform
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
VNNI = frozenset({"avx512_vnni", "avx_vnni"})


def allowed_cpus() -> int:
    """CPUs this process may use, at least 1."""
    in_set = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = cpu_quota(CGROUPS, _own_group())
    return max(1, min(in_set or 1, math.ceil(quota)) if quota else in_set or 1)


def cpu_quota(root: Path, group: str) -> float | None:
    """The tightest CPU quota from `group` up to `root`, in CPUs; None where there is none."""
    folder = root / group.lstrip("/")
    folders = [folder, *folder.parents]
    quotas = [_quota_of(each) for each in folders if each.is_relative_to(root)]
    quotas.append(_old_quota_of(root / "cpu"))
    return min((quota for quota in quotas if quota is not None), default=None)


def cpu_features() -> frozenset[str]:
    """Instruction sets by the kernel's names, such as `avx2` and `avx512_vnni`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, "").split())


def cpu_name() -> str:
    """Architecture and the instruction set that matters to int8, for people to read."""
    features = cpu_features()
    widest = next((name for name in (*sorted(VNNI), "avx2") if name in features), "baseline")
    return f"{platform.machine()} {widest}"


def _own_group() -> str:
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "/"
    return next((line[3:] for line in lines if line.startswith("0::")), "/")


def _quota_of(folder: Path) -> float | None:
    """Control groups version 2: `cpu.max` holds "quota period" or "max period"."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _old_quota_of(folder: Path) -> float | None:
    """Control groups version 1: two files, and -1 for no quota."""
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
