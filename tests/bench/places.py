"""Where the benchmark keeps what it installs and builds: one git-ignored folder."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BENCH = ROOT / ".bench"
PRODUCT = Path(os.environ.get("BENCH_PRODUCT", ROOT))
"""The checkout whose service is measured; BENCH_PRODUCT names another one, to compare with."""

MINILM_SOURCE = BENCH / "minilm-source"
"""The published weights and tokenizer."""
MINILM_PEERS = BENCH / "minilm-onnx"
"""What Infinity and the naive service load: tokenizer, config and `onnx/model.onnx`."""
MINILM_OURS = BENCH / "minilm-student"
"""The same weights as a model folder of ours, fp32 and int8."""
STUDENT = ROOT / "models" / "lightmbert-mini"

PYTHON = Path(sys.executable)
"""The environment with our own product, the extra `distill` and the naive service."""
INFINITY_VENV = BENCH / "infinity"
PROFILE_VENV = BENCH / "py-spy"
LOGS = BENCH / "logs"
