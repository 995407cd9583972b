"""Is a mode better than none, or lucky? Paired t intervals over seeds, and Holm's correction over modes.

The runs of one seed share their data order, so a mode is compared with `none` seed by seed: the difference of each pair
is one observation, and with five seeds there are five. At such counts a percentile bootstrap covers far less than it
says; Student's t covers what it says for differences that are about normal.

Student's distribution is computed here, in float64, from the regularised incomplete beta function: it is a page of
code, and a scientific library would be a large dependency for one quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Paired:
    """The mean of paired differences and what is known of it.

    Attributes:
        n: pairs.
        mean: of the differences.
        sd: their standard deviation (n - 1), NaN for one pair.
        low, high: the confidence interval of the mean; infinite for one pair, and for several that are all the same
            number but 0: then the seed changed nothing, and they are one observation.
        p: of the two-sided test that the mean is 0; NaN where the interval is infinite.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    p: float


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of at least one number; the latter NaN for a single one."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def paired(differences: Sequence[float], level: float = LEVEL) -> Paired:
    """The t interval of the mean of `differences` (Student, Biometrika 1908).

    Args:
        differences: mode - none, one number a seed; at least one.
        level: the share of such intervals that holds the true mean.
    """
    n = len(differences)
    mean, sd = mean_sd(differences)
    if n > 1 and not any(differences):
        return Paired(n, 0.0, 0.0, 0.0, 0.0, 1.0)
    if n < 2 or sd <= 1e-9 * abs(mean):
        return Paired(n, mean, sd, -math.inf, math.inf, math.nan)
    error = sd / math.sqrt(n)
    reach = t_quantile((1 + level) / 2, n - 1) * error
    return Paired(n, mean, sd, mean - reach, mean + reach, 2 * (1 - t_cdf(abs(mean) / error, n - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for there being several (Holm, Scandinavian Journal of Statistics 1979), in the given order.

    Calling a mode different where its corrected value is below .05 goes wrong for *any* mode that makes no difference
    in at most 5 % of all tables, however many modes a table has. NaN (nothing to test) stays NaN and does not count.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[place] = largest
    return corrected


def t_cdf(t: float, freedom: int) -> float:
    """P(T <= t) of Student's distribution with `freedom` >= 1 degrees: by I_x(freedom / 2, 1 / 2) at
    x = freedom / (freedom + t^2) (Abramowitz and Stegun 26.7.1)."""
    tail = 0.5 * incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)
    return 1 - tail if t > 0 else tail


def t_quantile(p: float, freedom: int) -> float:
    """The t with P(T <= t) = p, 0 < p < 1, by bisection to the last digits."""
    assert 0 < p < 1, p
    if p < 0.5:
        return -t_quantile(1 - p, freedom)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < p:
        low, high = high, 2 * high
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        low, high = (middle, high) if t_cdf(middle, freedom) < p else (low, middle)


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), 0 <= x <= 1 and a, b > 0.

    By its continued fraction (DLMF 8.17.22), evaluated from the front by Lentz's method; it converges fast below the
    distribution's mean, so above it I_x(a, b) = 1 - I_(1-x)(b, a) is used.
    """
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    tiny = 1e-300
    upper, lower = 1.0, 1 - (a + b) * x / (a + 1)
    lower = 1 / (lower if abs(lower) > tiny else tiny)
    fraction = lower
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            lower = 1 + term * lower
            lower = 1 / (lower if abs(lower) > tiny else tiny)
            upper = 1 + term / upper
            upper = upper if abs(upper) > tiny else tiny
            fraction *= upper * lower
        if abs(upper * lower - 1) < 1e-15:
            break
    return front * fraction / a
