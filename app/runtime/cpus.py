"""What this process may use of the machine's processors: how many, which, and which instructions.

The number honours the CPU set and the quota of the control group, because a container with
two CPUs on a host with sixty-four must not start sixty-four threads.
"""

import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
CPUS = Path("/sys/devices/system/cpu")
VNNI = frozenset({"avx512_vnni", "avx_vnni"})


_sharers = 1


def allowed_cpus() -> int:
    """CPUs this process may use, at least 1."""
    pinned = hasattr(os, "sched_getaffinity")
    in_set = len(os.sched_getaffinity(0)) if pinned else (os.cpu_count() or 1) // _sharers
    quota = cpu_quota(CGROUPS, _own_group())
    within_quota = in_set if quota is None else math.ceil(quota) // _sharers
    return max(1, min(in_set, within_quota))


def take_share(index: int, of: int) -> None:
    """Keep this process to one of `of` shares of its CPUs, and have it count only that share.

    A share is of CPUs that lie together. It is not narrowed to the quota: which CPUs of its set
    a group under a quota runs on is the kernel's choice, and others choose theirs.
    """
    global _sharers
    _sharers = of
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0), key=lambda cpu: cpu_place(CPUS, cpu))
        os.sched_setaffinity(0, share(cpus, index, of))


def share(cpus: Sequence[int], index: int, of: int) -> Sequence[int]:
    """Share `index` of `of` contiguous ones, no two of which differ by more than one CPU."""
    return cpus[len(cpus) * index // of : len(cpus) * (index + 1) // of]


def cpu_place(root: Path, cpu: int) -> tuple[int, int, int]:
    """Memory node, core (by its first thread) and number: in this order neighbours are near."""
    folder = root / f"cpu{cpu}"
    nodes = (int(each.name.removeprefix("node")) for each in folder.glob("node[0-9]*"))
    try:
        threads = (folder / "topology" / "thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        threads = str(cpu)
    first, _, _ = threads.strip().replace("-", ",").partition(",")
    return next(nodes, 0), int(first), cpu


def cpu_quota(root: Path, group: str) -> float | None:
    """The tightest CPU quota from `group` up to `root`, in CPUs; None where there is none."""
    folder = root / group.lstrip("/")
    folders = [folder, *folder.parents]
    quotas = [_quota_of(each) for each in folders if each.is_relative_to(root)]
    quotas.append(_old_quota_of(root / "cpu"))
    return min((quota for quota in quotas if quota is not None), default=None)


def cpu_features() -> frozenset[str]:
    """Instruction sets by the kernel's names, such as `avx2` and `avx512_vnni`."""
    return frozenset(_from_cpuinfo("flags", "Features").split())


def cpu_model() -> str:
    """The processor as the kernel names it, as in "Intel(R) Xeon(R) Processor"."""
    return _from_cpuinfo("model name") or platform.machine()


def cpu_name() -> str:
    """Architecture and the instruction set that matters to int8, for people to read."""
    features = cpu_features()
    widest = next((name for name in (*sorted(VNNI), "avx2") if name in features), "baseline")
    return f"{platform.machine()} {widest}"


def _from_cpuinfo(*names: str) -> str:
    """What the first line of one of these names says; nothing where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")


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
