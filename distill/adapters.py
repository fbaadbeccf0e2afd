"""Any folder with an ONNX graph and a tokenizer.json, read by what a recipe says of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from app.errors import LightMBERTError
from app.runtime.artifact import ClassificationTask
from app.runtime.outputs import Floats
from app.runtime.providers import open_session
from app.runtime.tokenizer import Ids, Text, Tokenizer, pad
from distill.encoders import Outputs, in_order
from distill.tables.evaluate import AdapterTable

PADDING_TOKENS = ("[PAD]", "<pad>", "<|padding|>")


class AdapterError(LightMBERTError):
    """A folder is not what its adapter says."""

    code = "bad_adapter"


class AdaptedEncoder:
    """A graph of others on the CPU. It has no heads but those fitted for it."""

    def __init__(self, folder: Path, adapter: AdapterTable, *, threads: int) -> None:
        graph = folder / adapter.graph
        if not graph.is_file():
            raise AdapterError(f"{graph} does not exist; the adapter names it as the graph")
        self._session = open_session(graph, device="cpu", intra_op_threads=threads)
        self._adapter = adapter
        self._tokenizer = _tokenizer(folder / adapter.tokenizer, adapter.max_tokens)
        self._inputs = {
            name: ours
            for name, ours in (
                (adapter.ids, "input_ids"),
                (adapter.mask, "attention_mask"),
                (adapter.types, "token_type_ids"),
            )
            if name is not None
        }
        self._check_names(graph)
        self.tasks: dict[str, ClassificationTask] = {}

    def outputs(self, texts: Sequence[Text]) -> Outputs:
        return in_order(texts, self._batch)

    def _batch(self, texts: list[Text]) -> Outputs:
        prefixed = [_prefixed(text, self._adapter.prefix) for text in texts]
        arrays = pad(self._tokenizer.encode(prefixed, truncate=True))
        feed = {name: arrays[ours] for name, ours in self._inputs.items()}
        [found] = self._session.run([self._adapter.output], feed)
        return {"pooled": self._pooled(found.astype(np.float32), arrays["attention_mask"])}

    def _pooled(self, found: Floats, mask: Ids) -> Floats:
        """(B, T, H) under a mask (B, T), or (B, H), -> (B, H)."""
        pooling = self._adapter.pooling
        if found.ndim != (2 if pooling == "none" else 3):
            raise AdapterError(
                f"output {self._adapter.output!r} has shape {found.shape}; pooling {pooling!r} "
                f"reads {'(B, H)' if pooling == 'none' else '(B, T, H)'}"
            )
        if pooling == "none":
            return found
        if pooling == "cls":
            return found[:, 0]
        real = mask[..., None].astype(np.float32)  # (B, T, 1)
        mean: Floats = (found * real).sum(1) / real.sum(1)
        return mean

    def _check_names(self, graph: Path) -> None:
        reads = {entry.name for entry in self._session.get_inputs()}
        gives = {entry.name for entry in self._session.get_outputs()}
        if reads != set(self._inputs):
            raise AdapterError(
                f"{graph} reads {', '.join(sorted(reads))}; the adapter names "
                f"{', '.join(sorted(self._inputs))}"
            )
        if self._adapter.output not in gives:
            raise AdapterError(
                f"{graph} gives {', '.join(sorted(gives))}, not {self._adapter.output}"
            )


def _tokenizer(file: Path, max_tokens: int) -> Tokenizer:
    """With the padding that the file sets, or a padding token by one of its usual names.

    Which id pads matters here: some graphs count positions by it.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises the bare class
        raise AdapterError(f"{file} is not a tokenizer: {error}") from error
    ids = [tokenizer.token_to_id(token) for token in PADDING_TOKENS]
    set_ids = [tokenizer.padding["pad_id"]] if tokenizer.padding else []
    pad_ids = [*set_ids, *(number for number in ids if number is not None)]
    if not pad_ids:
        raise AdapterError(f"{file} sets no padding and has none of {', '.join(PADDING_TOKENS)}")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Tokenizer(tokenizer, max_tokens=max_tokens, pad_id=pad_ids[0])


def _prefixed(text: Text, prefix: str) -> Text:
    return prefix + text if isinstance(text, str) else (prefix + text[0], prefix + text[1])
