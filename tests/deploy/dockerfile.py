"""Reads the Dockerfile into instructions, each with the stage it belongs to."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Instruction:
    stage: str
    """Name of the stage, empty before the first FROM."""
    keyword: str
    value: str

    @property
    def exec_form(self) -> list[str]:
        """The words of a command in exec form; ValueError in shell form."""
        words = json.loads(self.value[self.value.index("[") :])
        return [str(word) for word in words]


def read_dockerfile() -> list[Instruction]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"(?m)^\s*#.*\n", "", text)
    instructions, stage = [], ""
    for line in re.sub(r"\\\n\s*", " ", lines).splitlines():
        if not line.strip():
            continue
        keyword, _, value = line.strip().partition(" ")
        if keyword == "FROM":
            stage = value.split(" AS ")[1]
        instructions.append(Instruction(stage, keyword, value.strip()))
    return instructions


def parent_of(stage: str) -> str:
    """What the stage is built from: another stage, or an image."""
    value = next(i.value for i in read_dockerfile() if i.stage == stage and i.keyword == "FROM")
    return value.split(" AS ")[0]


def inherited(target: str, keyword: str) -> list[str]:
    """Values of one keyword in the target and the stages it is built from, in build order."""
    instructions = read_dockerfile()
    stages = {instruction.stage for instruction in instructions}
    chain = [target]
    while parent_of(chain[0]) in stages:
        chain.insert(0, parent_of(chain[0]))
    return [
        i.value for stage in chain for i in instructions if (i.stage, i.keyword) == (stage, keyword)
    ]
