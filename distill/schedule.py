"""The learning rate over a run, as a share of its peak."""

from distill.tables.train import TrainTable


def schedule(step: int, table: TrainTable) -> float:
    """Share of the peak learning rate: linear from 0, level, then linear to 0.

    Without `decay_steps` there is no level part. With it, a run may be lengthened without
    having been slowed down too early (Hu et al. 2024, arXiv:2404.06395, section 4).
    """
    if step < table.warmup_steps:
        return (step + 1) / table.warmup_steps
    decay_steps = table.decay_steps or table.steps - table.warmup_steps
    return min(1.0, (table.steps - step) / decay_steps)
