"""How many pictures are taken at a time, and how strongly training pictures are varied, as options."""

from __future__ import annotations

from dataclasses import dataclass

from common.options import option

BATCH = 16
"""Pictures at a time, where nothing else is asked for."""


@dataclass
class AugmentConfig:
    """How strongly training pictures are varied; all zero means letterboxed pictures as they are."""

    mosaic: float = option(
        1.0,
        "probability of joining four pictures into one: more context and small objects a "
        "step, less natural scenes (switched off for the last epochs)",
        low=0,
        high=1,
    )
    mixup: float = option(
        0.0,
        "probability of blending in a second sample: helps large networks and long trainings, hurts small ones",
        low=0,
        high=1,
    )
    degrees: float = option(
        0.0, "rotation in +-degrees: for pictures without a natural 'up'; boxes get looser", low=0, high=180
    )
    translate: float = option(0.1, "shift in +-share of the picture: against learning fixed places", low=0, high=1)
    scale: float = option(
        0.5, "zoom in +-share: more range of object sizes, fewer objects at their true size", low=0, high=0.95
    )
    shear: float = option(0.0, "shear in +-degrees: for slanted views; boxes get looser", low=0, high=80)
    perspective: float = option(
        0.0, "perspective in +-share of the picture (0 to 0.3): for oblique cameras; slower", low=0, high=1
    )
    fliplr: float = option(
        0.5, "probability of mirroring left-right; 0 where sides matter (text, left or right hand)", low=0, high=1
    )
    flipud: float = option(0.0, "probability of turning upside down: for views from above", low=0, high=1)
    hsv_h: float = option(
        0.015, "hue change in +-share of the colour circle; 0 where the colour is the class", low=0, high=1
    )
    hsv_s: float = option(0.7, "saturation change in +-share: against other cameras and weather", low=0, high=1)
    hsv_v: float = option(0.4, "brightness change in +-share: against other exposures", low=0, high=1)
