"""KD terms that cannot teach anything are said by name, and not trained through."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.log import log

PATIENCE = 50
"""Batches in a row with exactly the same value, after which a term counts as constant."""

ADVICE = {
    "not finite": "is left out of these batches; if it goes on, lower --lr0 or the term's weight (--kd {mode}:W), or "
    "use --amp off",
    "without gradient": "is not trained; leave {mode} out of --kd",
    "constant": "is not trained while it stays so; it teaches nothing here: check the teacher's mAP, or leave {mode} "
    "out of --kd",
}


class Watch(nn.Module):
    """Looks at the values of all KD terms of a batch; its memory is part of the objective's state.

    Attributes:
        reported: (term, what is wrong) pairs that were said; each is said once. What is wrong is a key of `ADVICE`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reported: set[tuple[str, str]] = set()
        self._probed: set[str] = set()
        self._last: dict[str, float] = {}
        self._equal: dict[str, int] = {}

    def check(
        self, terms: Mapping[str, Tensor], modes: Mapping[str, str], reached: Sequence[Tensor]
    ) -> tuple[set[str], set[str]]:
        """Which terms are no good in this batch, and which have been constant for too long.

        One synchronisation with a GPU, for all values at once.

        Args:
            terms: scalars by name.
            modes: term -> the mode it comes from.
            reached: what the student has put out; a term with no gradient to any of it cannot teach.

        Returns:
            The names to be left out of the loss, and those whose weight has to be 0.
        """
        if not terms:
            return set(), set()
        values = dict(zip(terms, torch.stack([term.detach().float() for term in terms.values()]).tolist()))
        bad = {name for name, value in values.items() if not math.isfinite(value)}
        for name in bad:
            self._report(name, modes[name], "not finite", f"became {values[name]}")
        learning = [each for each in reached if each.requires_grad]
        for name, term in terms.items():
            if learning and name not in bad and not self._teaches(name, term, learning):
                bad.add(name)
                self._report(name, modes[name], "without gradient", "has no gradient to the student")
        stuck = set()
        for name, value in values.items():
            if name in bad:
                continue
            self._equal[name] = self._equal.get(name, 0) + 1 if value == self._last.get(name) else 1
            self._last[name] = value
            if self._equal[name] >= PATIENCE:
                stuck.add(name)
                self._report(name, modes[name], "constant", f"has been exactly {value:g} in {PATIENCE} batches")
        return bad, stuck

    def _teaches(self, name: str, term: Tensor, learning: list[Tensor]) -> bool:
        """Whether the term depends on what the student put out. Followed through the graph once a training."""
        if not term.requires_grad:
            return False
        if name not in self._probed:
            gradients = torch.autograd.grad(term, learning, retain_graph=True, allow_unused=True)
            if all(gradient is None for gradient in gradients):
                return False
            self._probed.add(name)
        return True

    def _report(self, term: str, mode: str, kind: str, what: str) -> None:
        if (term, kind) not in self.reported:
            self.reported.add((term, kind))
            log.warning("the KD term '%s' %s: it %s", term, what, ADVICE[kind].format(mode=mode))

    # The memory is kept as plain numbers, so that no device has to be asked for them, and saved as tensors: the last
    # value, how often in a row, and for each kind of `ADVICE` whether it was said.
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name in sorted(self._last.keys() | {term for term, _ in self.reported}):
            said = [float((name, kind) in self.reported) for kind in ADVICE]
            row = [self._last.get(name, math.nan), self._equal.get(name, 0), *said]
            destination[f"{prefix}{name}"] = torch.tensor(row, dtype=torch.float64)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *_: Any) -> None:
        own = {name.removeprefix(prefix): state_dict[name] for name in state_dict if name.startswith(prefix)}
        self._last = {name: float(row[0]) for name, row in own.items()}
        self._equal = {name: int(row[1]) for name, row in own.items()}
        self.reported = {(name, kind) for name, row in own.items() for kind, said in zip(ADVICE, row[2:]) if said}
