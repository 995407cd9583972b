"""A cfg as the widest circle of Darknet readers understands it; written by `save_darknet`.

What readers disagree about is said in the form all of them read. Measured with OpenCV 4.14's importer, the strictest.
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
        _write_out_defaults(section)
        layers += _chain(section) if section.kind == "shortcut" else _one_route_per_input(section)
        layers.append(section)
    return Cfg(cfg.net, layers, cfg.source)


def _chain(section: Section) -> list[Section]:
    """Sections to put before a `[shortcut]` so that each adds one layer; the last one carries the activation."""
    links = []
    while len(section.inputs) > 2:
        link = Section(
            "shortcut",
            {"from": "", "activation": "linear"},
            inputs=section.inputs[:2],
            source=section.source,
            relative=section.relative[:1],
        )
        section.inputs = [link, *section.inputs[2:]]
        section.relative = section.relative[1:]
        links.append(link)
    return links


def _one_route_per_input(section: Section) -> list[Section]:
    if section.kind != "route" or len(section.inputs) < 2 or section.int("groups", 1) == 1:
        return []
    split: dict[str, str] = {key: section.options.pop(key) for key in ("groups", "group_id") if key in section.options}
    parts = [
        Section("route", {"layers": "", **split}, inputs=[source], source=section.source, relative=[True])
        for source in section.inputs
    ]
    section.inputs, section.relative = list(parts), [True] * len(parts)
    return parts


def _write_out_defaults(section: Section) -> None:
    options = section.options
    if section.kind == "convolutional":
        options.setdefault("activation", "logistic")
    if section.kind == "upsample":
        options.setdefault("stride", "2")
    if section.kind in ("convolutional", "maxpool", "reorg"):
        across = options.pop("stride_x", None)
        options.pop("stride_y", None)  # equal to stride_x, or the network could not have been built
        options["stride"] = across or options.get("stride", "1")
    if section.kind == "maxpool":
        options.setdefault("size", options["stride"])


def opencv_problems(cfg: Cfg) -> list[str]:
    """What in a `portable` cfg OpenCV 4's importer refuses or reads wrongly, as ends of a sentence."""
    problems = []
    for number, section in enumerate(cfg.layers):
        at = f"(layer {number}, [{section.kind}])"
        act = section.str("activation", "linear")
        if act not in OPENCV_ACTIVATIONS:
            problems.append(f"knows no activation={act} {at}")
        if section.kind == "convolutional" and section.int("dilation", 1) > 1 and section.int("size", 1) > 1:
            problems.append(f"ignores dilation={section.str('dilation')} {at}")
        if section.kind == "reorg" and section.int("reverse", 0):
            problems.append(f"ignores reverse=1 {at}")
        if section.kind == "scale_channels" and section.int("scale_wh", 0):
            problems.append(f"knows no scale_wh=1 {at}")
    return problems
