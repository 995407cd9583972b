"""A cfg as the widest circle of Darknet readers understands it; written by `save_darknet`.

What readers disagree about is said in the form all of them read; `models.kinds` has what that means for each kind of
section. Measured with OpenCV 4.14's importer, the strictest.
"""

from __future__ import annotations

from models.cfg import Cfg, Section

# What OpenCV 4's Darknet importer reads; it refuses the others.
OPENCV_ACTIVATIONS = {"linear", "leaky", "relu", "logistic", "swish", "mish", "tanh"}


def portable(cfg: Cfg) -> Cfg:
    """A copy with the same outputs.

    - A `[shortcut]` with several sources becomes a chain: OpenCV adds the first source only, silently.
    - A `[route]` with groups and several inputs becomes a route per input and a joining one: OpenCV refuses it.
    - Defaults on which Darknet and OpenCV differ are written out.
    """
    cfg = cfg.copy()
    layers: list[Section] = []
    for section in cfg.layers:
        layers += [*section.facts.make_portable(section), section]
    return Cfg(cfg.net, layers, cfg.source)


def opencv_problems(cfg: Cfg) -> list[str]:
    """What in a `portable` cfg OpenCV 4's importer refuses or reads wrongly, as ends of a sentence."""
    problems = []
    for number, section in enumerate(cfg.layers):
        at = f"(layer {number}, [{section.kind}])"
        act = section.str("activation", "linear")
        if act not in OPENCV_ACTIVATIONS:
            problems.append(f"knows no activation={act} {at}")
        if problem := section.facts.opencv_problem(section):
            problems.append(f"{problem} {at}")
    return problems
