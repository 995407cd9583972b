"""What passes between the trainer and an objective."""

from __future__ import annotations

import pytest
import torch

from engine.seams import Terms


def test_total_is_the_weighted_sum_and_a_term_without_a_weight_counts_once() -> None:
    terms = Terms({"a": torch.tensor(2.0), "b": torch.tensor(5.0)}, {"a": 3.0, "elsewhere": 9.0})
    assert float(terms.total()) == 11.0
    assert float(terms.total(["a"])) == 6.0


def test_shares_are_of_the_weighted_total_and_have_no_gradient() -> None:
    value = torch.tensor(1.0, requires_grad=True)
    shares = Terms({"a": value, "b": 2 * value}, {"a": 6.0}).shares()
    assert {name: share.item() for name, share in shares.items()} == pytest.approx({"a": 0.75, "b": 0.25})
    assert not any(share.requires_grad for share in shares.values())


def test_shares_of_nothing_are_numbers() -> None:
    assert Terms({"a": torch.tensor(0.0)}).shares()["a"].item() == 0


def test_of_two_terms_of_one_name_the_later_counts_and_both_stay_as_they_are() -> None:
    one, other = Terms({"a": torch.tensor(1.0)}, {"a": 2.0}), Terms({"a": torch.tensor(3.0)}, {}, {"m": torch.ones(())})
    both = one | other
    assert float(both.total()) == 6.0
    assert both.metrics.keys() == {"m"}
    assert float(one.total()) == 2.0
