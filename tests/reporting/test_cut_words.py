"""A cut in plain words."""

from __future__ import annotations

from typing import Any

from reporting.cut_words import cut_in_words

CUT: dict[str, Any] = {
    "asked": {"budget": "params=0.24", "shortcuts": 1},
    "channels": (1000, 400),
    "params": (50_000, 12_000),
    "macs": (2e6, 1e6),
    "removed_blocks": {"21": 0.1},
    "gammas": (3, 600),
    "alive": 0.012,
    "tied": 1,
    "floored": 4,
    "solved": ["solved on 8 pictures"],
    "notes": [],
}
LAYERS = [
    {"layer": number, "channels before": 64, "channels after": after}
    for number, after in enumerate((8, 0, 64, 32, 60, 50))
]


def test_what_was_asked_what_went_and_what_held_the_rest() -> None:
    said = cut_in_words(CUT, LAYERS)
    for sentence in (
        "Asked for: at most 24 % of the parameters to be left, and 1 shortcut block to go.",
        "Of 1,000 channels 400 are left (40.0 %), of 50,000 parameters 12,000 are left (24.0 %), of 2,000,000 "
        "multiply-adds a picture 1,000,000 are left (50.0 %).",
        "1 shortcut block (layer 21) went as a whole: what went round them goes straight on now.",
        "3 of the 600 scales that went were still in use; they had 1.2 % of all. What they did the fine-tune has to "
        "make good.",
        "Cut deepest: layer 0 (64 → 8), 3 (64 → 32), 5 (64 → 50).",
        "Cut least: layer 4 (64 → 60), 5 (64 → 50), 3 (64 → 32); 1 of 6 layers stay whole.",
        "1 channel that could have gone was kept because a shortcut or a gate adds or multiplies them with channels "
        "that are needed.",
        "4 channels that could have gone were kept so that no layer is left with next to nothing.",
        "Solved on 8 pictures.",
    ):
        assert sentence in said, sentence


def test_what_sparsity_training_had_switched_off_is_said_to_cost_nothing() -> None:
    said = cut_in_words({**CUT, "gammas": (0, 600), "solved": ["nothing to solve: every gamma that was removed is 0"]})
    assert any("switched off in sparsity training" in each for each in said)
    assert not any("solve" in each for each in said)
    for asked, words in (
        ({"ratio": 0.7}, "70 % of the scores to go"),
        ({"max_drop": 0.01}, "as deep a cut as costs no more than 0.01 mAP50-95"),
        ({"budget": "latency=0.5", "shortcuts": "auto"}, "at most 50 % of the latency to be left, and shortcut blocks"),
    ):
        assert words in cut_in_words({**CUT, "asked": asked})[0]
    assert "Asked" not in cut_in_words({**CUT, "asked": {}})[0]
