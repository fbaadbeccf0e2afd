"""How many runs at a time, and how many threads for each: measured, within two seconds, once.

The result is kept in a file per model, processor and ONNX Runtime, so that the next start need
not measure. A cache that cannot be read or written costs time and nothing else.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from app.runtime.cpus import allowed_cpus, cpu_model
from app.runtime.providers import onnxruntime_version
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Encoded, Tokenizer
from app.settings import Settings
from app.versions import own_version

logger = logging.getLogger(__name__)

BUDGET_S = 2.0
"""After so long nothing more is tried. A big model is then judged by what was measured."""
WINDOW_S = 0.1
ROUNDS = 2
BATCH_TEXTS = (1, 4, 16)
CLEARLY_BETTER = 1.05
"""What the rule says stays unless something gives so many times its texts per second."""

MOST_FOR_ONE_TEXT = 4
"""Threads."""


class Plan(BaseModel):
    """Forward passes at a time, and threads of each."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    runners: PositiveInt
    intra_op_threads: PositiveInt


OpenSession = Callable[[Plan], StudentSession]
"""Opens a session for a plan."""


def tuned(
    settings: Settings,
    open_session: OpenSession,
    tokenizer: Tokenizer,
    *,
    opened: StudentSession,
) -> Settings:
    """`settings` with the plan that is best here, unless one is given or tuning is off.

    `opened` is a session as the settings have it.
    """
    rule = Plan(runners=settings.runners, intra_op_threads=settings.intra_op_threads)
    given = settings.model_fields_set & set(Plan.model_fields)
    if not settings.autotune or given or settings.device != "cpu":
        return settings
    cache = cache_file(settings.cache_dir, opened)
    plans = candidates(rule, cpus=allowed_cpus())
    plan = read(cache)
    if plan not in plans:  # nothing there, or nothing to be trusted
        plan = measured(plans, open_session, batches_for(opened, tokenizer), opened=opened)
        write(cache, plan)
    return settings.model_copy(update=plan.model_dump())


def threads_alone(settings: Settings, session: StudentSession) -> int:
    """For a single text beside which nothing runs: as many as it gains from.

    Where one runner has all CPUs it has them already, and a GPU does not ask for them. With int8
    a second thread gained nothing and cost a quarter more processor time; in fp32 a text was done
    in 0.6 of the time.
    """
    if settings.threads_alone is not None:
        return settings.threads_alone
    on_cpu = settings.device == "cpu"
    if not on_cpu or settings.runners == 1 or session.variant.precision == "int8":
        return settings.intra_op_threads
    return max(settings.intra_op_threads, min(allowed_cpus(), MOST_FOR_ONE_TEXT))


def candidates(rule: Plan, *, cpus: int) -> list[Plan]:
    """The rule's plan, then every other that uses all CPUs with powers of two of threads."""
    widths = [2**power for power in range(cpus.bit_length())]
    plans = [Plan(runners=cpus // width, intra_op_threads=width) for width in widths]
    return [rule, *(plan for plan in plans if plan != rule)]


def measured(
    plans: Sequence[Plan],
    open_session: OpenSession,
    batches: Sequence[Sequence[Encoded]],
    *,
    opened: StudentSession,
) -> Plan:
    """The plan that gives most texts per second; the first unless another is clearly better.

    `opened` is the session of the first plan. Plans that the budget leaves no time for lose.
    """
    started_at = perf_counter()
    rates: dict[Plan, float] = {}
    for plan in plans:
        if rates and perf_counter() - started_at > BUDGET_S:
            break
        session = opened if plan == plans[0] else open_session(plan)
        session.run(batches[-1])  # the first run is slow
        rates[plan] = max(texts_per_s(session, plan.runners, batches) for _ in range(ROUNDS))
    best = max(rates, key=lambda plan: rates[plan])
    chosen = best if rates[best] > CLEARLY_BETTER * rates[plans[0]] else plans[0]
    shown = {f"{plan.runners}x{plan.intra_op_threads}": round(rates[plan]) for plan in rates}
    seconds = round(perf_counter() - started_at, 3)
    logger.info("tuned", extra=chosen.model_dump() | {"texts_per_s": shown, "seconds": seconds})
    return chosen


def texts_per_s(
    session: StudentSession, runners: int, batches: Sequence[Sequence[Encoded]]
) -> float:
    """How many texts `runners` threads get through."""
    started_at = perf_counter()

    def work(first: int) -> int:
        turn = first
        texts = 0
        while perf_counter() - started_at < WINDOW_S:
            batch = batches[turn % len(batches)]
            session.run(batch)
            texts += len(batch)
            turn += 1
        return texts

    with ThreadPoolExecutor(runners, thread_name_prefix="lightmbert-tuning") as pool:
        texts = sum(pool.map(work, range(runners)))
    return texts / (perf_counter() - started_at)


def batches_for(session: StudentSession, tokenizer: Tokenizer) -> list[list[Encoded]]:
    """Batches of the manifest's golden texts: real ones, of the lengths they have."""
    golden = session.manifest.golden
    texts = [
        each.text if each.text_pair is None else (each.text, each.text_pair) for each in golden
    ]
    encoded = tokenizer.encode(texts, truncate=True)
    return [(encoded * size)[:size] for size in BATCH_TEXTS]


def cache_file(folder: Path, session: StudentSession) -> Path:
    """Named after all that the result depends on."""
    machine = [cpu_model(), allowed_cpus(), onnxruntime_version()]
    key = [session.variant.sha256, *machine, own_version()]
    return folder / f"tuned-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"


def read(cache: Path) -> Plan | None:
    """The plan in the file, or None where there is none."""
    try:
        return Plan.model_validate_json(cache.read_bytes())
    except (OSError, ValidationError):
        return None


def write(cache: Path, plan: Plan) -> None:
    """Keep the plan, if that is possible here."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, delete=False) as half_written:
            half_written.write(plan.model_dump_json())
        os.replace(half_written.name, cache)  # whole, however many start at once
    except OSError as error:
        logger.info("tuning is not kept", extra={"file": str(cache), "reason": str(error)})
