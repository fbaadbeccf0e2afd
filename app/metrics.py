"""Every metric of the service, once: name, unit, buckets and closed label sets.

Series exist from the start, so that a dashboard shows zero rather than nothing; those named
after a task appear when the model has said which heads it has, and the durations of a head at
another server's path when it is first asked there. Recorded at three stations:
`app.api` (requests, serialisation), `app.engine` with `app.scheduler` (tokens, queue) and
`app.runners` (batches).
"""

from collections.abc import Iterable
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from app.shared_metrics import registry_of_all

EMBED_ROUTES = ("/embed", "/similarity", "/v1/embeddings", "/embeddings")
ROUTES = (
    *EMBED_ROUTES,
    *("/classify", "/predict", "/", "/invocations", "/vertex", "/tokenize", "/decode"),
)
EMBED_TASK = "embed"
STATUSES = (
    *("200", "400", "401", "403", "404", "405", "409", "413", "415", "422", "424", "429"),
    *("499", "500", "503", "504"),
)
"""What routes for work answer; 499 stands for a caller who hung up before the answer."""
Priority = Literal["interactive", "bulk"]
"""The class of a request, see `app.fairness`."""
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
DropReason = Literal["gone", "expired", "failed"]
"""Why a text was not run: its caller hung up, its deadline passed, or its request failed."""
DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)
STAGES = ("tokenize", "queue", "run", "serialize")

# Fine where a small model lives (0.5 to 50 ms), coarse up to the client's patience.
SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03),
    *(0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
TEXTS = tuple(float(2**power) for power in range(11))
TOKENS = tuple(float(2**power) for power in range(3, 17))


class Metrics:
    """The metrics of one application, on a registry of its own."""

    def __init__(self, *, error_codes: Iterable[str] = ()) -> None:
        """`error_codes` are the codes of the error tree, from `app.errors.error_types`."""
        # One more series per series, and nobody charts them.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client has no types here
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._create_request_metrics()
        self._create_work_metrics()
        self._create_model_metrics()
        self._create_series(error_codes)

    def _create_request_metrics(self) -> None:
        self.request_duration_seconds = Histogram(
            "lightmbert_request_duration_seconds",
            "Seconds from the request's head to the last byte handed over; answered with 200 only.",
            ("route", "task", "model"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.requests = Counter(
            "lightmbert_requests_total",
            "Requests by status; 499 means the caller hung up, later than after 0.2 s.",
            ("route", "status"),
            registry=self.registry,
        )
        self.in_flight_requests = Gauge(
            "lightmbert_in_flight_requests",
            "Requests being worked on.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.errors = Counter(
            "lightmbert_errors_total",
            "Errors told to callers, by code.",
            ("code",),
            registry=self.registry,
        )

    def _create_work_metrics(self) -> None:
        self.stage_duration_seconds = Histogram(
            "lightmbert_stage_duration_seconds",
            "Seconds per stage: tokenize, queue and serialize once per request, run once per batch. "
            "The queue ends when the last text begins to run: 0 where all were running already.",
            ("stage",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_texts = Histogram(
            "lightmbert_batch_texts",
            "Texts in one forward pass.",
            buckets=TEXTS,
            registry=self.registry,
        )
        self.batch_tokens = Histogram(
            "lightmbert_batch_tokens",
            "Padded tokens in one forward pass: longest text times texts.",
            buckets=TOKENS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "lightmbert_tokens_total",
            "Tokens run: real ones, and padded ones, which are the real ones and their padding.",
            ("kind",),
            registry=self.registry,
        )
        self.queue_tokens = Gauge(
            "lightmbert_queue_tokens",
            "Tokens waiting for a runner.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.queue_texts = Gauge(
            "lightmbert_queue_texts",
            "Texts waiting for a runner.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.truncated_texts = Counter(
            "lightmbert_truncated_texts_total",
            "Texts cut to the token limit because the caller allowed it.",
            registry=self.registry,
        )
        self.dropped_texts = Counter(
            "lightmbert_dropped_texts_total",
            "Texts dropped before they were run: caller gone, deadline expired, request failed.",
            ("reason",),
            registry=self.registry,
        )
        self.shared_texts = Counter(
            "lightmbert_shared_texts_total",
            "Texts that were not run because the same text was waiting or running already.",
            registry=self.registry,
        )
        self.cached_texts = Counter(
            "lightmbert_cache_texts_total",
            "Texts looked up in the cache, by outcome; none while it is off.",
            ("outcome",),
            registry=self.registry,
        )
        self.cache_bytes = Gauge(
            "lightmbert_cache_bytes",
            "Bytes of texts and results in the cache.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.predicted_wait = Gauge(
            "lightmbert_predicted_wait_seconds",
            "Predicted seconds until a text that came now would be run, by class of request.",
            ("priority", "model"),
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self.model_faults = Counter(
            "lightmbert_model_faults_total",
            "Times the model was opened anew after a fault, or could not be.",
            registry=self.registry,
        )

    def _create_model_metrics(self) -> None:
        self.ready = Gauge(
            "lightmbert_ready",
            "1 while the service accepts work; of several workers, while all do.",
            multiprocess_mode="livemin",
            registry=self.registry,
        )
        self.model_info = Gauge(
            "lightmbert_model_info",
            "1 for the model being served.",
            ("model", "revision", "precision", "target", "provider", "onnxruntime"),
            multiprocess_mode="livemax",
            registry=self.registry,
        )

        self.head_reads = Counter(
            "lightmbert_head_reads_total",
            "Fitted heads that were loaded, refused or removed while the service ran.",
            ("outcome",),
            registry=self.registry,
        )

    def _create_series(self, error_codes: Iterable[str]) -> None:
        # Looking a series up costs more than counting in it.
        self.stage_seconds = {stage: self.stage_duration_seconds.labels(stage) for stage in STAGES}
        self.real_tokens = self.tokens.labels("real")
        self.padded_tokens = self.tokens.labels("padded")
        for route in ROUTES:
            for status in STATUSES:
                self.requests.labels(route, status)
        for metric, values in (
            (self.errors, error_codes),
            (self.dropped_texts, DROP_REASONS),
            (self.cached_texts, ("hit", "miss")),
            (self.head_reads, ("loaded", "refused", "removed")),
        ):
            for value in values:
                metric.labels(value)

    def describe_model(self, *, model: str, tasks: Iterable[str], **info: str) -> None:
        """Create the series named after the model and its heads; `info` as in `model_info`."""
        self.model_info.labels(model=model, **info).set(1)
        for route in EMBED_ROUTES:
            self.request_duration_seconds.labels(route, EMBED_TASK, model)
        for task in tasks:
            self.request_duration_seconds.labels("/classify", task, model)
        for priority in PRIORITIES:
            self.predicted_wait.labels(priority, model)

    def forget_model(self, model: str) -> None:
        """Drop what says how the model is now; what was counted stays."""
        for gauge in (self.model_info, self.predicted_wait):
            gauge.remove_by_labels({"model": model})

    def render(self) -> bytes:
        """All series in the Prometheus text format; those of all workers where there are several."""
        return generate_latest(registry_of_all() or self.registry)
