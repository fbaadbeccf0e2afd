"""Which variant suits this machine, and how ONNX Runtime is opened for it.

There is no fall-back: a device that was asked for and is not there is an error, because a
service that quietly runs on the wrong processor looks healthy and is ten times too slow.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from app.errors import ManifestError, VariantError
from app.runtime.artifact import Precision, Target, Variant
from app.runtime.cpus import VNNI

Device = Literal["cpu", "cuda"]
PrecisionChoice = Literal["auto", "fp32", "fp16", "int8"]

BEST_FIRST: dict[Device, tuple[Precision, ...]] = {
    "cpu": ("int8", "fp32", "fp16"),
    "cuda": ("fp16", "fp32", "int8"),
}
SPIN_US = 20
"""How long a thread waits awake for the others of its run. A longer spin takes the CPU from the
very thread that is waited for, where another run came along."""
PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def known_device(name: str) -> Device:
    """The device of that name.

    Raises:
        VariantError: there is no such device.
    """
    for device in PROVIDERS:
        if device == name:
            return device
    raise VariantError(f"device {name!r} is unknown; known: {', '.join(PROVIDERS)}")


def targets_for(device: Device, features: frozenset[str]) -> tuple[Target, ...]:
    """Targets this machine can serve, the best first.

    int8 weights of full range saturate on processors without VNNI, so `cpu-vnni` is offered
    only where the kernel reports it.
    """
    if device == "cuda":
        return ("cuda",)
    return ("cpu-vnni", "cpu-avx2", "cpu") if features & VNNI else ("cpu-avx2", "cpu")


def choose_variant(
    variants: Sequence[Variant],
    *,
    device: Device,
    precision: str,
    features: frozenset[str],
) -> Variant:
    """The best variant for this machine: precision first, then the closest target.

    Raises:
        VariantError: the folder holds none that fits.
    """
    targets = targets_for(device, features)
    precisions = BEST_FIRST[device] if precision == "auto" else (precision,)
    fitting = [v for v in variants if v.target in targets and v.precision in precisions]
    if not fitting:
        held = ", ".join(f"{v.precision} for {v.target}" for v in variants)
        raise VariantError(
            f"no variant has precision {' or '.join(precisions)} and target "
            f"{' or '.join(targets)}; the model folder holds: {held}"
        )
    return min(fitting, key=lambda v: (precisions.index(v.precision), targets.index(v.target)))


def open_session(
    graph: Path,
    *,
    device: Device,
    intra_op_threads: int,
    content: bytes | None = None,
    arena: bool = True,
    spins: bool = False,
) -> Any:  # noqa: ANN401 - onnxruntime is untyped
    """An `onnxruntime.InferenceSession` that runs `graph` on `device` and nowhere else.

    Args:
        graph: the file.
        device: where it runs.
        intra_op_threads: of each run.
        content: what the file held when it was hashed; it is read anew if not given.
        arena: whether runs take their memory from ONNX Runtime's arena, which has one lock for
            all, or from the C library; glibc has a heap for each thread.
        spins: whether the threads of a run wait awake for each other, for a moment.

    Raises:
        VariantError: the device is not there, or cannot run the whole graph.
        ManifestError: the file is no graph that can be served.
    """
    import onnxruntime  # 0.1 s, and only those who open a session need it

    if device == "cuda":
        # CUDA's libraries come as Python packages, where the system's loader does not look.
        onnxruntime.preload_dlls()
    provider = PROVIDERS[device]
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise VariantError(f"device {device} needs {provider}; this machine has {available}")
    try:
        # As bytes, not by path: nothing but this one file is opened.
        session = onnxruntime.InferenceSession(
            graph.read_bytes() if content is None else content,
            session_options(
                graph,
                device=device,
                intra_op_threads=intra_op_threads,
                arena=arena,
                spins=spins,
            ),
            providers=[provider],
        )
    except Exception as error:  # onnxruntime exports no common base class
        kind = VariantError if device == "cuda" else ManifestError
        raise kind(f"{graph} cannot be opened on {device}: {error}") from error
    # Kept by onnxruntime to open itself again on other providers, which we forbid: a second
    # copy of every weight.
    session._model_bytes = None
    if provider not in session.get_providers():
        raise VariantError(f"{provider} refused {graph}; active: {session.get_providers()}")
    return session


def devices() -> list[Device]:
    """Those that this build of ONNX Runtime knows; whether a GPU is there shows when it is opened."""
    import onnxruntime  # as above

    available = onnxruntime.get_available_providers()
    return [device for device, provider in PROVIDERS.items() if provider in available]


def onnxruntime_version() -> str:
    import onnxruntime  # as above

    return str(onnxruntime.__version__)


def session_options(
    graph: Path, *, device: Device, intra_op_threads: int, arena: bool, spins: bool
) -> Any:  # noqa: ANN401 - onnxruntime is untyped
    """What a session of the service is opened with; arguments as for `open_session`."""
    import onnxruntime  # as above

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures are raised; nothing else is worth a line
    options.enable_cpu_mem_arena = arena
    options.enable_mem_pattern = False  # every batch has its own shape; patterns would pile up
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    # A thread that spins between runs takes the processor from tokenizer and HTTP.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Weights outside the hashed file would escape the hash: send every search for them astray.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path",
        str(graph.parent / ".no-external-data"),
    )
    if device == "cuda":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    else:
        # The graph is fused already. More would put SkipLayerNormalization and BiasGelu back,
        # which the CPU computes value by value.
        basic = type(options.graph_optimization_level).ORT_ENABLE_BASIC
        options.graph_optimization_level = basic
    return options
