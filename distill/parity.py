"""Do two encoders agree on some texts, and by how much.

The reference is torch in fp32, one text at a time and so without padding. What is measured
against it runs through `app.runtime`, padded and in batches, as it will be served. One step
is left out for a CUDA variant: `StudentSession.load` rightly refuses it without a GPU, yet its
arithmetic must be checked wherever it is made, so here its graph is opened on the CPU. That
computes in fp32 what the CPU has no fp16 kernel for: the figures are those of fp16 weights, and
the self-test on the GPU does the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
import torch

from app.errors import LightMBERTError
from app.runtime.artifact import ClassificationTask, Manifest, Tolerance, Variant, verify_file
from app.runtime.outputs import Floats, probabilities, unit_vectors
from app.runtime.providers import open_session
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Text, Tokenizer
from distill.anatomy import Encoder
from distill.batches import Tokens
from distill.heads import AnyHead, logits_of

BATCH_TEXTS = 32
THREADS = 1
"""Figures should not depend on the machine's cores, and the texts are few."""


class ParityError(LightMBERTError):
    """An exported graph strays further from its reference than the recipe allows."""

    code = "no_parity"


@dataclass(frozen=True)
class Outputs:
    """What an encoder and its heads say of N texts."""

    embeddings: Floats
    """Unit vectors, (N, H)."""
    probabilities: Mapping[str, Floats]
    """Task -> (N, C)."""


@dataclass(frozen=True)
class Parity:
    """How far one encoder is from another, text by text."""

    cosines: Floats
    """(N,)"""
    probability_errors: Mapping[str, Floats]
    """Task -> (N,): the largest absolute difference over the classes."""

    @property
    def min_cosine(self) -> float:
        return float(self.cosines.min())

    @property
    def mean_cosine(self) -> float:
        return float(self.cosines.mean())

    @property
    def max_probability_error(self) -> dict[str, float]:
        return {task: float(errors.max()) for task, errors in self.probability_errors.items()}


def compare(reference: Outputs, found: Outputs) -> Parity:
    """Measure `found` against `reference`; both must hold the same texts and tasks."""
    if reference.probabilities.keys() != found.probabilities.keys():
        raise ValueError(f"tasks {[*found.probabilities]} against {[*reference.probabilities]}")
    return Parity(
        cosines=np.einsum("nh,nh->n", reference.embeddings, found.embeddings),
        probability_errors={
            task: np.abs(expected - found.probabilities[task]).max(axis=1)
            for task, expected in reference.probabilities.items()
        },
    )


def require_parity(parity: Parity, tolerance: Tolerance, *, what: str) -> None:
    """Refuse an encoder that strays too far from its reference.

    Raises:
        ParityError: names the text that strays furthest, the figure and the limit.
    """
    # Negated, so that a figure that is not a number is refused too.
    if not parity.min_cosine >= tolerance.min_cosine:
        raise ParityError(
            f"{what}: texts[{parity.cosines.argmin()}] has cosine {parity.min_cosine:.6f} to the "
            f"reference; at least {tolerance.min_cosine} is required"
        )
    for task, error in parity.max_probability_error.items():
        if not error <= tolerance.max_probability_error:
            index = parity.probability_errors[task].argmax()
            raise ParityError(
                f"{what}: texts[{index}] strays {error:.6f} from the reference probabilities of "
                f"{task!r}; at most {tolerance.max_probability_error} is allowed"
            )


def gate(
    folder: Path, manifest: Manifest, variant: Variant, texts: Sequence[Text], reference: Outputs
) -> Parity:
    """Hold a variant to its own tolerance, each text alone and in company; return the latter.

    Company matters: it brings padding, and int8 scales activations by what is in the batch.

    Raises:
        ParityError: the variant strays further than its tolerance.
    """
    for batch_texts in (1, BATCH_TEXTS):
        found = served_outputs(folder, manifest, variant, texts, batch_texts=batch_texts)
        parity = compare(reference, found)
        what = f"{variant.file}, in batches of {batch_texts}"
        require_parity(parity, variant.tolerance, what=what)
    return parity


def gate_golden(folder: Path, manifest: Manifest, variant: Variant) -> None:
    """Hold a variant to the golden outputs, as the service will before it is ready.

    Raises:
        ParityError: the variant strays further than its tolerance; texts are the golden ones.
    """
    golden = manifest.golden
    texts = [g.text if g.text_pair is None else (g.text, g.text_pair) for g in golden]
    reference = Outputs(
        embeddings=np.array([g.embedding for g in golden], dtype=np.float32),
        probabilities={
            task: np.array([g.probabilities[task] for g in golden], dtype=np.float32)
            for task in manifest.tasks
        },
    )
    found = served_outputs(folder, manifest, variant, texts, batch_texts=1)
    require_parity(
        compare(reference, found), variant.tolerance, what=f"{variant.file}, golden texts"
    )


def torch_outputs(
    encoder: Encoder, heads: Mapping[str, AnyHead], tokenizer_file: Path, texts: Sequence[Text]
) -> Outputs:
    """Run the fp32 reference, one text at a time, tokenized apart from `app.runtime`."""
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with torch.inference_mode():
        alone = [_alone(encoder, heads, tokenizer, text) for text in texts]
    raw = {name: torch.cat([one[name] for one in alone]).numpy() for name in alone[0]}
    return _outputs(raw, {task: head.as_task() for task, head in heads.items()})


def served_outputs(
    folder: Path, manifest: Manifest, variant: Variant, texts: Sequence[Text], *, batch_texts: int
) -> Outputs:
    """Run one variant of a model folder as it will be served, `batch_texts` at a time.

    Raises:
        TextTooLongError: a text exceeds the model's token limit.
        ModelError: the folder, its manifest and the variant do not belong together.
    """
    if not texts:
        raise ValueError("parity needs at least one text")
    tokenizer = Tokenizer.load(
        verify_file(folder, manifest.tokenizer), max_tokens=manifest.max_tokens
    )
    session = _session(folder, manifest, variant)
    encoded = tokenizer.encode(texts, truncate=False)
    batches = [
        session.run(encoded[start : start + batch_texts])
        for start in range(0, len(encoded), batch_texts)
    ]
    raw = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return _outputs(raw, manifest.tasks)


def _session(folder: Path, manifest: Manifest, variant: Variant) -> StudentSession:
    if variant.target == "cuda":
        graph = verify_file(folder, variant)
        return StudentSession(
            open_session(graph, device="cpu", intra_op_threads=THREADS), manifest, variant
        )
    only = manifest.model_copy(update={"variants": (variant,)})
    return StudentSession.load(
        folder, only, device="cpu", precision=variant.precision, intra_op_threads=THREADS
    )


def _alone(
    encoder: Encoder, heads: Mapping[str, AnyHead], tokenizer: tokenizers.Tokenizer, text: Text
) -> dict[str, torch.Tensor]:
    """Outputs of one text, (1, H) and (1, C): without padding every token is real."""
    first, second = (text, None) if isinstance(text, str) else text
    encoding = tokenizer.encode(first, second)
    ids = torch.tensor([encoding.ids])
    hidden: torch.Tensor = encoder(
        input_ids=ids, token_type_ids=torch.tensor([encoding.type_ids])
    ).last_hidden_state
    pooled = hidden.mean(dim=1)
    return {"pooled": pooled} | logits_of(heads, pooled, Tokens(ids, torch.ones_like(ids).bool()))


def _outputs(raw: Mapping[str, Floats], tasks: Mapping[str, ClassificationTask]) -> Outputs:
    pooled = raw["pooled"]
    return Outputs(
        embeddings=unit_vectors(pooled, pooled.shape[1]),
        probabilities={
            name: probabilities(raw[f"logits_{name}"], task) for name, task in tasks.items()
        },
    )
