"""What a cut did, in sentences for somebody who has never pruned a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

_NOTHING = "nothing to solve"  # is told where it says more: by the gammas
LAYERS = 3
"""Named of those that were cut most, and least."""
_BUDGETS = {
    "params": "of the parameters",
    "flops": "of the multiply-adds",
    "macs": "of the multiply-adds",
    "channels": "of the channels",
    "latency": "of the latency",
}
_HELD = {
    "tied": "because a shortcut or a gate adds or multiplies them with channels that are needed",
    "carried": "because a layer that works on each channel by itself carries them on",
    "floored": "so that no layer is left with next to nothing",
    "equalised": "because the layer has to have equally many in every slice",
    "rounded": "to keep widths a multiple that computers like",
}


def cut_in_words(cut: Mapping[str, Any], layers: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Sentences on a cut.

    Args:
        cut: `prune.report.PruneReport` as plain data.
        layers: a row a convolution: "layer", "channels before", "channels after".
    """
    said = [_asked(cut.get("asked", {}))]
    parts = [_left("channels", cut["channels"]), _left("parameters", cut["params"])]
    said.append(f"Of {', of '.join([*parts, _left('multiply-adds a picture', cut['macs'])])}.")
    if blocks := cut.get("removed_blocks"):
        which = ", ".join(map(str, blocks))
        said.append(
            f"{len(blocks)} shortcut block{'s' * (len(blocks) > 1)} (layer {which}) went as a whole: what went round "
            "them goes straight on now."
        )
    live, removed = cut.get("gammas") or (0, 0)
    if removed and live:
        said.append(
            f"{live:,} of the {removed:,} scales that went were still in use; they had {cut['alive']:.1%} of all. What "
            "they did the fine-tune has to make good.".replace("%", " %")
        )
    elif removed:
        said.append("All that went had been switched off in sparsity training, so that taking it out changed nothing.")
    said += _deepest([row for row in layers if row["channels before"]])
    for name, why in _HELD.items():
        if count := cut.get(name):
            one = count == 1
            said.append(
                f"{count:,} channel{'' if one else 's'} that could have gone {'was' if one else 'were'} kept {why}."
            )
    more = [line for line in (*cut.get("solved", ())[:1], *cut.get("notes", ())) if not line.startswith(_NOTHING)]
    said += [f"{line[:1].upper()}{line[1:]}." for line in more]
    return [sentence for sentence in said if sentence]


def _asked(asked: Mapping[str, Any]) -> str:
    parts = []
    kind, _, share = str(asked.get("budget") or "").partition("=")
    if share:
        with suppress(ValueError):
            share = f"{100 * float(share):.4g} %"
        parts.append(f"at most {share} {_BUDGETS.get(kind, f'of {kind}')} to be left")
    if asked.get("ratio"):
        parts.append(f"{100 * float(asked['ratio']):.4g} % of the scores to go")
    if asked.get("max_drop"):
        parts.append(f"as deep a cut as costs no more than {asked['max_drop']} mAP50-95 before any training")
    shortcuts = asked.get("shortcuts")
    if shortcuts == "auto":
        parts.append("shortcut blocks to go where that is cheaper than channels")
    elif shortcuts:
        parts.append(f"{shortcuts} shortcut block{'s' * (shortcuts != 1)} to go")
    return f"Asked for: {', and '.join(parts)}." if parts else ""


def _left(what: str, pair: Sequence[float]) -> str:
    before, after = pair
    share = f" ({after / before:.1%})".replace("%", " %") if before else ""
    return f"{before:,.0f} {what} {after:,.0f} are left{share}"


def _deepest(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The layers of which least and most is left."""

    def share(row: Mapping[str, Any]) -> float:
        return float(row["channels after"] / row["channels before"])

    def named(some: Sequence[Mapping[str, Any]]) -> str:
        return ", ".join(f"{row['layer']} ({row['channels before']} → {row['channels after']})" for row in some)

    cut = sorted((row for row in rows if 0 < row["channels after"] < row["channels before"]), key=share)
    whole = sum(row["channels after"] == row["channels before"] for row in rows)
    said = [f"Cut deepest: layer {named(cut[:LAYERS])}."] if cut else []
    if len(cut) > LAYERS:
        said.append(f"Cut least: layer {named(cut[: -LAYERS - 1 : -1])}; {whole} of {len(rows)} layers stay whole.")
    return said
