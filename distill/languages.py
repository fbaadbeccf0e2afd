"""Language information removal: take out of embeddings what all sentences of a language share.

Yang et al. 2021, arXiv:2109.04727: the embeddings of a language's sentences are the columns of a
matrix (H, N); its first left singular vectors C (H, R), without centring, hold the language more
than any meaning, and e - C C'e is left. That needs to know the language of each text. Added here,
for where it is not known: the same with the mean embeddings of all languages as columns, one C
for every text.

Deviation: embeddings are scaled to length 1 first, so that each sentence counts alike.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from app.errors import LightMBERTError
from app.runtime.outputs import Floats
from distill.rewrite import Rewriter

PLAIN = "pooled_with_language"
POOLED = "pooled"


class LanguageError(LightMBERTError):
    """Directions of languages are malformed, or do not fit what they are to be taken out of."""

    code = "bad_languages"


@dataclass(frozen=True)
class Directions:
    """Orthonormal directions of width H; the first so many of them are those of a lower rank."""

    of_language: Mapping[str, Floats]
    """Language -> (H, R)."""
    of_all: Floats
    """(H, R)"""

    def removed(self, embeddings: Floats, *, rank: int, language: str | None = None) -> Floats:
        """Embeddings (N, H) without `rank` directions of their language, or of all languages.

        Raises:
            LanguageError: the language was not fitted, or not at this rank.
        """
        return without(embeddings, self.first(rank, language))

    def first(self, rank: int, language: str | None = None) -> Floats:
        """(H, rank): the first directions of a language, or of all together.

        Raises:
            LanguageError: the language was not fitted, or not at this rank.
        """
        if language is not None and language not in self.of_language:
            known = ", ".join(self.of_language)
            raise LanguageError(f"no directions of {language!r} were fitted; known: {known}")
        held = self.of_all if language is None else self.of_language[language]
        if rank > held.shape[1]:
            raise LanguageError(f"rank {rank} is asked for; {held.shape[1]} were fitted")
        return held[:, :rank]


def without(embeddings: Floats, directions: Floats) -> Floats:
    """E - C C'e for each row e of (N, H), C being (H, R) and orthonormal."""
    left: Floats = (embeddings - (embeddings @ directions) @ directions.T).astype(np.float32)
    return left


def leading(embeddings: Floats, rank: int) -> Floats:
    """The first left singular vectors (H, rank) of the matrix with these rows (N, H) as columns.

    Raises:
        LanguageError: there are fewer rows, or dimensions, than directions asked for.
    """
    if rank > min(embeddings.shape):
        raise LanguageError(
            f"{len(embeddings)} embeddings of width {embeddings.shape[1]} have no {rank} directions"
        )
    _, _, right = np.linalg.svd(embeddings.astype(np.float64), full_matrices=False)
    directions: Floats = right[:rank].T.astype(np.float32)
    return directions


def fit_directions(embeddings: Mapping[str, Floats], *, rank: int) -> Directions:
    """Directions of each language, and of all together.

    Args:
        embeddings: language -> unit vectors of its sentences, (N, H).
        rank: how many; of all together no more than there are languages.

    Raises:
        LanguageError: a language has fewer sentences than that, or there are fewer languages.
    """
    means = np.stack([rows.mean(axis=0) for rows in embeddings.values()])  # (L, H)
    of_language = {language: leading(rows, rank) for language, rows in embeddings.items()}
    return Directions(of_language, leading(means, rank))


def save_directions(path: Path, directions: Directions) -> None:
    """Write directions as safetensors, whole or not at all."""
    languages = [*directions.of_language]
    tensors = {
        "of_all": directions.of_all,
        "of_language": np.stack([directions.of_language[language] for language in languages]),
    }
    # safetensors writes the bytes as they lie, whatever the order of the axes
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, {"languages": json.dumps(languages)})
    partial.replace(path)


def load_directions(path: Path) -> Directions:
    """Read what `save_directions` wrote.

    Raises:
        LanguageError: the file is missing or of another kind.
    """
    try:
        with safe_open(path, "numpy") as file:
            languages = json.loads(file.metadata()["languages"])
            of_language, of_all = file.get_tensor("of_language"), file.get_tensor("of_all")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise LanguageError(f"{path} does not hold directions of languages: {error!r}") from error
    return Directions(dict(zip(languages, of_language, strict=True)), of_all)


def fold(model: onnx.ModelProto, directions: Floats) -> None:
    """Take directions (H, R) out of a graph's `pooled`, in place.

    Heads go on reading the vector they were fitted on, so that every label stays what it was and
    none has to be fitted again; and a classifier may well use what a language shares.

    Raises:
        LanguageError: the graph was treated so before.
    """
    graph = Rewriter(model)
    if graph.maker(PLAIN) is not None:
        raise LanguageError("the language was taken out of this graph before")
    for node in graph.nodes:
        node.input[:] = [PLAIN if name == POOLED else name for name in node.input]
        node.output[:] = [PLAIN if name == POOLED else name for name in node.output]
        graph.keep(node)
    inward = graph.constant("language_directions", directions)
    # Gemm, not MatMul: passes over a graph take a MatMul with a constant for the encoder's
    along = graph.write("Gemm", [PLAIN, inward], "along_language")  # (B, R)
    shared = graph.write("Gemm", [along, inward], "shared_by_language", transB=1)  # (B, H)
    graph.write("Sub", [PLAIN, shared], POOLED)
    graph.finish()
