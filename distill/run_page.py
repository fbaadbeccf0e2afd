"""A page about a run, beside its checkpoint: recipe, data, curves, and what came of it.

`report/index.html` needs nothing else to be read: its curves are SVG inside it. Written at
checkpoints, once a minute at most, and at the end.
"""

import html
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.config import LoadedRecipe
from distill.records import read_records

PAGE = Path("report") / "index.html"
NOT_LOSSES = {"step", "gradient_norm", "learning_rate_scale", "tokens", "tokens_per_s"}
SMOOTHED_OVER = 20
"""Points that the bold line averages at most; of short curves a twentieth."""

LEAST_AGE_S = 60.0
"""Drawing takes a good part of a second; younger pages are not drawn anew at a checkpoint."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .15rem .8rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr { border-bottom: 1px solid #ddd }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto } svg { width: 100%; height: auto }
"""


Records = Sequence[Mapping[str, float]]


def is_due(loaded: LoadedRecipe) -> bool:
    """Whether the run's page is missing or old enough to be drawn anew."""
    path = loaded.recipe.run.folder / PAGE
    return not path.exists() or time.time() - path.stat().st_mtime > LEAST_AGE_S


def write_page(loaded: LoadedRecipe, *, fingerprint: str, agreement: float | None = None) -> Path:
    """Write the page of a run as far as its records go, and say where.

    Args:
        loaded: the run's recipe.
        fingerprint: of the run's text.
        agreement: see `distill.agreement`; known at the end.
    """
    folder = loaded.recipe.run.folder
    records = read_records(folder)
    path = folder / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(
        _page(loaded, records, fingerprint=fingerprint, agreement=agreement), encoding="utf-8"
    )
    partial.replace(path)
    return path


def _page(
    loaded: LoadedRecipe, records: Records, *, fingerprint: str, agreement: float | None
) -> str:
    name = html.escape(loaded.recipe.run.name)
    table = loaded.recipe.train
    assert table is not None, "only training runs have a page"
    state = [
        ("steps", f"{int(records[-1]['step']) if records else 0:,} of {table.steps:,}"),
        ("padded tokens", f"{int(records[-1]['tokens']):,}" if records else "0"),
        ("tokens/s", f"{records[-1]['tokens_per_s']:,.0f}" if records else "-"),
        ("seed", str(loaded.recipe.run.seed)),
        ("recipe", f"{loaded.file_name}, sha256 {loaded.sha256[:12]}"),
        ("text", f"fingerprint {fingerprint}"),
        ("agreement with the teacher", _told(agreement)),
    ]
    return "\n".join(
        [
            f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{name}</title>",
            f"<style>{STYLE}</style><h1>{name}</h1>",
            _rows([("", ""), *state]),
            "<h2>Losses</h2>",
            _losses(records),
            curves(records) if len(records) > 1 else "<p>Curves come with a second record.</p>",
            "<h2>Recipe</h2>",
            f"<pre>{html.escape(loaded.text)}</pre></html>",
        ]
    )


def _told(agreement: float | None) -> str:
    if agreement is None:
        return "measured at the end"
    return f"{agreement:.4f} (correlation of the cosines between any two texts)"


def _losses(records: Records) -> str:
    """First and last values of each loss, each a mean of a tenth of the records."""
    window = max(1, len(records) // 10)
    rows: list[tuple[str, ...]] = [("loss", "first tenth", "last tenth", "ratio")]
    for name in _terms(records):
        values = [record[name] for record in records]
        first, last = _mean(values[:window]), _mean(values[-window:])
        ratio = f"{last / first:.3f}" if first else "-"
        rows.append((name, f"{first:.5g}", f"{last:.5g}", ratio))
    return _rows(rows)


def _rows(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rest]
    first = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = [f"<tr>{row}</tr>" for row in ([first] if any(head) else []) + cells]
    return f"<table>{''.join(lines)}</table>"


def _terms(records: Records) -> list[str]:
    return [name for name in records[0] if name not in NOT_LOSSES] if records else []


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def curves(records: Records) -> str:
    """Losses, gradient norm, rate and speed over steps, as one SVG element."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # pyplot would look for a screen, and keep figures alive

    names = [*_terms(records), "gradient_norm", "learning_rate_scale", "tokens_per_s"]
    lines = (len(names) + 1) // 2
    figure = Figure(figsize=(10, 2.4 * lines))
    figure.subplots_adjust(0.07, 0.06, 0.99, 1 - 0.12 / lines, wspace=0.18, hspace=0.4)
    steps = [record["step"] for record in records]
    for index, name in enumerate(names, start=1):
        axes = figure.add_subplot(lines, 2, index)
        values = [record[name] for record in records]
        axes.plot(steps, values, color="#9ab", linewidth=0.7)
        axes.plot(steps, _smoothed(values), color="#135", linewidth=1.4)
        axes.set_title(name, fontsize=10)
        axes.locator_params(nbins=5)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    drawn = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "run"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]


def _smoothed(values: Sequence[float]) -> list[float]:
    """Mean of each value and some before it."""
    window = max(1, min(SMOOTHED_OVER, len(values) // 20))
    return [_mean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
