"""What the ablation's table says of chance has to be true."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from pipeline.statistics import holm, incomplete_beta, mean_sd, paired, t_cdf, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 4, 9, 29, 300])
@pytest.mark.parametrize("p", [0.5, 0.6, 0.9, 0.975, 0.995, 0.99977, 0.2, 0.0001])
def test_t_quantile_is_scipys(freedom: int, p: float) -> None:
    assert t_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), rel=1e-9, abs=1e-12)


def test_t_cdf_and_incomplete_beta_are_scipys() -> None:
    for t in (-7.0, -1.0, 0.0, 0.3, 2.776, 40.0):
        assert t_cdf(t, 4) == pytest.approx(stats.t.cdf(t, 4), rel=1e-10)
    for x in (0.0, 1e-6, 0.1, 0.5, 0.93, 1.0):
        for a, b in ((0.5, 0.5), (2.0, 0.5), (7.5, 3.0)):
            assert incomplete_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-10, abs=1e-14)


def test_paired_is_the_textbooks_test() -> None:
    differences = [0.012, -0.004, 0.020, 0.011, 0.003]
    found = paired(differences, 0.95)
    expected = stats.ttest_1samp(differences, 0)
    interval = expected.confidence_interval(0.95)
    assert (found.mean, found.sd) == pytest.approx((np.mean(differences), np.std(differences, ddof=1)))
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, expected.pvalue))


def test_a_single_pair_says_nothing_nor_do_equal_ones() -> None:
    alone = paired([0.2])
    assert alone.mean == 0.2
    assert (alone.low, alone.high) == (-math.inf, math.inf)
    assert math.isnan(alone.p)
    assert paired([0.0, 0.0]).p == 1
    same = paired([0.3 - 0.1, 0.2])  # not the same bits
    assert (same.low, same.high) == (-math.inf, math.inf)
    assert math.isnan(same.p)
    assert mean_sd([3.0])[0] == 3
    assert math.isnan(mean_sd([3.0])[1])


def test_interval_of_five_seeds_covers_what_it_says() -> None:
    """4000 tables of five normal differences: 95 % of the intervals hold the true mean (3 standard errors: 1 %)."""
    rng = np.random.default_rng(7)
    truth, held = 0.3, 0
    for differences in rng.normal(truth, 2.0, (4000, 5)):
        found = paired(differences.tolist())
        held += found.low <= truth <= found.high
    assert held / 4000 == pytest.approx(0.95, abs=0.011)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04: times 4, 3, 2, 1 = .04 .06 .06 .04, never falling
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1, 1]
    assert holm([]) == []
    corrected = holm([0.01, math.nan, 0.02])
    assert (corrected[0], corrected[2]) == pytest.approx((0.02, 0.02))
    assert math.isnan(corrected[1])


def test_of_ten_useless_modes_one_is_called_different_in_five_percent_of_tables() -> None:
    """Ten modes against one shared `none`, nothing different: without correction a third of the tables lies."""
    rng = np.random.default_rng(11)
    tables, alone, together = 1500, 0, 0
    for _ in range(tables):
        none = rng.normal(0, 1, 5)
        p_values = [paired((rng.normal(0, 1, 5) - none).tolist()).p for _ in range(10)]
        alone += min(p_values) < 0.05
        together += min(holm(p_values)) < 0.05
    assert alone / tables > 0.15
    assert together / tables < 0.065
