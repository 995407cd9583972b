"""Searches whose every step builds a network: a latency budget, and the largest prune within a drop of the score."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.errors import UserError
from common.log import log
from models.network import Network
from prune.budgets import COMPUTED
from prune.candidates import Candidates, PruneResult, Variant
from prune.importance import Losses
from prune.plan import CutPlan
from prune.reconstruct import Images, reconstruct_if_better
from prune.select import Scores, Selection

Latency = Callable[[Network], float]
Score = Callable[[Network], float]

# Steps of a latency search are at least this share of the whole network's MACs: less drowns in the noise of the clock.
_MAC_STEP = 0.005
_CLOSE = 0.01  # a latency this little below its budget ends the search
_MOST = 15  # candidates of a latency search: more would mean that the clock, not the network, decides
_PROBES = 2  # how often max_drop looks below the cliff for a score that had only dipped


@dataclass
class WithinLatency:
    """The candidate found.

    Attributes:
        variant, selection: which one.
        latency: (before, after) in the cost's unit: the least that was measured of the uncut network; of this one the
            worse of two figures, or the median of three.
        tried: a row for each measurement.
    """

    variant: Variant
    selection: Selection
    latency: tuple[float, float]
    tried: list[dict[str, Any]]


def within_latency(candidates: Candidates, cost: Latency) -> WithinLatency:
    """The lightest cut whose measured latency is within the plan's share of the uncut network's.

    Bisection over cuts that differ by half a per cent of the MACs. Clocks are noisy: the uncut network is measured
    three times, and its least figure counts. The winner has to be within the budget twice, and the worse figure counts;
    or in two of three measurements, and their median counts. While it is not, a smaller network takes its place: by as
    much smaller as the figure is too large, and by twice the last step at least. No more than 15 candidates are
    measured. The order in which channels and blocks go is that of their scores: nothing is preferred for being slow.

    Args:
        cost: from a network to its latency; the more it steadies its own figure (a median of many), the closer the
            result is to the budget. A network is measured once, and up to twice more if it wins.

    Raises:
        UserError: not even the smallest candidate is fast enough, or the clock is too noisy to tell.
    """
    kept = candidates.plan.kept
    assert kept is not None
    name, share = kept[0].name, kept[1]
    timer = _Timer(candidates, cost)
    cuts = _spaced(candidates)
    low, high = -1, len(cuts) - 1
    if timer.share(cuts[high]) > share and timer.confirmed(cuts[high], share) > share:
        raise UserError(
            f"{name}={share:g} cannot be reached: the smallest network that may be cut takes "
            f"{timer.share(cuts[high]):.3f} of the time",
            todo="lower layer_keep or round_to, remove shortcut blocks too (shortcuts='auto'), or ask for "
            "a larger share",
        )
    while high - low > 1:
        middle = (low + high) // 2
        if (found := timer.share(cuts[middle])) <= share:
            high = middle
            if found >= share * (1 - _CLOSE):
                break
        else:
            low = middle
    timer.measure_base_again()
    step = 1
    while (confirmed := timer.confirmed(cuts[high], share)) > share:
        if high == len(cuts) - 1 or timer.candidates_tried >= _MOST:
            raise UserError(
                f"{name}={share:g} was reached once, but not when measured again ({confirmed:.3f} is the "
                f"last of {timer.candidates_tried} networks)",
                todo="let nothing else run on this machine, or ask for a larger share",
            )
        wanted = candidates.estimate(cuts[high], "flops") * share / confirmed
        high = min(high + step, len(cuts) - 1)
        while high < len(cuts) - 1 and candidates.estimate(cuts[high], "flops") > wanted:
            high += 1
        step *= 2
    log.info("%s=%g: %.3f of the time, found by measuring %d networks", name, share, confirmed, timer.candidates_tried)
    variant, selection = candidates.at_cut(cuts[high])
    base = timer.base
    return WithinLatency(variant, selection, (base, confirmed * base), timer.tried)


class _Timer:
    """Measures candidates, each selection once."""

    def __init__(self, candidates: Candidates, cost: Latency):
        self.candidates, self.cost = candidates, cost
        self.tried: list[dict[str, Any]] = []
        self.known: dict[tuple[int, bytes], list[float]] = {}
        self.base = self._checked(cost(candidates.net))

    def share(self, cut: int) -> float:
        """The candidate's latency by the uncut network's, the median of what was measured; cached by what it keeps."""
        return float(np.median(self._figures(cut, 1))) / self.base

    def _figures(self, cut: int, count: int) -> list[float]:
        """At least so many figures of the candidate."""
        variant, selection = self.candidates.at_cut(cut)
        figures = self.known.setdefault((len(variant.blocks), selection.keep.tobytes()), [])
        while len(figures) < count:
            network, _ = self.candidates.network(variant, selection.keep)
            figures.append(self._checked(self.cost(network)))
            self.tried.append(
                {
                    "MACs": variant.cost.share(selection.keep, "flops"),
                    "blocks": len(variant.blocks),
                    "latency": figures[-1],
                    "share": figures[-1] / self.base,
                }
            )
        return figures

    @property
    def candidates_tried(self) -> int:
        return len(self.known)

    def measure_base_again(self) -> None:
        """The smallest of three figures is what shares are of: one that was disturbed would promise too much."""
        self.base = min([self.base, *(self._checked(self.cost(self.candidates.net)) for _ in range(2))])

    def confirmed(self, cut: int, share: float) -> float:
        """The worse of two figures where both say the same of `share`; where they do not, the median of three."""
        figures = np.array(self._figures(cut, 2)) / self.base
        if len(figures) == 2:
            if (figures <= share).all() or (figures > share).all():
                return float(figures.max())
            figures = np.array(self._figures(cut, 3)) / self.base
        return float(np.median(figures))

    @staticmethod
    def _checked(value: float) -> float:
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"the latency that cost(network) gave is {value}", todo="it has to be a positive number")
        return float(value)


def _spaced(candidates: Candidates) -> list[int]:
    """Cuts that differ by a noticeable share of the MACs, or by a block; the lightest and the heaviest included."""
    every = candidates.cuts
    some = every[np.unique(np.linspace(0, len(every) - 1, 257).round().astype(int))]
    chosen: list[int] = []
    last, blocks = math.inf, -1
    for cut in some.tolist():
        share, count = candidates.estimate(cut, "flops"), candidates.removed_at(cut)
        if last - share >= _MAC_STEP or count != blocks:
            chosen.append(cut)
            last, blocks = share, count
    return chosen if chosen[-1] == some[-1] else [*chosen, int(some[-1])]


# -- the largest prune within a drop of the score ---------------------------------------------------------------------


@dataclass
class MaxDrop:
    """The largest prune whose score stays within a drop.

    Attributes:
        result: it; its report holds the tried points too.
        base: the score of the uncut network.
        drop: how much less than `base` was allowed.
        tried: a row for each candidate: the kept share asked for, what was kept, its score, whether it is within.
    """

    result: PruneResult
    base: float
    drop: float
    tried: list[dict[str, Any]] = field(default_factory=list)

    @property
    def score(self) -> float:
        """The score of the network found."""
        return next((row["score"] for row in reversed(self.tried) if row["within"] and row["best"]), self.base)


def max_drop(
    net: Network,
    score: Score,
    plan: CutPlan | None = None,
    *,
    of: str = "params",
    tolerance: float = 0.05,
    kind: str = "sparse",
    scores: Scores | None = None,
    losses: Losses | None = None,
    images: Images | None = None,
    **options: Any,
) -> MaxDrop:
    """The largest prune whose score is at most ``max_drop`` below the uncut network's, by bisection to the cliff.

    The kept share is bisected on a logarithmic scale. Scores fall with it only roughly, so a search that ended looks
    below the first failure once more; where it finds a score within the drop it goes on from there.

    Args:
        score: from a network to its score, say the mAP on validation pictures. It may re-estimate the network's
            BatchNorm statistics first: every candidate is a network of its own, and the one returned is, bit for bit,
            the one that was scored. The uncut network is handed over as a copy.
        plan: what is asked for; its `max_drop` is how much the score may fall, absolutely.
        of: "params", "flops" or "channels": the share that is searched for.
        tolerance: the kept share is found to within this part of itself.
        images: pictures on which every candidate is solved for what `net` says before it is judged
            (`reconstruct_if_better`; `net` has to be where `score` leaves a candidate): what is within the drop may
            then be cut deeper. It costs a candidate the seconds of solving, and a second score.
        kind, scores, losses, options: as in `prune.prune`.

    Raises:
        UserError: nonsensical arguments.
    """
    wanted = CutPlan.of(plan, options)
    if wanted.max_drop is None:
        raise UserError("no max_drop is given, which decides here", todo="give the most the score may fall, as .01")
    if not 0 < tolerance < 1:
        raise UserError(f"tolerance={tolerance} has to be a part of 1")
    if of not in COMPUTED:
        raise UserError(f"of={of!r} is no share to search for", todo=f"choose from {', '.join(COMPUTED)}")
    search = _Cliff(Candidates(net, wanted, scores, losses), score, of, wanted.max_drop, kind, images)
    low, high = search.least, 1.0  # fails, or was never tried; is within the drop
    probes = _PROBES
    while True:
        while high / low > 1 + tolerance:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if search.within(middle) else (middle, high)
        below = low / (1 + tolerance) ** (1 + _PROBES - probes)
        if not probes or below <= search.least:
            break
        probes -= 1
        if search.within(below):  # the failure above was a dip
            high, low = (
                below,
                max(
                    [row["asked"] for row in search.tried if not row["within"] and row["asked"] < below],
                    default=search.least,
                ),
            )
    return search.done()


class _Cliff:
    """Scores candidates by their kept share, each selection once, and remembers the smallest within the drop."""

    def __init__(
        self, candidates: Candidates, score: Score, of: str, drop: float, kind: str, images: Images | None = None
    ):
        self.candidates, self.score, self.of, self.drop, self.kind = candidates, score, of, drop, kind
        self.images = images
        self.base = score(copy.deepcopy(candidates.net))
        self.tried: list[dict[str, Any]] = []
        self.known: dict[tuple[int, bytes], bool] = {}
        self.best: tuple[float, PruneResult] | None = None
        variant, selection = candidates.at_cut(int(candidates.cuts[-1]))
        self.least = variant.cost.share(selection.keep, of)

    def within(self, share: float) -> bool:
        """Is the candidate at this kept share within the drop?"""
        variant, selection = self.candidates.at_budget(self.of, max(share, self.least))
        key = (len(variant.blocks), selection.keep.tobytes())
        if key not in self.known:
            result = self.candidates.build(variant, selection, self.kind)
            value = self._judged(result)
            fits = self.known[key] = value >= self.base - self.drop
            kept = variant.cost.share(selection.keep, self.of)
            best = fits and (self.best is None or kept < self.best[0])
            self.tried.append(
                {
                    "asked": share,
                    "kept": kept,
                    "blocks": len(variant.blocks),
                    "score": value,
                    "within": fits,
                    "best": False,
                }
            )
            log.info(
                "%s %.4f: score %.4f (%+.4f), %s",
                self.of,
                kept,
                value,
                value - self.base,
                "within the drop" if fits else "too low",
            )
            if best:
                self.best = (kept, result)
                for row in self.tried:
                    row["best"] = row is self.tried[-1]
        return self.known[key]

    def _judged(self, result: PruneResult) -> float:
        """The candidate's score, as it was cut or, where that is better, solved."""
        if self.images is None:
            return self.score(result.network)
        solved = reconstruct_if_better(result.network, self.candidates.net, self.images, self.score)
        result.report.solved = solved.lines()
        return solved.score

    def done(self) -> MaxDrop:
        if self.best is None:  # nothing may go
            result = self.candidates.build(*self.candidates.at_budget(self.of, 1.0), self.kind)
        else:
            result = self.best[1]
        result.report.asked.pop("budget", None)
        result.report.asked |= {"max drop": self.drop, "of": self.of}
        result.report.tried = self.tried
        result.network.lineage[-1]["cut"] = result.report.cut()  # the bound, and not the share that keeps it
        return MaxDrop(result, self.base, self.drop, self.tried)
