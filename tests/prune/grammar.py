"""Random small networks: sentences of a grammar whose words are Darknet's sections, for hypothesis.

A network is a stem, some pieces (residual block, gate, grouped route, ...) and one or two heads, on pictures of
32 x 32. Widths are small and often odd, so that an index that is off by one rarely fits by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import strategies as st

from tests.nets import conv, yolo

SIDE = 32
WIDTHS = (4, 5, 6, 8, 9, 12)
ACTIVATIONS = ("leaky", "mish", "swish", "linear", "relu", "logistic", "elu", "tanh", "hard_mish", "relu6", "gelu")
DEEPEST = 8  # the largest stride
CLASSES = 1
T = TypeVar("T")


class Writer:
    """Writes a cfg section by section and knows each layer's map.

    Attributes:
        text: the cfg so far.
        maps: per layer (channels, stride); None for a head or a global pool, which no piece may choose to read.
        free: are its heads without anchors?
    """

    def __init__(self, draw: Callable):
        self.draw = draw
        self.text = f"[net]\nwidth={SIDE}\nheight={SIDE}\nchannels=3\n"
        self.maps: list[tuple[int, int] | None] = []
        self.width, self.stride = 3, 1
        self.free = draw(st.booleans())
        self.conv(stride=2)

    # -- words -----------------------------------------------------------------------------------------------------

    def one_of(self, choices: Sequence[T]) -> T:
        return self.draw(st.sampled_from(choices))

    def add(self, text: str, width: int | None = None, stride: int | None = None, readable: bool = True) -> None:
        """A section; it keeps the width and stride of the one before where nothing is said."""
        self.text += text
        self.width, self.stride = width or self.width, stride or self.stride
        self.maps.append((self.width, self.stride) if readable else None)

    def conv(
        self,
        filters: int = 0,
        size: int = 0,
        stride: int = 1,
        act: str = "",
        bn: int = 1,
        groups: int = 1,
        readable: bool = True,
    ) -> None:
        filters, size = filters or self.one_of(WIDTHS), size or self.one_of((3, 1))
        more = {"groups": groups} if groups > 1 else {}
        self.add(
            conv(filters, size, stride, act or self.one_of(ACTIVATIONS), bn, **more),
            filters,
            self.stride * stride,
            readable,
        )

    def refer(self, kind: str, key: str, layers: Sequence[int], width: int, stride: int, **more: object) -> None:
        """A section that names layers, half of them by their distance, as cfgs do."""
        here = len(self.maps)
        named = [self.one_of((layer - here, layer)) for layer in layers]
        extra = "".join(f"{name}={value}\n" for name, value in more.items())
        self.add(f"\n[{kind}]\n{key}={','.join(map(str, named))}\n{extra}", width, stride)

    def peers(self, stride: int | None = None) -> list[int]:
        """The layers whose map has the given stride, the present one where none is given; never the last layer."""
        wanted = stride or self.stride
        return [layer for layer, found in enumerate(self.maps[:-1]) if found is not None and found[1] == wanted]

    def width_of(self, layer: int) -> int:
        found = self.maps[layer]
        assert found is not None
        return found[0]

    def other(self) -> list[int]:
        """One or two earlier layers of the present stride."""
        return self.draw(st.lists(st.sampled_from(self.peers()), min_size=1, max_size=2, unique=True))

    # -- pieces ----------------------------------------------------------------------------------------------------

    def plain(self) -> None:
        self.conv(bn=self.one_of((1, 1, 1, 0)))

    def depthwise(self) -> None:
        self.conv(self.width * self.one_of((1, 1, 2)), 3, groups=self.width, bn=self.one_of((1, 1, 0)))
        if self.width > 2 * max(WIDTHS):
            self.conv()

    def grouped(self) -> None:
        groups = [n for n in (2, 3, 4) if self.width % n == 0 and n < self.width]
        if not groups:
            return self.conv(8)
        wanted = self.one_of(groups)
        return self.conv(wanted * self.one_of((1, 2, 3)), groups=wanted)

    def residual(self) -> None:
        """A bottleneck and the add that closes it; sometimes through a depthwise or a grouped convolution."""
        skip, width = len(self.maps) - 1, self.width
        self.conv(size=1)
        middle = self.one_of(("", "", "depthwise", "grouped"))
        if middle:
            getattr(self, middle)()
        self.conv(width)
        self.refer(
            "shortcut",
            "from",
            [skip],
            width,
            self.stride,
            activation=self.one_of(("linear", "linear", "leaky", "logistic")),
        )

    def several(self) -> None:
        """An add of any layers, of any width: only the leading channels are added."""
        if self.peers():
            self.refer(
                "shortcut", "from", self.other(), self.width, self.stride, activation=self.one_of(("linear", "mish"))
            )

    def concat(self) -> None:
        if self.peers():
            others = self.other()
            self.refer(
                "route",
                "layers",
                [len(self.maps) - 1, *others],
                self.width + sum(self.width_of(layer) for layer in others),
                self.stride,
            )
            self.narrow()

    def part(self) -> None:
        """A grouped route of one or two layers."""
        layers = [len(self.maps) - 1]
        groups = [n for n in (2, 3, 4) if self.width % n == 0]
        if not groups:
            return self.conv(8)
        wanted = self.one_of(groups)
        also = [layer for layer in self.peers() if self.width_of(layer) % wanted == 0]
        if also and self.draw(st.booleans()):
            layers.append(self.one_of(also))
        width = sum(self.width_of(layer) for layer in layers) // wanted
        return self.refer(
            "route", "layers", layers, width, self.stride, groups=wanted, group_id=self.draw(st.integers(0, wanted - 1))
        )

    def squeeze(self) -> None:
        """Squeeze and excitation, its convolutions with and without BatchNorm."""
        scaled, width, stride = len(self.maps) - 1, self.width, self.stride
        self.add("\n[avgpool]\n", readable=False)
        self.conv(4, 1, act=self.one_of(("relu", "swish")), bn=self.one_of((0, 0, 1)), readable=False)
        self.conv(width, 1, act="logistic", bn=self.one_of((0, 0, 1)), readable=False)
        self.refer(
            "scale_channels", "from", [scaled], width, stride, scale_wh=0, activation=self.one_of(("linear", "leaky"))
        )

    def spotlight(self) -> None:
        """A gate per pixel: one channel scales all."""
        scaled, width = len(self.maps) - 1, self.width
        self.conv(1, 1, act="logistic", bn=self.one_of((0, 1)), readable=False)
        self.refer("scale_channels", "from", [scaled], width, self.stride, scale_wh=1, activation="linear")

    def sam(self) -> None:
        """A gate per number."""
        scaled, width = len(self.maps) - 1, self.width
        self.conv(width, 1, act="logistic", bn=self.one_of((0, 1)))
        self.refer("sam", "from", [scaled], width, self.stride, activation="linear")

    def attention(self) -> None:
        """Attention between all places, in one to three heads, and what comes in added to it.

        Queries and keys are linear and the scale is large: a mean over all places alike is the same everywhere, and a
        BatchNorm behind it would blow the smallest difference up.
        """
        start, width, stride = len(self.maps) - 1, self.width, self.stride
        heads = self.one_of((1, 2, 3))
        each = self.one_of((1, 2, 3)) * heads
        for act, filters in (("linear", each), ("linear", each), ("", self.one_of((1, 2, 3)) * heads)):
            if len(self.maps) - 1 != start:
                self.refer("route", "layers", [start], width, stride)
            self.conv(filters, act=act, bn=self.one_of((1, 1, 1, 0)))
        values = len(self.maps) - 1
        more = {"heads": heads, "scale": 2}
        here = len(self.maps)
        self.refer("attention", "layers", [here - 5, here - 3, values], self.width, stride, **more)
        if self.draw(st.booleans()):
            self.refer("shortcut", "from", [values], self.width, stride, activation="linear")
        self.conv(width, 1)
        self.refer("shortcut", "from", [start], width, stride, activation="linear")

    def dense(self) -> None:
        """C2f: a bypass and a main part, blocks behind the main part, and all that came up is joined."""
        start, width = len(self.maps) - 1, self.width
        self.conv(size=1)
        bypass = len(self.maps) - 1
        self.refer("route", "layers", [start], width, self.stride)
        self.conv(size=1)
        seen = [bypass, len(self.maps) - 1]
        for _ in range(self.one_of((1, 2))):
            self.one_of((Writer.residual, Writer.residual, Writer.attention, Writer.plain))(self)
            seen.append(len(self.maps) - 1)
        self.refer("route", "layers", seen, sum(self.width_of(layer) for layer in seen), self.stride)
        self.conv(size=1)

    def pyramid(self) -> None:
        """SPP: pools of several sizes, side by side."""
        start = len(self.maps) - 1
        self.add("\n[maxpool]\nsize=3\nstride=1\n")
        self.refer("route", "layers", [start], self.width, self.stride)
        self.add("\n[maxpool]\nsize=5\nstride=1\n")
        self.refer("route", "layers", [len(self.maps) - 1, start + 1, start], 3 * self.width, self.stride)
        self.narrow()

    def pool(self) -> None:
        self.add(f"\n[maxpool]\nsize={self.one_of((2, 3))}\nstride=1\n")

    def drop(self) -> None:
        self.add("\n[dropout]\nprobability=.3\n")

    def down(self) -> None:
        if self.stride == DEEPEST:
            return self.plain()
        if self.draw(st.booleans()):
            return self.conv(size=3, stride=2)
        return self.add(f"\n[maxpool]\nsize={self.one_of((2, 3))}\nstride=2\n", self.width, 2 * self.stride)

    def up(self) -> None:
        """Upsampling, and the concatenation with what was there before the downsampling."""
        if self.stride <= 2 or not self.peers(self.stride // 2):
            self.down()
        if not self.peers(self.stride // 2):
            return
        self.add("\n[upsample]\nstride=2\n", self.width, self.stride // 2)
        early = self.one_of(self.peers())
        self.refer("route", "layers", [len(self.maps) - 1, early], self.width + self.width_of(early), self.stride)
        self.narrow()

    def branch(self) -> None:
        """Go on from an earlier layer, as CSP and C3 blocks do."""
        if self.peers():
            early = self.one_of(self.peers())
            self.refer("route", "layers", [early], self.width_of(early), self.stride)
            self.conv(size=1)

    def narrow(self) -> None:
        if self.width > 2 * max(WIDTHS):
            self.conv(size=1)

    def head(self) -> None:
        """The heads of one network are of one family."""
        if self.free:
            self.towers()
        else:
            self.anchors()

    def anchors(self) -> None:
        logits = self.draw(st.booleans())
        self.conv(2 * (5 + CLASSES), self.one_of((1, 3)), act="logistic" if logits else "linear", bn=0, readable=False)
        more = {"scale_x_y": 2, "new_coords": 1} if logits else {}
        self.add(yolo(self.one_of(("0,1", "2,5")), CLASSES, **more), readable=False)

    def towers(self) -> None:
        """A tower for the sides and one for the classes, the latter sometimes depthwise at first."""
        start, width, bins, ends = len(self.maps) - 1, self.width, self.one_of((1, 3)), []
        for filters in (4 * bins, CLASSES):
            if ends:
                self.refer("route", "layers", [start], width, self.stride)
                self.one_of((Writer.plain, Writer.depthwise))(self)
            self.conv()
            self.conv(filters, 1, act="linear", bn=0, readable=False)
            ends.append(len(self.maps) - 1)
        one_to_one = {"one_to_one": 1} if self.draw(st.booleans()) else {}
        self.refer("detect", "layers", ends, self.width, self.stride, classes=CLASSES, bins=bins, **one_to_one)
        self.maps[-1] = None


PIECES = (
    *[Writer.residual] * 4,
    Writer.plain,
    Writer.depthwise,
    Writer.grouped,
    Writer.several,
    Writer.concat,
    Writer.part,
    Writer.squeeze,
    Writer.spotlight,
    Writer.sam,
    Writer.attention,
    Writer.dense,
    Writer.pyramid,
    Writer.pool,
    Writer.drop,
    Writer.down,
    Writer.up,
    Writer.branch,
)


@st.composite
def cfg_texts(draw: Callable, most: int = 6) -> str:
    """The text of a random cfg of one to `most` pieces before its first head, and fewer before a second one."""
    net = Writer(draw)
    for piece in draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=most)):
        piece(net)
    net.head()
    if draw(st.booleans()):
        start = net.draw(st.sampled_from([layer for layer, found in enumerate(net.maps) if found is not None]))
        net.refer("route", "layers", [start], *net.maps[start])
        for piece in draw(st.lists(st.sampled_from(PIECES), max_size=3)):
            piece(net)
        net.head()
    return net.text
