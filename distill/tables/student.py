"""What a student is made of, and how it starts."""

from typing import Literal

from pydantic import PositiveInt, model_validator

from distill.tables.table import Table

SubLayer = Literal["attention", "feed-forward", "dynamic-convolution", "transformer"]
"""`transformer` is attention and then feed-forward: one layer of BERT."""


class StudentTable(Table):
    """Depth or body, measures where they are not the start's, and what is copied and frozen."""

    layers: PositiveInt | None = None
    """Layers of BERT's kind; or give `body`."""
    body: tuple[SubLayer, ...] | None = None
    """The sub-layers from the bottom to the top, each of which then counts as a layer."""
    initialisation: Literal["bottom", "every-k", "layers", "random"]
    """Which layers of the start are copied: the bottom ones; every k-th, the last among them;
    those of `copied_layers`; none."""
    copied_layers: tuple[PositiveInt, ...] | None = None
    """Layers of the start, from 1; the n-th attention and the n-th feed-forward of the student
    are copied from the n-th of them."""
    embeddings: Literal["frozen", "trained", "factorised", "random"]
    """Copied and kept as they are; copied and trained; the word table as a product of two
    factors, of which the large one is kept as it is; none copied, all trained."""
    rank: PositiveInt | None = None
    """Columns of the large factor."""
    width: PositiveInt | None = None
    """H, where it is not the start's; `heads` and `feed_forward_width` go with it."""
    heads: PositiveInt | None = None
    feed_forward_width: PositiveInt | None = None
    positions: PositiveInt | None = None
    """Rows of the position table, where the start has none to copy."""

    @model_validator(mode="after")
    def _body_is_said_once(self) -> "StudentTable":
        if (self.layers is None) == (self.body is None):
            raise ValueError("give either layers or body")
        if self.body == ():
            raise ValueError("body is empty")
        return self

    @model_validator(mode="after")
    def _copies_are_named(self) -> "StudentTable":
        if (self.copied_layers is not None) != (self.initialisation == "layers"):
            raise ValueError("copied_layers goes with initialisation = 'layers'")
        if (self.rank is not None) != (self.embeddings == "factorised"):
            raise ValueError("rank goes with embeddings = 'factorised'")
        return self

    @model_validator(mode="after")
    def _measures_go_together(self) -> "StudentTable":
        measures = (self.width, self.heads, self.feed_forward_width)
        if None not in measures and self.width % self.heads:  # type: ignore[operator]  # not None
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if len({measure is None for measure in measures}) > 1:
            raise ValueError("width, heads and feed_forward_width go together")
        if self.width is not None and self.initialisation != "random":
            raise ValueError(
                f"a body of other measures cannot be copied: initialisation = "
                f"{self.initialisation!r} must be 'random'"
            )
        return self
