"""What is said of how long networks were trained."""

from __future__ import annotations

import pytest

from pipeline.prune_options import PruneConfig
from pipeline.spent import epochs_after_baseline, improving, spent


def validated(scores: list[float], every: int = 1) -> list[dict[str, float]]:
    """Rows of a `results.csv`; only every so many epochs are validated, and the last."""
    rows: list[dict[str, float]] = [{"epoch": epoch + 1} for epoch in range(len(scores))]
    for row, score in zip(rows, scores):
        if row["epoch"] % every == 0 or row is rows[-1]:
            row["val/mAP50-95"] = score
    return rows


@pytest.mark.parametrize(
    ("scores", "every", "rose"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.45, 0.47, 0.50, 0.52], 1, "from 0.470 to 0.520 in the last quarter of its 8 epochs"),
        ([0.1, 0.3, 0.5, 0.52, 0.518, 0.52, 0.521, 0.519], 1, ""),
        ([0.1, 0.3, 0.5, 0.55, 0.5, 0.4, 0.45, 0.5], 1, ""),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 4, "from 0.400 to 0.800"),
        ([0.1, 0.2, 0.3, 0.4], 4, ""),
        ([], 1, ""),
    ],
)
def test_a_training_that_rose_in_its_last_quarter_was_still_improving(
    scores: list[float], every: int, rose: str
) -> None:
    said = improving(validated(scores, every))
    assert rose in said
    assert bool(said) == bool(rose)


def test_the_line_is_as_long_as_all_its_stages() -> None:
    config = PruneConfig(epochs=20, sparse_epochs=7, finetune_epochs=5, rounds=3, prune="params=0.5")
    assert epochs_after_baseline(config, ["baseline", "sparse", "prune", "student"]) == 7 + 2 * 2 + 5
    assert epochs_after_baseline(config, ["prune", "student"]) == 2 * 2 + 5
    assert epochs_after_baseline(PruneConfig(epochs=20), ["baseline", "sparse", "prune", "student"]) == 40


def test_epochs_are_told_with_their_parts() -> None:
    assert spent("baseline", [16], "student", [16, 10, 5]) == (
        "Epochs of training in this run: baseline 16, student 31 (16 + 10 + 5)."
    )
