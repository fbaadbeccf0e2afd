"""What a user would otherwise write: Optimum behind a route of ten lines.

uvicorn tests.bench.naive_app:app    (NAIVE_MODEL names the folder)
"""

import os

from fastapi import FastAPI
from optimum.onnxruntime import ORTModelForFeatureExtraction
from pydantic import BaseModel
from torch.nn.functional import normalize
from transformers import AutoTokenizer

FOLDER = os.environ["NAIVE_MODEL"]

app = FastAPI()
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = ORTModelForFeatureExtraction.from_pretrained(FOLDER, subfolder="onnx")


class Texts(BaseModel):
    texts: list[str]


@app.post("/embed")
def embed(body: Texts) -> dict[str, list[list[float]]]:
    tokens = tokenizer(body.texts, padding=True, truncation=True, return_tensors="pt")
    hidden = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    pooled = normalize((hidden * mask).sum(1) / mask.sum(1))
    return {"embeddings": pooled.tolist()}
