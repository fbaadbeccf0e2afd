"""What py-spy saw: its raw format read, and its samples counted by stage and by function."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# The first that a stack holds, from its innermost frame outwards, says what the time was for.
STAGES = (
    ("graph", ("onnxruntime/",)),
    ("tokenize and pad", ("runtime/tokenizer.py",)),
    ("metrics", ("prometheus_client/", "app/metrics.py")),
    ("body to request", ("pydantic/", "_read (app/api", "app/api/body.py")),
    ("answer to bytes", ("app/api/answers.py", "app/postprocess.py", "app/runtime/outputs.py")),
    ("scheduler", ("app/scheduler.py", "app/forecast.py", "app/clock.py", "app/policy.py")),
    ("runners", ("app/runners.py", "app/threads.py", "app/student.py", "app/runtime/session.py")),
    ("engine", ("app/engine.py", "app/forward.py", "app/texts.py", "app/heads.py")),
    ("our routes", ("app/api/", "app/service.py")),
    ("fastapi, starlette, anyio", ("fastapi/", "starlette/", "anyio/")),
    ("uvicorn, httptools", ("uvicorn/", "httptools")),
    ("event loop", ("asyncio/", "uvloop")),
)


@dataclass(frozen=True)
class Stack:
    """A thread's frames, outermost first, and how often it was seen so."""

    thread: str
    frames: tuple[str, ...]
    samples: int


def read_stacks(lines: Iterable[str]) -> list[Stack]:
    """py-spy's raw format: `thread (0x7F): name;frame;frame 12` a line."""
    stacks = []
    for line in lines:
        trail, _, samples = line.rpartition(" ")
        thread, *frames = trail.split(";")
        stacks.append(Stack(thread_name(thread), tuple(frames), int(samples)))
    return stacks


def thread_name(told: str) -> str:
    """A thread's name without py-spy's address and the pool's number."""
    name = re.sub(r"thread \(\w+\)(?:: )?", "", told).strip('" ')
    return re.sub(r"[-_ (]*\d+\)?$", "", name) or "unnamed"


def stage_of(stack: Stack) -> str:
    for frame in reversed(stack.frames):
        for stage, marks in STAGES:
            if any(mark in frame for mark in marks):
                return stage
    return "other"


def by_stage(stacks: Sequence[Stack]) -> Counter[str]:
    found: Counter[str] = Counter()
    for stack in stacks:
        found[stage_of(stack)] += stack.samples
    return found


def by_function(stacks: Sequence[Stack]) -> tuple[Counter[str], Counter[str]]:
    """Samples per function: in it alone, and in it with what it called."""
    alone: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for stack in stacks:
        names = [_function(frame) for frame in stack.frames]
        alone[names[-1]] += stack.samples
        for name in set(names):
            whole[name] += stack.samples
    return alone, whole


def _function(frame: str) -> str:
    """Without the line number and the way to site-packages."""
    return re.sub(r"\(.*site-packages/", "(", re.sub(r":\d+\)$", ")", frame))
