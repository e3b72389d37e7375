"""The learning curve as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Evaluation", "save_learning_curve"]


@dataclass(frozen=True)
class Evaluation:
    """One point of the curve; the seconds are those of training until then."""

    steps: int
    seconds: float
    mean_return: float


def save_learning_curve(path: Path, evaluations: Sequence[Evaluation], title: str) -> None:
    """Draw mean returns over environment steps and over time, side by side."""
    # A second to import, and only needed at the end. Agg draws without a screen, and a figure made
    # by hand leaves the global state of pyplot alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    by_steps, by_time = figure.subplots(1, 2, sharey=True)
    returns = [evaluation.mean_return for evaluation in evaluations]
    by_steps.plot([evaluation.steps for evaluation in evaluations], returns, marker="o")
    by_steps.set_xlabel("environment steps")
    by_steps.set_ylabel("mean evaluation return")
    by_time.plot([evaluation.seconds for evaluation in evaluations], returns, marker="o")
    by_time.set_xlabel("seconds of training")
    for axes in (by_steps, by_time):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, format="png", dpi=120)
