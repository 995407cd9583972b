"""How a picture is brought to the size of the network's input: it belongs to a network as its weights do.

`[net] letter_box=` says it, in Darknet's words: 1 keeps the picture's aspect and fills the rest, 0 stretches it.
Darknet stretches where a cfg says nothing; here that means letterbox, for so is every network trained here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.log import log

if TYPE_CHECKING:
    from pathlib import Path

    from models.cfg import Section
    from models.network import Network

LETTERBOX, STRETCH = "letterbox", "stretch"
RESIZE = (LETTERBOX, STRETCH)
AUTO = "auto"
KEY = "letter_box"


def resize_of(net: Section) -> str:
    """What a cfg's `[net]` section says."""
    return LETTERBOX if net.int(KEY, 1) else STRETCH


def with_resize(net: Network, way: str, weights: str | Path = "") -> Network:
    """`net`, told how its pictures are to be resized (one of `RESIZE`, or "auto": as its cfg says). In place.

    Args:
        weights: the file it was filled from: of Darknet's own, whose cfg does not say it, a hint is logged.
    """
    if way != AUTO:
        net.cfg.net.set(KEY, int(way == LETTERBOX))
    elif str(weights).endswith((".weights", ".cfg")) and KEY not in net.cfg.net.options:
        log.info(
            "%s: its cfg does not say how pictures are resized; they keep their aspect. Darknet stretches them unless "
            "the cfg it trains with says letter_box=1: if it trained these weights, --resize stretch is right",
            weights,
        )
    return net
