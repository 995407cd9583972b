"""What became of every tensor when weights met a network, and how that is said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from common.log import log
from models.cfg import Cfg
from models.heads import spec_class
from models.keys import layer_of_module
from models.network import head_feeders

MOST_LINES = 5  # of tensors that do not fit; a file of another network would fill the screen


@dataclass
class LoadReport:
    """What became of every tensor when weights met a network.

    Attributes:
        source: the file.
        loaded: names of the network's tensors that were filled.
        missing: tensors the file has nothing for; they keep their initial values.
        unfit: tensor -> why the file's values were not taken.
        shapes: of tensors whose shape is another: that in the file, and that of the network.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    def refuse(self, name: str, theirs: Sequence[int], ours: Sequence[int]) -> None:
        """The tensor `name` has another shape in the file."""
        self.shapes[name] = tuple(theirs), tuple(ours)
        self.unfit[name] = f"{list(theirs)} in the file, {list(ours)} here"

    def log(self, cfg: Cfg) -> None:
        """One line where everything fitted, or all but heads of other classes; else a warning of what did not.

        Args:
            cfg: of the network that was filled.
        """
        if not self.missing and not self.unfit:
            log.info("%s: all %d tensors loaded", self.source, len(self.loaded))
            return
        head = f"{self.source}: {len(self.loaded)} tensors loaded"
        anew, _, begin = self._other_classes(cfg)
        if begin:
            head += f"; {begin}"
        others = [name for name in self.unfit if name not in anew]
        if not others and not self.missing:
            log.info("%s", head)
            return
        lines = [head, *(f"  not loaded: {name} ({self.unfit[name]})" for name in others[:MOST_LINES])]
        if len(others) > MOST_LINES:
            lines.append(f"  not loaded: {len(others) - MOST_LINES} more tensors, of {in_layers(others[MOST_LINES:])}")
        if self.missing:
            lines.append(f"  not in the file, left at their initial values: {in_layers(self.missing)}")
        log.warning("%s", "\n".join(lines))

    def other_classes(self, cfg: Cfg) -> tuple[int, int] | None:
        """The number of classes in the file and that of the network, if that is all that does not fit."""
        anew, counts, _ = self._other_classes(cfg)
        return counts if not self.missing and anew >= set(self.unfit) else None

    def _other_classes(self, cfg: Cfg) -> tuple[set[str], tuple[int, int] | None, str]:
        """(tensors, classes there and here, sentence) of the heads, if all that tells them from the file's is that."""
        number = cfg.index()
        tensors: set[str] = set()
        counts: set[tuple[int, int]] = set()
        layers: list[int] = []
        heads = 0
        for section in cfg.heads:
            spec, here = spec_class(section), section.int("classes", 80)
            first, second = (list(spec.widths(section, classes).values()) for classes in (1, 2))
            found = False
            for feeder, least, more in zip(head_feeders(section), first, second):
                layer = number[feeder]
                own = {name: self.shapes[name] for name in self.shapes if name.startswith(f"layers.{layer}.conv.")}
                for name, (theirs, ours) in own.items():
                    step = more - least
                    if not step or theirs[1:] != ours[1:] or theirs[0] < least or (theirs[0] - least) % step:
                        continue
                    tensors.add(name)
                    counts.add((1 + (theirs[0] - least) // step, here))
                    layers.append(layer)
                    found = True
            heads += found
        if len(counts) != 1:
            return set(), None, ""
        ((before, after),) = counts
        words = "1 head starts" if heads == 1 else f"{heads} heads start"
        return tensors, (before, after), f"{before} -> {after} classes: {words} anew ({_numbered(layers)})"


def in_layers(names: Iterable[str]) -> str:
    """The layers that tensors are of, in words; names that belong to none as they are."""
    names = list(names)
    layers = [layer for name in names if (layer := layer_of_module(name)) is not None]
    others = [name for name in names if layer_of_module(name) is None]
    return ", ".join([*([_numbered(layers)] if layers else []), *others])


def _numbered(layers: Iterable[int]) -> str:
    """layers 3, 5 to 9"""
    runs: list[list[int]] = []
    for layer in sorted(set(layers)):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    told = [f"{first}" if first == last else f"{first} to {last}" for first, last in runs]
    return f"layer{'s' * (len(told) > 1 or runs[0][0] != runs[0][1])} {', '.join(told)}"
