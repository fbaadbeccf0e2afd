"""The shapes that OpenAI, TEI and Infinity publish in their OpenAPI documents, said again by hand.

Stricter than they are where that can be: no key but theirs.
"""

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SWITCH: Schema = {"type": "boolean"}


def listed(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def one_of(*kinds: Schema) -> Schema:
    return {"oneOf": list(kinds)}


def fixed(*words: str) -> Schema:
    return {"enum": list(words)}


def or_null(kind: Schema) -> Schema:
    return {"anyOf": [kind, {"type": "null"}]}


def record(may_be_left_out: Schema | None = None, /, **fields: Schema) -> Schema:
    """An object with these keys and no others."""
    return {
        "type": "object",
        "required": list(fields),
        "properties": fields | (may_be_left_out or {}),
        "additionalProperties": False,
    }


VECTOR = listed(NUMBER)
EMBEDDING = record(object=fixed("embedding"), index=COUNT, embedding=one_of(VECTOR, STRING))
USAGE = record(prompt_tokens=COUNT, total_tokens=COUNT)

OPENAI_EMBEDDINGS = record(object=fixed("list"), data=listed(EMBEDDING), model=STRING, usage=USAGE)
OPENAI_MODEL = record(id=STRING, object=fixed("model"), created=COUNT, owned_by=STRING)
OPENAI_MODELS = record(object=fixed("list"), data=listed(OPENAI_MODEL))
OPENAI_ERROR = record(
    error=record(message=STRING, type=STRING, param=or_null(STRING), code=or_null(STRING))
)

PREDICTION = record(label=STRING, score=NUMBER)
TOKEN = record(id=COUNT, text=STRING, special=SWITCH, start=or_null(COUNT), stop=or_null(COUNT))
LABELS = record(
    id2label={"type": "object", "additionalProperties": STRING},
    label2id={"type": "object", "additionalProperties": COUNT},
)
TEI_EMBED = listed(VECTOR)
TEI_PREDICT = one_of(
    {**listed(PREDICTION), "minItems": 1}, {**listed(listed(PREDICTION)), "minItems": 1}
)
TEI_SIMILARITY = VECTOR
TEI_TOKENIZE = listed(listed(TOKEN))
TEI_DECODE = listed(STRING)
TEI_ERROR = record(
    error=STRING,
    error_type=fixed("Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"),
)
TEI_INFO: Schema = {
    "type": "object",  # ours tells more
    "required": [
        "model_id",
        "model_dtype",
        "model_type",
        "max_concurrent_requests",
        "max_input_length",
        "max_batch_tokens",
        "max_client_batch_size",
        "auto_truncate",
        "tokenization_workers",
        "version",
    ],
    "properties": {
        "model_id": STRING,
        "model_sha": or_null(STRING),
        "model_dtype": STRING,
        "model_type": one_of(
            record(embedding=record(pooling=STRING)),
            record(classifier=LABELS),
            record(reranker=LABELS),
        ),
        "max_concurrent_requests": COUNT,
        "max_input_length": COUNT,
        "max_batch_tokens": COUNT,
        "max_batch_requests": or_null(COUNT),
        "max_client_batch_size": COUNT,
        "auto_truncate": SWITCH,
        "tokenization_workers": COUNT,
        "version": STRING,
        "sha": or_null(STRING),
        "docker_label": or_null(STRING),
    },
}

WHEN_AND_WHICH = {"id": STRING, "created": COUNT}
INFINITY_EMBEDDINGS = record(
    WHEN_AND_WHICH,
    object=fixed("list", "embedding"),  # its document and its server say different things
    data=listed(EMBEDDING),
    model=STRING,
    usage=USAGE,
)
INFINITY_CLASSIFY = record(
    WHEN_AND_WHICH,
    object=fixed("classify"),
    data=listed(listed(PREDICTION)),
    model=STRING,
    usage=USAGE,
)
INFINITY_MODEL = record(
    {"backend": STRING, "capabilities": {**listed(STRING), "uniqueItems": True}},
    id=STRING,
    stats={"type": "object"},
    object=fixed("model"),
    owned_by=STRING,
    created=COUNT,
)
INFINITY_MODELS = record(object=fixed("list"), data=listed(INFINITY_MODEL))
INFINITY_HEALTH = record(unix=NUMBER)
INFINITY_PROBLEMS = record(
    detail=listed(record(loc=listed({"type": ["string", "integer"]}), msg=STRING, type=STRING))
)
