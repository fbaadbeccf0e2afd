"""A folder that is a dataset of many languages to the hub's library."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_hub(folder: Path, texts: Mapping[str, Sequence[str]], *, prefix: str = "v1.") -> Path:
    """A configuration `prefix + language` for each language, with its size told, as hubs do."""
    described, configured = [], []
    for language, rows in texts.items():
        (folder / language).mkdir(parents=True)
        lines = "\n".join(json.dumps({"text": text}) for text in rows)
        (folder / language / "train.jsonl").write_text(lines)
        name = f"- config_name: {prefix}{language}\n"
        configured.append(f"{name}  data_files: {language}/train.jsonl\n")
        described.append(f"{name}  splits:\n  - name: train\n    num_examples: {len(rows)}\n")
    head = f"---\nconfigs:\n{''.join(configured)}dataset_info:\n{''.join(described)}---\n"
    (folder / "README.md").write_text(head)
    return folder
