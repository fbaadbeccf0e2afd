"""Classification heads: those of the model folder, which live in the graph itself.

A head costs nothing beside the forward pass that feeds it, so all are always computed and a
request only says which one to read.
"""

from collections.abc import Collection

from app.errors import UnknownTaskError


def head_named(task: str | None, known: Collection[str], *, default: str | None = None) -> str:
    """The head that `task` names; without a name the only one there is, or the default one.

    Raises:
        UnknownTaskError: there is no such head, or several to choose from and no default.
    """
    if task is None and len(known) == 1:
        return next(iter(known))
    if task is None and default in known:
        task = default
    if task is None or task not in known:
        raise UnknownTaskError(task=task, known=sorted(known))
    return task
