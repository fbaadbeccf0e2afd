"""How the cosine of a text and a label becomes a probability, fitted on labelled text.

It depends on the student: how far its embeddings spread, and how near a text comes to what
names its subject. The scale is that under which the labels of all rows are likeliest.
"""

from collections.abc import Iterable

import numpy as np
from sklearn.linear_model import LogisticRegression

from app.runtime.artifact import ZeroShot
from app.runtime.calibration import temperature_of
from distill.benchmarks import languages_in
from distill.encoders import Encoder, embeddings
from distill.labelled import read_labelled
from distill.reading import CorpusError
from distill.tables.evaluate import ZeroShotTable

_NO_PRIOR = 1e6
"""scikit-learn's C: two parameters, and a pair of text and label for each of thousands."""


def zero_shot_scale(encoder: Encoder, table: ZeroShotTable, languages: Iterable[str]) -> ZeroShot:
    """What a manifest says of labels by similarity, from all languages' rows together.

    Raises:
        CorpusError: no language has a file, one cannot be read, there is one label only, or texts
            are hardly nearer to their own labels than to others.
    """
    rows = [
        read_labelled(table.rows.of(lang)) for lang in languages_in(table.rows.folder, languages)
    ]
    labels = sorted({label for each in rows for label in each.known})
    if len(labels) < 2:
        raise CorpusError(f"{table.rows.folder} has the label {labels[0]!r} only; two are needed")
    named = embeddings(encoder, [table.template.format(label) for label in labels])  # (C, H)
    cosines = np.concatenate([embeddings(encoder, each.texts) @ named.T for each in rows])
    targets = np.concatenate([each.targets(labels) for each in rows])
    several = LogisticRegression(C=_NO_PRIOR).fit(cosines.reshape(-1, 1), targets.ravel())
    slope = float(several.coef_[0, 0])
    middle = float(-several.intercept_[0]) / slope if slope else np.inf
    if slope <= 0 or abs(middle) > 1:
        raise CorpusError(
            f"{table.rows.folder}: texts are hardly nearer to their own labels than to others; "
            "no scale makes probabilities of such cosines"
        )
    return ZeroShot(
        temperature=temperature_of(cosines, targets, "single"),
        multi_temperature=1 / slope,
        middle=middle,
    )
