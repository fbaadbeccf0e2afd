"""Every error this project raises on purpose, and what a caller is told.

LightMBERTError
├── InputError              the caller sent something we will not process
│   ├── NoTextsError        … a list of texts is empty
│   ├── TextTooLongError    … a text exceeds the token limit and truncation is off
│   ├── TooManyTextsError   … one request holds more texts than the limit
│   ├── TooManyTokensError  … one request holds more tokens than the queue ever could
│   ├── BodyTooLargeError   … one request holds more bytes than the limit
│   ├── EncodedBodyError    … the body is compressed
│   ├── MalformedBodyError  … the body is not JSON
│   ├── UnknownTaskError    … the model has no head of that name
│   └── UnknownModelError   … no model of that name is served here
├── UnauthorizedError       the caller carries no key that is known here
├── ForbiddenError          no key opens this
├── ConflictError           what is asked for does not go with what is served now
├── OverloadedError         the queue is full, or the wait too long; retry later
├── DeadlineExceededError   the caller's own deadline passed before the answer
├── NotReadyError           the model is loading or the service is shutting down
├── InferenceError          the model failed on a valid batch
└── ModelError              a model folder is unusable
    ├── ManifestError       … manifest.json is missing, malformed or contradicts the files
    ├── VariantError        … no variant fits the device, or the device is not there
    └── SelfTestError       … golden inputs do not give the golden outputs on this machine

The tree knows no HTTP: statuses are a table in `app.api`, and a test binds the two.
"""

_MOST_SHOWN = 64
"""Characters of a caller's word that are repeated to it: as many as a name may have."""

TRUNCATION_CURE = ". Shorten it, or send truncate=true to use its beginning"
"""Left out where a caller cannot send that."""


def shortened(word: str) -> str:
    """The word as an error repeats it: an error is no place for megabytes."""
    return word if len(word) <= _MOST_SHOWN else f"{word[:_MOST_SHOWN]}…"


class LightMBERTError(Exception):
    """Base of all. `code` is stable and machine-readable; `param` names the offending field."""

    code = "internal"
    as_sent = False
    """Whether `param` names a place as the caller wrote it, rather than in our own words."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InputError(LightMBERTError):
    """The caller sent something we will not process."""

    code = "invalid_input"


class NoTextsError(InputError):
    """A list of texts is empty."""

    code = "no_texts"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"texts is empty; send 1 to {limit}", param="texts")


class TextTooLongError(InputError):
    """A text has more tokens than the model accepts, and truncation is off."""

    code = "text_too_long"

    def __init__(self, *, index: int, tokens: int, limit: int, or_more: bool = False) -> None:
        """`or_more` says that counting stopped at `tokens`, because the text is huge."""
        self.index, self.tokens, self.limit, self.or_more = index, tokens, limit, or_more
        counted = f"at least {tokens}" if or_more else f"{tokens}"
        super().__init__(
            f"texts[{index}] has {counted} tokens; this model accepts {limit}{TRUNCATION_CURE}",
            param=f"texts[{index}]",
        )

    def moved(self, index: int) -> "TextTooLongError":
        """The same of another place: the tokenizer may have seen a part of the texts only."""
        return TextTooLongError(
            index=index, tokens=self.tokens, limit=self.limit, or_more=self.or_more
        )


class TooManyTextsError(InputError):
    """One request holds more texts than the limit."""

    code = "too_many_texts"

    def __init__(self, *, texts: int, limit: int) -> None:
        super().__init__(f"texts has {texts} items; one request may hold {limit}", param="texts")


class TooManyTokensError(InputError):
    """One request holds more tokens than the queue has room for, even when it is empty."""

    code = "too_many_tokens"

    def __init__(self, *, tokens: int, limit: int) -> None:
        super().__init__(
            f"texts hold {tokens} tokens; one request may hold {limit}. Send them in parts",
            param="texts",
        )


class BodyTooLargeError(InputError):
    """One request holds more bytes than the limit."""

    code = "body_too_large"

    def __init__(self, *, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes")


class EncodedBodyError(InputError):
    """The body is compressed, or encoded in some other way than JSON in UTF-8."""

    code = "encoded_body"

    def __init__(self, *, coding: str) -> None:
        super().__init__(
            f"the body is said to be {shortened(coding)!r}; send it as it is, without "
            "Content-Encoding",
            param="content-encoding",
        )


class MalformedBodyError(InputError):
    """The body is not JSON."""

    code = "malformed_body"


class UnknownTaskError(InputError):
    """The model has no head of that name."""

    code = "unknown_task"

    def __init__(self, *, task: str | None, known: list[str]) -> None:
        listed = ", ".join(known) if known else "none"
        asked = f"task {shortened(task)!r} is unknown" if task is not None else "task is required"
        super().__init__(f"{asked}; this model's tasks: {listed}", param="task")


class UnknownModelError(InputError):
    """No model of that name is served here."""

    code = "unknown_model"

    def __init__(self, *, model: str, known: list[str]) -> None:
        super().__init__(
            f"model {shortened(model)!r} is not served here; served: {', '.join(known)}",
            param="model",
        )


class UnauthorizedError(LightMBERTError):
    """The caller carries no key that is known here."""

    code = "unauthorized"

    def __init__(self) -> None:
        super().__init__("a valid key is needed: Authorization: Bearer <key>")


class ForbiddenError(LightMBERTError):
    """Nobody may do this here."""

    code = "forbidden"


class ConflictError(LightMBERTError):
    """What is asked for does not go with what is served now, or with what is being changed."""

    code = "conflict"


class OverloadedError(LightMBERTError):
    """The queue is full, or the wait too long. `retry_after_s` estimates when it will do."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(LightMBERTError):
    """The deadline that the caller set has passed; what had not run by then is not run."""

    code = "deadline_exceeded"

    def __init__(self, *, timeout_s: float) -> None:
        super().__init__(f"there was no answer within the {timeout_s * 1_000:g} ms that you set")


class NotReadyError(LightMBERTError):
    """The model is loading, or the service is shutting down."""

    code = "not_ready"


class InferenceError(LightMBERTError):
    """The model failed on a valid batch."""

    code = "inference_failed"


class ModelError(LightMBERTError):
    """A model folder is unusable."""

    code = "model_unusable"


class ManifestError(ModelError):
    """manifest.json is missing, malformed, or contradicts the files beside it."""

    code = "bad_manifest"


class VariantError(ModelError):
    """No variant fits the device asked for, or the device is not there."""

    code = "no_variant"


class SelfTestError(ModelError):
    """Golden inputs do not give the golden outputs on this machine."""

    code = "self_test_failed"


def error_types() -> tuple[type[LightMBERTError], ...]:
    """Every class of the tree, the base first: what tables and metrics are checked against.

    Classes that other modules add for files and recipes are not among them: no caller over
    HTTP ever meets one, and which of them exist depends on what was imported.
    """

    def below(parent: type[LightMBERTError]) -> list[type[LightMBERTError]]:
        children = [child for child in parent.__subclasses__() if child.__module__ == __name__]
        return [kind for child in children for kind in (child, *below(child))]

    return (LightMBERTError, *below(LightMBERTError))
