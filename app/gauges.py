"""What waits in one queue, as the metrics show it: beside the other queues of the process."""

from app.metrics import PRIORITIES, Metrics, Priority


class QueueGauges:
    """Adds one queue's tokens and texts to those of the others, and shows its waits as its own."""

    def __init__(self, metrics: Metrics, *, model: str) -> None:
        self._metrics = metrics
        self._waits = {each: metrics.predicted_wait.labels(each, model) for each in PRIORITIES}
        self._tokens = 0
        self._texts = 0

    def show(self, *, tokens: int, texts: int) -> None:
        self._metrics.queue_tokens.inc(tokens - self._tokens)
        self._metrics.queue_texts.inc(texts - self._texts)
        self._tokens, self._texts = tokens, texts

    def show_wait(self, priority: Priority, seconds: float) -> None:
        self._waits[priority].set(seconds)
