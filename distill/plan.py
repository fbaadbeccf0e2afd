"""Verb: tell what a recipe's `[train]` table will cost, before anything is loaded.

    lightmbert distill plan distill/recipes/mbert-6.toml

Reads config.json files only; of hub ids nothing else is downloaded. Times are estimates.
"""

from rich.console import Console
from rich.table import Table

from distill.config import LoadedRecipe, require
from distill.cost import CPU_SHARE, GPU_PEAKS, GPU_SHARE, Cost, cost_of, cpu_rate
from distill.tables.train import TrainTable
from distill.training import check_cacheable, skeleton_of


def run(loaded: LoadedRecipe) -> None:
    """Print parameters, bytes, operations, tokens, and an estimate of time per device."""
    table = require(loaded.recipe.train, "train")
    if table.cache_targets is not None:
        check_cacheable(table)
    skeleton = skeleton_of(table)
    cost = cost_of(table, skeleton)
    threads = loaded.recipe.run.threads
    width = int(skeleton.student.config.hidden_size)
    rate = cpu_rate(width=width, precision=table.precision, threads=threads)
    console = Console()
    console.print(_size(loaded.recipe.run.name, cost))
    console.print(_work(table, cost))
    console.print(_times(table, cost, cpu_flops_per_s=rate * CPU_SHARE, threads=threads))
    if table.cache_targets is not None:
        console.print(
            "The teacher reads a text once and is then found in cache_targets; it is counted as "
            "if it read every text each time."
        )


def _size(name: str, cost: Cost) -> Table:
    rows = Table(title=f"{name}: size", title_justify="left")
    rows.add_column("")
    rows.add_column("parameters", justify="right")
    rows.add_column("float32", justify="right")
    for what, count in (
        ("teacher", cost.teacher_parameters),
        ("student", cost.student_parameters),
        ("  of which embeddings", cost.student_embeddings),
        ("objectives' own", cost.own_parameters),
        ("trained", cost.trained_parameters),
    ):
        rows.add_row(what, f"{count:,}", megabytes(4 * count))
    rows.add_section()
    rows.add_row("weights in memory", "", megabytes(cost.weight_bytes))
    rows.add_row("gradients and optimizer", "", megabytes(cost.optimizer_bytes))
    rows.add_row("checkpoint on disk", "", megabytes(cost.checkpoint_bytes))
    return rows


def _work(table: TrainTable, cost: Cost) -> Table:
    rows = Table(title="work", title_justify="left", show_header=False)
    rows.add_column("")
    rows.add_column("", justify="right")
    for what, told in (
        ("teacher, forward", f"{cost.teacher_flops / 1e6:,.1f} MFLOP per token"),
        ("student, forward and backward", f"{cost.student_flops / 1e6:,.1f} MFLOP per token"),
        ("tokens per step and process", f"{cost.step_tokens:,} at most"),
        ("steps", f"{table.steps:,}"),
        ("tokens per process", f"{cost.tokens / 1e6:,.1f} M at most"),
        ("in all", f"{cost.flops / 1e15:,.3f} PFLOP per process"),
    ):
        rows.add_row(what, told)
    return rows


def _times(table: TrainTable, cost: Cost, *, cpu_flops_per_s: float, threads: int) -> Table:
    rows = Table(title="time, estimated", title_justify="left")
    rows.add_column("device")
    rows.add_column("assumed rate", justify="right")
    rows.add_column("from", style="dim")
    rows.add_column("time", justify="right")
    devices = [
        (f"this CPU, {threads} threads", cpu_flops_per_s, f"{CPU_SHARE:.0%} of what it just did")
    ]
    for name, (bf16, fp32) in GPU_PEAKS.items():
        peak = bf16 if table.precision == "bf16" else fp32
        told = f"{GPU_SHARE:.0%} of its {peak:g} TFLOP/s in {table.precision}"
        devices.append((name, peak * 1e12 * GPU_SHARE, told))
    for name, rate, source in devices:
        rows.add_row(name, f"{rate / 1e12:,.2f} TFLOP/s", source, duration(cost.flops / rate))
    return rows


def megabytes(count: float) -> str:
    """Bytes for people, in powers of ten."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """Seconds for people, in the unit they would use."""
    for unit, length in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} s"
