"""What a cut did: what was asked, what went, and what held the rest back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class PruneReport:
    """Plain data about one call of `prune.channels`, `prune.shortcuts` or `prune.prune`.

    Attributes:
        asked: the options that were given.
        channels, params, macs: (before, after), of the whole network; channels are output channels of convolutions;
            MACs are multiply-adds of the convolutions at `size`.
        size: (H, W) of the network input.
        layers: convolution's layer number -> (channels before, after); after is 0 where its block was removed.
        fixed: channels of convolutions that may never go (head outputs, what passes a reshape).
        tied, carried: channels whose own gamma let them go, but a member of the tied group, or a carrying layer, did
            not.
        floored, equalised, rounded: channels brought back by the floor per layer, by equal slices, by rounding up.
        folded: number of convolutions that took in what dropped channels leave behind.
        unfolded: convolution -> dropped channels it read that are not constant (behind a gate, or without BatchNorm).
        removed_blocks: `[shortcut]` layer -> score, for those removed.
        kept_blocks: `[shortcut]` layer -> its score, or why it cannot be removed.
    """

    asked: dict[str, Any]
    channels: tuple[int, int] = (0, 0)
    params: tuple[int, int] = (0, 0)
    macs: tuple[float, float] = (0, 0)
    size: tuple[int, int] = (0, 0)
    layers: dict[int, tuple[int, int]] = field(default_factory=dict)
    fixed: int = 0
    tied: int = 0
    carried: int = 0
    floored: int = 0
    equalised: int = 0
    rounded: int = 0
    folded: int = 0
    unfolded: dict[str, int] = field(default_factory=dict)
    removed_blocks: dict[int, float] = field(default_factory=dict)
    kept_blocks: dict[int, float | str] = field(default_factory=dict)

    @property
    def removed(self) -> int:
        """Output channels of convolutions that went."""
        return self.channels[0] - self.channels[1]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for a checkpoint or JSON."""
        return asdict(self)

    def text(self) -> str:
        """A few lines for the log."""
        asked = ", ".join(f"{key}={value}" for key, value in self.asked.items() if value not in (None, (), 0))
        lines = [
            f"asked: {asked}",
            _line("channels", *self.channels),
            _line("parameters", *self.params),
            _line(f"MACs at {self.size[0]}x{self.size[1]}", *self.macs),
        ]
        if self.removed_blocks:
            blocks = ", ".join(f"{layer} ({score:.4g})" for layer, score in self.removed_blocks.items())
            lines.append(f"shortcut blocks removed (mean |gamma|): {blocks}")
        held = {"fixed": self.fixed, "held by ties": self.tied, "held by carriers": self.carried,
                "held by the floor": self.floored, "held by equal slices": self.equalised, "rounded up": self.rounded}
        shown = ", ".join(f"{count} {what}" for what, count in held.items() if count)
        if shown:
            lines.append(f"channels that stayed: {shown}")
        lines.append(f"constants folded into {self.folded} convolutions")
        if self.unfolded:
            places = ", ".join(f"{name} ({count})" for name, count in self.unfolded.items())
            lines.append(f"not folded, for the dropped channels are not constant there: {places}")
        return "\n".join(lines)


def _line(what: str, before: float, after: float) -> str:
    share = 100 * (1 - after / before) if before else 0.0
    return f"{what}: {before:,.0f} -> {after:,.0f} (-{share:.1f} %)"
