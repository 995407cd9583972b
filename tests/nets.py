"""Tiny cfgs that between them use every way sections can be joined. Pictures are 64 x 64, all strides divide it."""

from __future__ import annotations

NET = """
[net]
width=64
height=64
channels=3
"""


def conv(filters: int, size: int = 3, stride: int = 1, activation: str = "leaky", bn: int = 1, **more: object) -> str:
    """The text of a `[convolutional]` section."""
    extra = "".join(f"{key}={value}\n" for key, value in more.items())
    norm = "batch_normalize=1\n" if bn else ""
    shape = f"filters={filters}\nsize={size}\nstride={stride}\npad=1\n"
    return f"\n[convolutional]\n{norm}{shape}{extra}activation={activation}\n"


def yolo(mask: str, classes: int = 3, anchors: str = "6,7, 12,10, 14,22, 30,26, 40,48, 60,56", **more: object) -> str:
    """The text of a `[yolo]` section with six anchors."""
    extra = "".join(f"{key}={value}\n" for key, value in more.items())
    return f"\n[yolo]\nmask={mask}\nanchors={anchors}\nclasses={classes}\nnum=6\n{extra}"


# YOLOv3's shape: residual blocks, two heads, upsampling; strides 16 and 8.
RESIDUAL = (
    NET
    + conv(8, stride=2)
    + conv(12, stride=2)  # 0, 1
    + conv(6, 1)
    + conv(12)
    + "\n[shortcut]\nfrom=-3\nactivation=linear\n"  # 2-4
    + conv(6, 1)
    + conv(12)
    + "\n[shortcut]\nfrom=-3\nactivation=linear\n"  # 5-7
    + conv(16, stride=2)  # 8
    + conv(8, 1)
    + conv(16)
    + "\n[shortcut]\nfrom=-3\nactivation=linear\n"  # 9-11
    + conv(24, stride=2)
    + conv(16, 1)  # 12, 13
    + conv(24)
    + conv(24, 1, activation="linear", bn=0)
    + yolo("3,4,5")  # 14-16
    + "\n[route]\nlayers=-4\n"
    + conv(8, 1)
    + "\n[upsample]\nstride=2\n"  # 17-19
    + "\n[route]\nlayers=-1,11\n"
    + conv(16)
    + conv(24, 1, activation="linear", bn=0)
    + yolo("0,1,2")  # 20-23
)

# YOLOv4-tiny's shape: grouped routes, concatenations, stride-2 pools, one head at stride 16; mish in between.
CSP = (
    NET
    + conv(8, stride=2)
    + conv(16, stride=2)  # 0, 1
    + conv(16)
    + "\n[route]\nlayers=-1\ngroups=2\ngroup_id=1\n"
    + conv(8)
    + conv(8, activation="mish")  # 2-5
    + "\n[route]\nlayers=-1,-2\n"
    + conv(16, 1)
    + "\n[route]\nlayers=-6,-1\n"  # 6-8
    + "\n[maxpool]\nsize=2\nstride=2\n"  # 9
    + conv(16)
    + "\n[maxpool]\nsize=2\nstride=2\n"  # 10, 11
    + "\n[maxpool]\nsize=5\nstride=1\n\n[route]\nlayers=-1,-2\n"  # 12, 13
    + conv(16, 1, activation="mish")
    + conv(48, 1, activation="linear", bn=0)  # 14, 15
    + yolo("0,1,2,3,4,5", scale_x_y="1.05")  # 16
)

# Depthwise convolutions, a squeeze-and-excitation gate, a spatial gate, a grouped convolution, dropout; stride 8.
GATED = (
    NET
    + conv(8, stride=2)
    + conv(16, 1)
    + conv(16, stride=2, groups=16)  # 0-2
    + "\n[avgpool]\n"
    + conv(4, 1, activation="relu", bn=0)
    + conv(16, 1, activation="logistic", bn=0)  # 3-5
    + "\n[scale_channels]\nfrom=-4\nscale_wh=0\nactivation=linear\n"  # 6
    + conv(12, 1, activation="linear")
    + conv(24, 1)
    + conv(24, groups=24)  # 7-9
    + conv(12, 1, activation="linear")
    + "\n[dropout]\nprobability=.15\n"  # 10, 11
    + "\n[shortcut]\nfrom=-5\nactivation=linear\n"  # 12
    + conv(12, 1, activation="logistic")
    + "\n[sam]\nfrom=-2\nactivation=linear\n"  # 13, 14
    + conv(16, stride=2, groups=4, activation="swish")
    + conv(16, 1)  # 15, 16
    + conv(24, 1, activation="linear", bn=0)
    + yolo("3,4,5")  # 17, 18
)

# YOLOv5's shape: 6 x 6 stem, C3 blocks by routes, SPPF, logistic heads with new_coords; strides 16 and 8.
YOLOV5 = (
    NET
    + "\n[convolutional]\nbatch_normalize=1\nfilters=8\nsize=6\nstride=2\npadding=2\nactivation=swish\n"  # 0
    + conv(16, stride=2, activation="swish")  # 1
    + conv(8, 1, activation="swish")  # 2: the side branch
    + "\n[route]\nlayers=-2\n"
    + conv(8, 1, activation="swish")  # 3, 4
    + conv(8, 1, activation="swish")
    + conv(8, activation="swish")
    + "\n[shortcut]\nfrom=-3\nactivation=linear\n"  # 5-7
    + "\n[route]\nlayers=-1,2\n"
    + conv(16, 1, activation="swish")  # 8, 9
    + conv(24, stride=2, activation="swish")
    + conv(24, stride=2, activation="swish")  # 10, 11
    + conv(12, 1, activation="swish")  # 12
    + 3 * "\n[maxpool]\nsize=5\nstride=1\n"
    + "\n[route]\nlayers=-4,-3,-2,-1\n"  # 13-16
    + conv(24, 1, activation="swish")  # 17
    + conv(24, 1, activation="logistic", bn=0)
    + yolo("3,4,5", scale_x_y=2, new_coords=1)  # 18, 19
    + "\n[route]\nlayers=-3\n\n[upsample]\nstride=2\n\n[route]\nlayers=-1,10\n"  # 20-22
    + conv(16, 1, activation="swish")  # 23
    + conv(24, 1, activation="logistic", bn=0)
    + yolo("0,1,2", scale_x_y=2, new_coords=1)  # 24, 25
)

# Rare joins: several shortcut sources, unequal channels, activations on adds, reorg, a region head; stride 8.
RARE = (
    NET
    + conv(8, stride=2)
    + conv(16, activation="relu")
    + conv(12, activation="leaky")  # 0-2
    + "\n[shortcut]\nfrom=-2,-3\nactivation=leaky\n"  # 3: 12 + 16 + 8 channels -> 12
    + conv(4, 1, stride=2)
    + "\n[reorg]\nstride=2\n"  # 4, 5
    + "\n[route]\nlayers=3\n\n[maxpool]\nsize=2\nstride=2\n\n[maxpool]\nsize=2\nstride=2\n"  # 6-8
    + "\n[route]\nlayers=-1,5\n"
    + conv(16)
    + "\n[maxpool]\nsize=2\nstride=1\n"  # 9-11
    + conv(16, 1, activation="linear", bn=0)  # 12
    + "\n[region]\nanchors=0.6,0.8, 1.5,2.1\nclasses=3\ncoords=4\nnum=2\nsoftmax=1\n"  # 13
)

TINY = {"residual": RESIDUAL, "csp": CSP, "gated": GATED, "yolov5": YOLOV5, "rare": RARE}

_TOWER = """
[route]
layers={neck}

[convolutional]
batch_normalize=1
filters=8
size=3
pad=1
activation=swish

[convolutional]
filters={filters}
size=1
activation=linear
"""


def detect(classes: int = 3, bins: int = 4) -> str:
    """Two heads without anchors, of strides 8 and 16, each with a tower for sides and one for classes."""
    text = "[net]\nwidth=64\nheight=64\n"
    for neck, stride in ((0, 8), (8, 2)):  # of the second neck's convolution, a route before it
        text += "[route]\nlayers=0\n" if neck else ""
        text += f"[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride={stride}\npad=1\nactivation=swish\n"
        at = 9 if neck else 0
        text += _TOWER.format(neck=at, filters=4 * bins) + _TOWER.format(neck=at, filters=classes)
        text += f"[detect]\nlayers=-4,-1\nclasses={classes}\nbins={bins}\n"
    return text


def dual(classes: int = 3, bins: int = 1) -> str:
    """`detect`, and beside each head another that gives each object one place."""
    text = detect(classes, bins)
    for neck in (0, 9):
        text += _TOWER.format(neck=neck, filters=4 * bins) + _TOWER.format(neck=neck, filters=classes)
        text += f"[detect]\nlayers=-4,-1\nclasses={classes}\nbins={bins}\none_to_one=1\n"
    return text
