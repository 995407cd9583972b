"""How sparsity training may pull on the gammas (`prune.sparsity`), for options to read: nothing heavy is imported."""

from __future__ import annotations

SCHEDULES = ("constant", "global-decay", "local-decay")
FORMS = ("subgradient", "proximal")

# The share of the prunable channels that auto sparsity drives to zero where neither target nor budget says how many.
USUAL_TARGET = 0.7
