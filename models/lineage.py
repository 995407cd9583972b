"""Where a student's channels come from, as plain data.

A lineage is a list with an entry per ancestor, oldest first::

    {"sha256": fingerprint of the ancestor, "kind": "baseline" | "sparse" | "pruned" | ...,
     "parameters": its own, "layers": {"12": {"layer": 15, "kept": [0, 3, 4]}},
     "cut": what pruning it was asked for and did, where it was pruned}

which says: channel k of the student's convolution 12 is channel ``kept[k]`` of the ancestor's convolution 15. A
convolution inside a `[timm]` section is called as in `Network.conv_modules`: "0.model.layer1.0.conv1", on both sides.
Earlier versions called an ancestor by its `full_digest`; `known_as` looks for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from models.keys import ConvKey, layer_of, moved_key
from models.network import Network
from models.summary import fingerprint, full_digest, parameters

Entry = dict[str, Any]
Lineage = list[Entry]
# New convolution -> (the convolution it was, the channels it kept).
Step = Mapping[ConvKey, tuple[ConvKey, Iterable[int]]]


def identity_step(net: Network) -> dict[ConvKey, tuple[ConvKey, list[int]]]:
    """The step that changes nothing: training only."""
    return {key: (key, list(range(conv.out_channels))) for key, conv in net.conv_modules.items()}


def renumbering(net: Network, moved: Mapping[int, int]) -> dict[ConvKey, tuple[ConvKey, range]]:
    """The step that keeps all channels of `net`'s layers ``moved.values()`` under new layer numbers (the keys)."""
    new_number = {old: new for new, old in moved.items()}
    found: dict[ConvKey, tuple[ConvKey, range]] = {}
    for key, conv in net.conv_modules.items():
        if layer_of(key) in new_number:
            found[moved_key(key, new_number)] = (key, range(conv.out_channels))
    return found


def compose(lineage: Lineage, step: Step) -> Lineage:
    """The lineage after `step`: every ancestor as seen from the new network.

    A convolution an ancestor does not know (its layer was new) has no row in that ancestor's entry.
    """
    composed = []
    for entry in lineage:
        layers = {}
        for new, (old, kept) in step.items():
            row = entry["layers"].get(str(old))
            if row is not None:
                layers[str(new)] = {"layer": row["layer"], "kept": [row["kept"][channel] for channel in kept]}
        composed.append({**entry, "layers": layers})
    return composed


def entry_for(parent: Network, kind: str, step: Step) -> Entry:
    """The entry that names `parent` itself as an ancestor, `step` leading from it to the new network."""
    rows = {str(new): {"layer": old, "kept": [int(channel) for channel in kept]} for new, (old, kept) in step.items()}
    return {"sha256": fingerprint(parent), "kind": kind, "parameters": parameters(parent), "layers": rows}


def identity_lineage(net: Network, kind: str) -> Entry:
    """The entry for `net` in the lineage of a network that is trained on from it, unpruned."""
    return entry_for(net, kind, identity_step(net))


def descend(parent: Network, kind: str, step: Step) -> Lineage:
    """The lineage of the network that `step` makes of `parent`: its ancestors, then itself under the name `kind`."""
    return [*compose(parent.lineage, step), entry_for(parent, kind, step)]


def known_as(lineage: Lineage, net: Network) -> str:
    """What `lineage` calls `net`: its fingerprint, or what earlier versions called it by. Its fingerprint where it is
    no ancestor."""
    own, known = fingerprint(net), {entry["sha256"] for entry in lineage}
    if own in known or not known:
        return own
    return before if (before := full_digest(net)) in known else own


def kept_channels(lineage: Lineage, ancestor: str, layer: ConvKey) -> tuple[ConvKey, list[int]]:
    """(ancestor's layer, its channels) that the student's convolution `layer` came from.

    Args:
        ancestor: what the lineage calls it (`known_as`).

    Raises:
        UserError: for a network that is no ancestor, naming those that are; KeyError for a layer without a row.
    """
    todo = "use one of these as the teacher; .weights files carry no lineage, the .pt does"
    row = entry_of(lineage, ancestor, whose="this student", todo=todo)["layers"][str(layer)]
    return row["layer"], list(row["kept"])


def entry_of(
    lineage: Lineage, ancestor: str, *, whose: str, todo: str, said: str = "", where: str | Path | None = None
) -> Entry:
    """The youngest entry of an ancestor.

    Args:
        ancestor: what the lineage calls it (`known_as`).
        whose, todo, said, where: for the message: whose lineage it is, what to do, what the network was called, which
            file holds it.

    Raises:
        UserError: for a network that is no ancestor, naming those that are.
    """
    for entry in reversed(lineage):
        if entry["sha256"] == ancestor:
            return entry
    known = ", ".join(f"{entry['kind']} ({entry['sha256'][:12]})" for entry in lineage) or "none"
    said = said or f"the network {ancestor[:12]}"
    raise UserError(f"{said} is no ancestor of {whose}; its ancestors: {known}", where=where, todo=todo)
