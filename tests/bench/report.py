"""The tables: what must be reached beside what was, and every absolute figure."""

from collections.abc import Sequence
from dataclasses import dataclass

from .figures import Spread, ratios
from .plan import CLOSED
from .results import Results
from .systems import FP32, INFINITY, INT8, SYSTEMS


@dataclass(frozen=True)
class Bar:
    """One promise: a ratio, what it must be and what it should be."""

    title: str
    must: float
    goal: float
    values: Sequence[float]
    at_most: bool = False

    def verdict(self, spread: Spread) -> str:
        met = [
            spread.median <= bar if self.at_most else spread.median >= bar
            for bar in (self.must, self.goal)
        ]
        return "goal" if met[1] else "must" if met[0] else "missed"


def heading(found: Results) -> str:
    """Where and how it was measured, and whether that can be trusted."""
    lines = [f"{found.machine}; rounds: {found.rounds}; seconds each: {found.seconds:g}"]
    if others := Spread.of(found.foreign_cpus):
        lines.append(
            f"CPUs that others kept busy: median {others.median:.2f}, most {others.high:.2f}"
        )
    if found.agreement:
        cosines = ", ".join(f"{name} {cosine:.5f}" for name, cosine in found.agreement.items())
        lines.append(f"lowest cosine to {FP32}: {cosines}")
    return "\n".join(lines)


def bars(found: Results) -> list[Bar]:
    """benchmarks' table; values round by round, empty where it was not measured."""
    return [
        *_single_text_bars(found),
        *_share_bars(found),
        *_batch_bars(found),
        *_process_bars(found),
        *_overload_bars(found),
    ]


def _over(found: Results, ours: str, cell: str, figure: str) -> list[float]:
    return ratios(found.values(ours, cell, figure), found.values(INFINITY, cell, figure))


def _single_text_bars(found: Results) -> list[Bar]:
    rows = []
    for cell, must in (("c1", 1.6), ("c16", 1.7), ("c64", 1.7)):
        title = f"requests/s over Infinity, fp32, {cell}"
        rows.append(Bar(title, must, 2.0, _over(found, FP32, cell, "requests_per_s")))
    for cell, must in (("c1", 2.6), ("c16", 2.5), ("c64", 2.5)):
        title = f"our int8 over its fp32, {cell}"
        rows.append(Bar(title, must, 3.0, _over(found, INT8, cell, "requests_per_s")))
    for cell in ("c16", "c64"):
        values = _over(found, FP32, cell, "p99_ms")
        rows.append(Bar(f"p99 over Infinity's, fp32, {cell}", 0.65, 0.5, values, at_most=True))
    return rows


def _share_bars(found: Results) -> list[Bar]:
    return [
        Bar(
            f"share of the ONNX Runtime limit, {name.removeprefix('ours ')}, {cell}",
            0.75,
            0.9,
            ratios(found.values(name, cell, "texts_per_s"), found.limits[name]),
        )
        for name in (FP32, INT8)
        for cell in ("c16", "c64")
    ]


def _batch_bars(found: Results) -> list[Bar]:
    return [
        Bar(
            f"texts/s over Infinity, fp32, {CLOSED[cell].title}",
            1.7,
            2.0,
            _over(found, FP32, cell, "texts_per_s"),
        )
        for cell in ("b32", "b512")
    ]


def _process_bars(found: Results) -> list[Bar]:
    starts = ratios(found.starts_s[FP32], found.starts_s[INFINITY])
    resident = []
    if FP32 in found.memory and INFINITY in found.memory:
        resident = [found.memory[FP32].proportional / found.memory[INFINITY].proportional]
    return [
        Bar("cold start over Infinity's", 1 / 10, 1 / 20, starts, at_most=True),
        Bar("resident memory over Infinity's, fp32", 1 / 5, 1 / 8, resident, at_most=True),
    ]


def _overload_bars(found: Results) -> list[Bar]:
    rows = []
    for name in (FP32, INT8):
        runs = found.overload[name]
        refusals = [each.beyond.refusal_p50_ms for each in runs if each.beyond.refused]
        kept = [
            each.beyond.goodput_per_s / each.knee.goodput_per_s
            for each in runs
            if each.knee is not None
        ]
        rows.append(
            Bar(f"ms to a 429 at 3x capacity (median), {name}", 20, 5, refusals, at_most=True)
        )
        rows.append(Bar(f"goodput at 3x over goodput at the knee, {name}", 0.9, 0.98, kept))
    return rows


def promises(found: Results) -> str:
    """The first table."""
    lines = [_row("what", "must", "goal", "median", "range", "")]
    for bar in bars(found):
        spread = Spread.of(bar.values)
        sign = "<=" if bar.at_most else ">="
        must, goal = f"{sign} {bar.must:.3g}", f"{sign} {bar.goal:.3g}"
        if spread is None:
            lines.append(_row(bar.title, must, goal, "-", "-", "not measured"))
            continue
        reach = f"{spread.low:.3g} to {spread.high:.3g}"
        lines.append(
            _row(bar.title, must, goal, f"{spread.median:.3g}", reach, bar.verdict(spread))
        )
    return "\n".join(lines)


def _row(what: str, must: str, goal: str, middle: str, reach: str, verdict: str) -> str:
    return f"{what:58} {must:>8} {goal:>8} {middle:>8} {reach:>16}  {verdict}".rstrip()


def absolutes(found: Results) -> str:
    """The second table: medians and ranges, and what each system costs."""
    head = f"{'cell':18} {'system':14} {'texts/s':>22} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>22}"
    lines = [head + f" {'cpu-s/Mtok':>11} {'errors':>7}"]
    for cell, asked in CLOSED.items():
        lines += [
            _absolute(found, name, cell, asked.title) for name in SYSTEMS if found.cells[name][cell]
        ]
    lines += ["", *_limit_lines(found), *_cost_lines(found), *_overload_lines(found)]
    return "\n".join(lines)


def _absolute(found: Results, name: str, cell: str, title: str) -> str:
    def middle(figure: str) -> float:
        spread = Spread.of(found.values(name, cell, figure))
        return spread.median if spread else float("nan")

    def ranged(figure: str) -> str:
        values = found.values(name, cell, figure)
        return f"{middle(figure):.0f} ({min(values):.0f} to {max(values):.0f})"

    return (
        f"{title:18} {name:14} {ranged('texts_per_s'):>22} {middle('p50_ms'):8.1f}"
        f" {middle('p95_ms'):8.1f} {ranged('p99_ms'):>22}"
        f" {middle('cpu_s_per_million_tokens'):11.0f}"
        f" {sum(found.values(name, cell, 'not_answered')):7.0f}"
    )


def _limit_lines(found: Results) -> list[str]:
    lines = []
    for name, values in found.limits.items():
        if spread := Spread.of(values):
            shape = found.limit_shapes[name]
            reach = f"({spread.low:.0f} to {spread.high:.0f})"
            cost = found.limit_cpu_s_per_million_tokens[name]
            lines.append(
                f"limit, {name}: {spread.median:.0f} texts/s {reach}, {cost:.0f} cpu-s/Mtok, "
                f"best shape (runners x threads x texts) {shape}"
            )
    return lines


def _cost_lines(found: Results) -> list[str]:
    lines = []
    for name, starts in found.starts_s.items():
        if (spread := Spread.of(starts)) and name in found.memory:
            memory = found.memory[name]
            lines.append(
                f"{name}: first 200 after {spread.median:.1f} s ({spread.low:.1f} to "
                f"{spread.high:.1f}), {memory.proportional / 1e6:.0f} MB after load, "
                f"peak {memory.peak_resident / 1e6:.0f} MB"
            )
    return lines


def _overload_lines(found: Results) -> list[str]:
    lines = []
    for name, runs in found.overload.items():
        for each in runs:
            knee, beyond = each.knee, each.beyond
            at_knee = (
                f"knee {knee.rate_per_s:.0f}/s p99 {knee.p99_ms:.0f} ms" if knee else "no knee"
            )
            lines.append(
                f"{name}: {at_knee}; at {beyond.rate_per_s:.0f}/s goodput "
                f"{beyond.goodput_per_s:.0f}/s, accepted p99 {beyond.p99_ms:.0f} ms, refused "
                f"{beyond.refused} in {beyond.refusal_p50_ms:.1f} ms (p99 "
                f"{beyond.refusal_p99_ms:.0f}), other {beyond.other}, "
                f"unanswered {beyond.unanswered}, not sent for want of connections "
                f"{beyond.unsent}, generator late {beyond.lag_p99_ms:.0f} ms"
            )
    return lines
