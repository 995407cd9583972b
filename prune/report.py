"""What a cut did: what was asked, what went, and what held the rest back; in all and layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from prune.identities import said_by_count
from prune.select import LayerHeld

# What keeps channels, as it is said in the report.
_HELD = {
    "fixed": "fixed",
    "tied": "held by ties",
    "carried": "held by carriers",
    "floored": "held by the floor",
    "equalised": "held by equal slices",
    "rounded": "rounded up",
}
_COLUMNS = ("before", "after", "asked", *_HELD, "overruled")


def set_options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Of what was asked for, what is set: not None, not empty, no count of 0. A share of 0.0, or False, is a choice."""
    nothing: tuple[Any, ...] = (None, (), [])
    return {key: each for key, each in asked.items() if each not in nothing and not (type(each) is int and each == 0)}


@dataclass
class PruneReport:
    """Plain data about one call of `prune.channels`, `prune.shortcuts` or `prune.prune`.

    Attributes:
        asked: the options that were given.
        channels, params, macs: (before, after), of the whole network; channels are output channels of convolutions;
            MACs are multiply-adds of the convolutions at `size`.
        latency: (before, after) as the given cost measured them, in its unit; None if no latency was asked for.
        size: (H, W) of the network input.
        layers: convolution's layer number -> (channels before, after); after is 0 where its block was removed.
        held: convolution of the uncut network -> what became of its channels; those of removed blocks are not in it.
        wanted: channels whose own score let them go.
        fixed: channels of convolutions that may never go (head outputs, what passes a reshape, excluded layers).
        fixed_by, equalised_by: why -> how many of those that are fixed, or held by equal slices.
        tied, carried: channels whose own score let them go, but a member of the tied group, or a carrying layer, did
            not.
        overruled: channels whose own score would have kept them, but the layer that decides for the tie let them go.
        floored, equalised, rounded: channels brought back by the floor per layer, by equal slices, by rounding up.
        folded: number of convolutions that took in what dropped channels leave behind.
        unfolded: convolution -> dropped channels it read that are not constant, so that nothing was folded for them.
        unfolded_why: the same convolutions -> why, as "a gate".
        border_error: per head, how far the network is from the fat one with the dropped gammas at 0, where somebody
            measured it (`prune.border_error`).
        removed_blocks: `[shortcut]` layer -> score, for those removed.
        kept_blocks: `[shortcut]` layer -> its score, or why it cannot be removed.
        tried: the candidates a search measured, in order: what was asked of each and what came of it.
        alive: how much of what went was in use: the sum of the removed |gamma| that were not near zero
            (`prune.sparsity.near_zero`) by the sum over all channels of the uncut network that could go. Gammas at zero
            add nothing on either side.
        gammas: (those of them, all that were removed), by number; a channel that several BatchNorms scale has several.
        notes: lines that whoever asked for the cut adds.
        solved: lines on what `prune.reconstruct` made of the thin network, where it was asked.
    """

    asked: dict[str, Any]
    channels: tuple[int, int] = (0, 0)
    params: tuple[int, int] = (0, 0)
    macs: tuple[float, float] = (0, 0)
    latency: tuple[float, float] | None = None
    size: tuple[int, int] = (0, 0)
    layers: dict[int, tuple[int, int]] = field(default_factory=dict)
    held: dict[str, LayerHeld] = field(default_factory=dict)
    wanted: int = 0
    fixed: int = 0
    fixed_by: dict[str, int] = field(default_factory=dict)
    equalised_by: dict[str, int] = field(default_factory=dict)
    tied: int = 0
    carried: int = 0
    overruled: int = 0
    floored: int = 0
    equalised: int = 0
    rounded: int = 0
    folded: int = 0
    unfolded: dict[str, int] = field(default_factory=dict)
    unfolded_why: dict[str, str] = field(default_factory=dict)
    border_error: list[float] = field(default_factory=list)
    removed_blocks: dict[int, float] = field(default_factory=dict)
    kept_blocks: dict[int, float | str] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)
    solved: list[str] = field(default_factory=list)
    alive: float = 0.0
    gammas: tuple[int, int] = (0, 0)
    notes: list[str] = field(default_factory=list)

    @property
    def removed(self) -> int:
        """Output channels of convolutions that went."""
        return self.channels[0] - self.channels[1]

    def note_held(self, layers: Mapping[str, LayerHeld]) -> None:
        """Take in what became of each convolution's channels, and their sums."""
        self.held = dict(layers)
        self.wanted = sum(row.asked for row in layers.values())
        for name in (*_HELD, "overruled"):
            setattr(self, name, sum(getattr(row, name) for row in layers.values()))
        self.fixed_by = _summed(row.fixed_by for row in layers.values())
        self.equalised_by = _summed(row.equalised_by for row in layers.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for a checkpoint or JSON."""
        return asdict(self)

    def cut(self) -> dict[str, Any]:
        """What a descendant remembers of it: what was asked for, and what there was before and after."""
        counts = {"channels": self.channels, "params": self.params, "macs": self.macs}
        return {"asked": set_options(self.asked), **counts, "size": self.size}

    def brief(self) -> str:
        """For the screen: what went and what that does; `text` says also what was asked and what held the rest."""
        lines = [
            _line("parameters", *self.params),
            _line(f"multiply-adds at {self.size[0]}x{self.size[1]}", *self.macs),
            _line("channels", *self.channels),
        ]
        if self.latency:
            before, after = self.latency
            lines.append(f"latency: {before:.4g} -> {after:.4g} ({100 * (after / before - 1):+.1f} %)")
        if self.removed_blocks:
            lines.append(f"shortcut blocks removed: layer {', '.join(map(str, self.removed_blocks))}")
        if self.gammas[0]:
            live, removed = self.gammas
            lines.append(
                f"{live} of the {removed} removed channels were still in use: they had {self.alive:.1%} of all scales "
                "(BatchNorm's |gamma|)"
            )
        return "\n".join([*lines, *self.solved[:1], *self.notes])

    def text(self, by_layer: bool = False) -> str:
        """A few lines for the log; with `by_layer` also a line for each convolution."""
        lines = [
            "asked: " + ", ".join(f"{key}={value}" for key, value in self.cut()["asked"].items()),
            _line("channels", *self.channels),
            _line("parameters", *self.params),
            _line(f"MACs at {self.size[0]}x{self.size[1]}", *self.macs),
        ]
        if self.latency:
            before, after = self.latency
            lines.append(f"latency: {before:.4g} -> {after:.4g} ({100 * (after / before - 1):+.1f} %)")
        if self.removed_blocks:
            blocks = ", ".join(f"{layer} ({score:.4g})" for layer, score in self.removed_blocks.items())
            lines.append(f"shortcut blocks removed (mean |gamma|): {blocks}")
        if self.gammas[1]:
            live, removed = self.gammas
            share = f"{self.alive:.1%} of all |gamma|"
            lines.append(f"{live} of {removed} removed channels were alive: they carried {share}")
        lines += self._what_held()
        lines.append(f"constants folded into {self.folded} convolutions")
        if self.unfolded:
            places = ", ".join(
                f"{name} ({count}, {self.unfolded_why.get(name, '?')})" for name, count in self.unfolded.items()
            )
            lines.append(f"not folded, for the dropped channels are not constant there: {places}")
        if self.border_error:
            heads = ", ".join(f"{error:.2%}" for error in self.border_error)
            lines.append(
                f"folding error: {heads} of the largest output, by head: how far the thin network is from the "
                "uncut one with the dropped gammas set to 0; padded borders make it, and what is not folded"
            )
        lines += self.solved + self.notes
        if self.tried:
            lines.append("tried:")
            lines += ["  " + ", ".join(f"{key} {_short(value)}" for key, value in row.items()) for row in self.tried]
        if by_layer and self.held:
            lines += ["", self.layer_text()]
        return "\n".join(lines)

    def _what_held(self) -> list[str]:
        lines = []
        shown = ", ".join(f"{getattr(self, name)} {what}" for name, what in _HELD.items() if getattr(self, name))
        if shown:
            lines.append(f"channels that stayed: {shown}")
        if self.fixed_by:
            lines.append(f"fixed: {said_by_count(self.fixed_by)}")
        if self.equalised_by:
            lines.append(f"held by equal slices: {said_by_count(self.equalised_by)}")
        if self.overruled:
            lines.append(f"channels that went because the first layer of their tie decided: {self.overruled}")
        most = sorted(self.held.items(), key=lambda item: -_kept_back(item[1]))[:3]
        if most and _kept_back(most[0][1]):
            places = ", ".join(
                f"{name} ({_kept_back(row)} of {row.before}: {_main_reason(row)})"
                for name, row in most
                if _kept_back(row)
            )
            lines.append(f"most held back: {places}")
        return lines

    def layer_text(self) -> str:
        """A table with a row for each convolution: its channels before and after, and what held them."""
        shown = [
            name
            for name in _COLUMNS
            if name in ("before", "after", "asked") or any(getattr(row, name) for row in self.held.values())
        ]
        rows = [["convolution", *shown]]
        rows += [[name, *(str(getattr(row, column)) for column in shown)] for name, row in self.held.items()]
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths))
            )
            for row in rows
        )


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return dict(sum((Counter(each) for each in counts), Counter()))


def _kept_back(row: LayerHeld) -> int:
    """Channels that were asked to go, or let go, and stayed."""
    return row.tied + row.carried + row.floored + row.equalised + row.rounded


def _main_reason(row: LayerHeld) -> str:
    reasons = [name for name in _HELD if name != "fixed"]
    return _HELD[max(reasons, key=lambda name: getattr(row, name))]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(what: str, before: float, after: float) -> str:
    share = 100 * (1 - after / before) if before else 0.0
    return f"{what}: {before:,.0f} -> {after:,.0f} (-{share:.1f} %)"
