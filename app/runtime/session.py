"""The student, opened for this machine: one batch in, every output of the graph out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from app.errors import InferenceError, ManifestError, SelfTestError
from app.runtime.artifact import Golden, Manifest, Variant, read_verified
from app.runtime.cpus import cpu_features
from app.runtime.outputs import Floats, probabilities, unit_vectors
from app.runtime.providers import choose_variant, known_device, open_session
from app.runtime.tokenizer import Encoded, Tokenizer, pad

POOLED = "pooled"
LOGITS = "logits_"
REQUIRED_INPUTS = frozenset({"input_ids", "attention_mask"})
OPTIONAL_INPUTS = frozenset({"token_type_ids"})


class StudentSession:
    """One variant of a student. `run` may be called from several threads at once."""

    def __init__(self, session: Any, manifest: Manifest, variant: Variant) -> None:  # noqa: ANN401 - onnxruntime is untyped
        self.manifest = manifest
        self.variant = variant
        self.providers: tuple[str, ...] = tuple(session.get_providers())
        self.output_names = [POOLED, *(LOGITS + task for task in manifest.tasks)]
        self._session = session
        self._input_names = {entry.name for entry in session.get_inputs()}
        self._check_graph({entry.name for entry in session.get_outputs()})

    @classmethod
    def load(
        cls,
        folder: Path,
        manifest: Manifest,
        *,
        device: str,
        precision: str,
        intra_op_threads: int,
        runners: int = 1,
    ) -> Self:
        """Choose the variant for this machine, verify its hash and open it for `runners` at a time.

        Raises:
            VariantError: no variant fits, or the device is not there.
            ManifestError: the file is missing, altered, outside the folder, keeps weights
                in other files, or is not the graph that the manifest describes.
        """
        place = known_device(device)
        variant = choose_variant(
            manifest.variants, device=place, precision=precision, features=cpu_features()
        )
        graph, content = read_verified(folder, variant)
        session = open_session(
            graph,
            device=place,
            intra_op_threads=intra_op_threads,
            content=content,
            # int8's steps are so short that runs side by side wait for the arena's lock.
            arena=runners == 1 or variant.precision != "int8",
            # Side by side they would be in each other's way; in int8 it gave nothing.
            spins=runners == 1 and place == "cpu" and variant.precision == "fp32",
        )
        return cls(session, manifest, variant)

    def run(self, encoded: Sequence[Encoded]) -> dict[str, Floats]:
        """One forward pass: `pooled` (B, H) and `logits_<task>` (B, C), float32.

        Raises:
            InferenceError: the graph failed, or gave the wrong shape or undefined numbers.
        """
        feed = {name: ids for name, ids in pad(encoded).items() if name in self._input_names}
        try:
            arrays = self._session.run(self.output_names, feed)
        except Exception as error:  # onnxruntime exports no common base class
            shape = "x".join(str(size) for size in feed["input_ids"].shape)
            raise InferenceError(f"the model failed on a batch of {shape} tokens") from error
        outputs = {
            name: np.ascontiguousarray(array, dtype=np.float32)
            for name, array in zip(self.output_names, arrays, strict=True)
        }
        for name, array in outputs.items():
            self._check_output(name, array, texts=len(encoded))
        return outputs

    def self_test(self, tokenizer: Tokenizer) -> None:
        """Run the manifest's golden inputs and compare with its golden outputs.

        Raises:
            SelfTestError: naming the input, the figure and the limit.
        """
        for index, golden in enumerate(self.manifest.golden):
            pair = golden.text_pair
            text = golden.text if pair is None else (golden.text, pair)
            self._compare(index, golden, self.run(tokenizer.encode([text], truncate=True)))

    def _compare(self, index: int, golden: Golden, outputs: dict[str, Floats]) -> None:
        tolerance = self.variant.tolerance
        unit = unit_vectors(outputs[POOLED], self.manifest.embedding_dimension)[0]
        expected = unit_vectors(np.array([golden.embedding], dtype=np.float32), len(unit))[0]
        cosine = float(unit @ expected)
        if not cosine >= tolerance.min_cosine:
            raise SelfTestError(
                f"golden[{index}]: {self.variant.file} gives cosine {cosine:.6f} to the "
                f"reference embedding; at least {tolerance.min_cosine} is required"
            )
        for task, reference in golden.probabilities.items():
            found = probabilities(outputs[LOGITS + task], self.manifest.tasks[task])[0]
            error = float(np.abs(found - np.array(reference)).max())
            if not error <= tolerance.max_probability_error:
                raise SelfTestError(
                    f"golden[{index}]: {self.variant.file} strays {error:.6f} from the reference "
                    f"probabilities of {task}; at most {tolerance.max_probability_error} is allowed"
                )

    def _check_graph(self, output_names: set[str]) -> None:
        missing = sorted(set(self.output_names) - output_names)
        if missing:
            raise ManifestError(f"{self.variant.file} lacks the outputs {', '.join(missing)}")
        unknown = sorted(self._input_names - REQUIRED_INPUTS - OPTIONAL_INPUTS)
        absent = sorted(REQUIRED_INPUTS - self._input_names)
        if unknown or absent:
            raise ManifestError(
                f"{self.variant.file} must read {', '.join(sorted(REQUIRED_INPUTS))} and may read "
                f"{', '.join(sorted(OPTIONAL_INPUTS))}; it reads {', '.join(sorted(self._input_names))}"
            )

    def _check_output(self, name: str, array: Floats, *, texts: int) -> None:
        width = (
            self.manifest.hidden_width
            if name == POOLED
            else len(self.manifest.tasks[name.removeprefix(LOGITS)].labels)
        )
        if array.shape != (texts, width):
            raise InferenceError(f"{name} has shape {array.shape}; expected ({texts}, {width})")
        if not np.isfinite(array).all():
            raise InferenceError(f"{name} holds undefined numbers for a batch of {texts} texts")
