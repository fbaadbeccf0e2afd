"""The order of work for one request: check, admit, tokenize, queue, collect, post-process.

One forward pass gives the embedding and every head's logits, so texts to embed and texts to
classify, single and in pairs, share batches.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

import numpy as np

from app.admission import ANY_TIME, BulkFrom, Limits, Terms
from app.cache import Cache
from app.errors import InputError
from app.forecast import Forecast
from app.forward import Forward
from app.head_watch import HeadWatch
from app.heads import Heads
from app.metrics import Metrics
from app.opened_model import OpenedModel
from app.pieces import Pieces
from app.postprocess import Output, embeddings, rank
from app.results import Classified, Embedded
from app.runners import Runners
from app.runtime.artifact import ClassificationTask, Manifest
from app.runtime.providers import onnxruntime_version
from app.runtime.session import POOLED, StudentSession
from app.runtime.tokenizer import Cut, Encoded, Text
from app.scheduler import Scheduler
from app.settings import Settings
from app.student import Row
from app.texts import check_texts
from app.zero_shot import LABEL_CACHE_BYTES, TEMPLATE, ZERO_SHOT, Labels, ZeroShot, choice

logger = logging.getLogger(__name__)


class Engine:
    """One student, ready to answer many callers at once. `load`, then `start`, then `stop`."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Open the model folder and test it; `warm_up` before `start`.

        Raises:
            ModelError: the folder is unusable on this machine.
        """
        self.metrics = metrics
        self._model = OpenedModel(settings)
        self._tokenizer = self._model.tokenizer
        self._forecast = Forecast(seconds_per_token=1e-4)
        self.heads = Heads(
            self.manifest, settings.heads_dir, metrics, default=settings.default_task
        )
        self.heads.refresh()
        self._head_watch = HeadWatch(self.heads.refresh)

    @classmethod
    def load(cls, settings: Settings, metrics: Metrics) -> Self:
        """Open the model folder and warm it up.

        Raises:
            ModelError: the folder is unusable on this machine.
        """
        engine = cls(settings, metrics)
        engine.warm_up()
        return engine

    def warm_up(self) -> None:
        """Measure how fast this machine is, on which little else should run meanwhile.

        Raises:
            ModelError: the model cannot be opened for as many threads as suit the machine.
        """
        self._forecast = self._model.measure()

    @property
    def settings(self) -> Settings:
        """As the service was told, with what suits the machine."""
        return self._model.settings

    @property
    def session(self) -> StudentSession:
        """The session in use now; after a fault it is another one."""
        return self._model.session

    @property
    def manifest(self) -> Manifest:
        return self.session.manifest

    @property
    def tasks(self) -> dict[str, ClassificationTask]:
        """Of the heads in the graph and the fitted ones that are in use."""
        return self.heads.tasks

    @property
    def broken(self) -> bool:
        """Whether the student is beyond repair."""
        return self._runners.broken

    @property
    def ready(self) -> bool:
        """False while a student that keeps failing is not well."""
        return self._runners.ready

    async def start(self, on_health: Callable[[], None] = lambda: None) -> None:
        """Begin to accept texts, on the running event loop.

        Args:
            on_health: called when `ready` or `broken` may have changed.
        """
        settings = self.settings
        self._scheduler = Scheduler[Encoded, Row](
            self.metrics,
            self._forecast,
            Limits(settings.max_queue_tokens, settings.max_queue_bytes),
            max_batch_tokens=settings.max_batch_tokens,
            runners=settings.runners,
            bulk_from=BulkFrom(settings.bulk_texts, settings.bulk_tokens),
            identity=_ids,
            model=self.manifest.name,
        )
        model = f"{self.manifest.revision}/{self.session.variant.sha256}"
        forward = partial(Forward, self._scheduler, self._tokenizer, metrics=self.metrics)
        cached = partial(Cache, self.metrics, model=model)
        self._forward = forward(cache=cached(max_bytes=settings.cache_bytes))
        self.pieces = Pieces(self._tokenizer, self._forward, settings)
        of_labels = forward(cache=cached(max_bytes=LABEL_CACHE_BYTES))
        self._zero_shot = ZeroShot(self._forward, of_labels, self.manifest)
        self._runners = Runners(
            self._scheduler,
            self._model.students,
            self.metrics,
            run_timeout_s=self.settings.run_timeout_s,
            max_faults=self.settings.faults_until_exit,
            on_health=on_health,
        )
        self._runners.start()

    def widen(self) -> None:
        """Open what a text that is alone runs on. Work goes on meanwhile."""
        try:
            self._model.widen()
        except Exception as error:  # noqa: BLE001 - too little memory, say: the service does without
            logger.warning("no wide session", extra={"reason": f"{type(error).__name__}: {error}"})

    async def stop(self, *, timeout_s: float | None = None) -> None:
        """Finish what was accepted, then answer the rest with an error.

        Args:
            timeout_s: seconds to finish in; `drain_timeout_s` of the settings if not given.
        """
        timeout_s = self.settings.drain_timeout_s if timeout_s is None else timeout_s
        stopping = "the service is shutting down"
        self._scheduler.close(stopping)
        try:
            async with asyncio.timeout(timeout_s):
                await self._scheduler.idle()
        except TimeoutError:
            logger.error("not drained", extra={"timeout_s": timeout_s})
        self._scheduler.abort(stopping)
        await self._runners.stop()
        self._head_watch.stop()
        self._forward.stop(stopping)
        self._zero_shot.stop(stopping)

    async def embed(
        self,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        normalize: bool = True,
        truncate: bool = False,
        cut: Cut = "end",
        terms: Terms = ANY_TIME,
    ) -> Embedded:
        """Embeddings of `texts`, in order.

        Raises:
            InputError, OverloadedError, DeadlineExceededError, NotReadyError, InferenceError.
        """
        most = self.manifest.embedding_dimension
        if dimensions is not None and not 1 <= dimensions <= most:
            raise InputError(
                f"dimensions is {dimensions}; this model gives 1 to {most}", param="dimensions"
            )
        self._check(texts, pair=False, reader="embed")
        forwarded = await self._forward(texts, truncate=truncate, cut=cut, terms=terms)
        pooled = np.stack([row[POOLED] for row in forwarded.rows])  # (B, H)
        vectors = embeddings(pooled, dimensions=dimensions or most, normalize=normalize)
        return Embedded(vectors, forwarded.usage)

    async def classify(
        self,
        texts: Sequence[Text],
        *,
        task: str | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        output: Output = "probabilities",
        truncate: bool = False,
        cut: Cut = "end",
        terms: Terms = ANY_TIME,
    ) -> Classified:
        """Labels of `texts` by the head named `task`, or the default one (see `Heads.named`).

        Raises:
            InputError, OverloadedError, DeadlineExceededError, NotReadyError, InferenceError.
        """
        head = self.heads.named(task)
        self._check(texts, pair=head.task.pair, reader=f"task {head.name!r}")
        forwarded = await self._forward(texts, truncate=truncate, cut=cut, terms=terms)
        logits = head.logits(forwarded.rows)  # (B, C)
        ranking = rank(logits, head.task, output=output, top_k=top_k, threshold=threshold)
        return Classified(head.name, ranking, forwarded.usage)

    async def zero_shot(
        self,
        texts: Sequence[Text],
        labels: Labels,
        *,
        template: str = TEMPLATE,
        multi_label: bool = False,
        top_k: int | None = None,
        threshold: float | None = None,
        output: Output = "probabilities",
        truncate: bool = False,
        terms: Terms = ANY_TIME,
    ) -> Classified:
        """Which of `labels` fit `texts`, by similarity; the tokens of both are counted.

        Raises:
            InputError, OverloadedError, DeadlineExceededError, NotReadyError, InferenceError.
        """
        chosen = choice(labels, template=template, multi_label=multi_label)
        self._check(texts, pair=False, reader=ZERO_SHOT)
        read = await self._zero_shot.read(texts, chosen, truncate=truncate, terms=terms)
        ranking = rank(read.logits, read.head, output=output, top_k=top_k, threshold=threshold)
        return Classified(ZERO_SHOT, ranking, read.usage)

    def watch_heads(self) -> None:
        """Use heads as they are fitted, replaced or removed, from now until `stop`."""
        self._head_watch.start()

    def check_load(self, terms: Terms) -> None:
        """Refuse an unread request if one text like those that wait would be late.

        Raises:
            OverloadedError, NotReadyError.
        """
        self._scheduler.check(terms)

    def describe(self) -> None:
        """Show in the metrics what is served."""
        self.metrics.describe_model(
            tasks=(*self.tasks, ZERO_SHOT),
            model=self.manifest.name,
            revision=self.manifest.revision,
            precision=self.session.variant.precision,
            target=self.session.variant.target,
            provider=self.session.providers[0],
            onnxruntime=onnxruntime_version(),
        )

    def _check(self, texts: Sequence[Text], *, pair: bool, reader: str) -> None:
        limit = self.settings.max_texts_per_request
        check_texts(texts, limit=limit, pair=pair, reader=reader)


def _ids(encoded: Encoded) -> bytes:
    """Equal for texts that the model cannot tell apart."""
    return encoded.ids.tobytes() + encoded.type_ids.tobytes()
