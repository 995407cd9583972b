"""The kinds of cfg sections, each declared once: its keys, how it joins what it reads, how it is written, its layer.

A new kind is a record in `KINDS` and a `models.layers.Layer`, in models/layers.py or in a module of its own. Nothing
here needs torch: a cfg is read and written without its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from common.errors import closest

if TYPE_CHECKING:
    from models.cfg import Section
    from models.layers import Layer


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Keys any section may have for Darknet's own training.
_ANYWHERE = _words("stopbackward onlyforward dont_update train_only_bn burnin_update learning_rate keep_delta_gpu")
_OFF = {"dontload": "0", "dontloadscales": "0", "smooth": "0"}


@dataclass(frozen=True)
class SectionKind:
    """What is true of every section of one kind.

    A key that changes the output and that we would ignore is worse than an error, so every key in none of the three
    lists is one.

    Attributes:
        name: the word in brackets.
        layer: loads the class of its layer, which is made of (section, channels of the inputs).
        effect: keys whose effect on the output is implemented.
        training: keys for Darknet's own training and display: kept, written back, without effect on the output.
        off: keys with an effect that is not implemented -> the one value that is accepted, which switches them off.
        reference: the key that holds layer numbers, if it has one.
        joins: what it does with several inputs: one after the other along the channels ("cat"), added to the first
            ("add"), the second one multiplied by the first ("gate").
        reads_before: does it read the section before it, besides those it references?
        unchanged: is this section's output what it reads, in eval mode?
        head: of a detection head, its family in `models.heads.FAMILIES`; its layer also takes the `HeadSpec`.
        darknet: does Darknet know it? If not, it has no place in a `.weights` file; `models.lowered` may write it out.
        make_portable: gives a section, in place, the form that all Darknet readers understand alike; returns the
            sections to put before it.
        opencv_problem: what OpenCV 4's importer refuses or reads wrongly in a section, as "ignores dilation=2".
    """

    name: str
    layer: Callable[[], type[Layer]]
    effect: frozenset[str] = frozenset()
    training: frozenset[str] = frozenset()
    off: Mapping[str, str] = field(default_factory=dict)
    reference: str = ""
    joins: Literal["", "cat", "add", "gate"] = ""
    reads_before: bool = True
    unchanged: Callable[[Section], bool] = lambda section: False
    head: str = ""
    darknet: bool = True
    make_portable: Callable[[Section], list[Section]] = lambda section: []
    opencv_problem: Callable[[Section], str] = lambda section: ""

    @property
    def main_input(self) -> int:
        """Which of a section's inputs decides the size and stride of its output."""
        return 1 if self.joins == "gate" else 0


def check(section: Section) -> None:
    """Raise `UserError` for a section kind or a key that would change the output and is not implemented."""
    kind = KINDS.get(section.kind)
    if kind is None:
        close = closest(section.kind, KINDS)
        hint = f"did you mean [{close[0]}]? " if close else ""
        raise section.error("is not a section ThinYOLO knows", todo=f"{hint}known: {', '.join(sorted(KINDS))}")
    known = kind.effect | kind.training | _ANYWHERE
    for key, value in section.options.items():
        if key in known:
            continue
        if key in kind.off:
            if not _equal(value, kind.off[key]):
                raise section.error(
                    f"{key}={value} changes the output and is not implemented",
                    key,
                    todo=f"only {key}={kind.off[key]} is accepted",
                )
            continue
        close = closest(key, known | set(kind.off))
        raise section.error(
            f"{key}={value}: no such key is known",
            key,
            todo=f"did you mean {close[0]}=?" if close else f"keys with an effect: {', '.join(sorted(kind.effect))}",
        )


def _equal(value: str, wanted: str) -> bool:
    try:
        return float(value) == float(wanted)
    except ValueError:
        return value == wanted


# -- what readers disagree about, measured with OpenCV 4.14 ----------------------------------------------------------


def _one_stride(section: Section) -> list[Section]:
    options = section.options
    across = options.pop("stride_x", None)
    options.pop("stride_y", None)  # equal to stride_x, or the network could not have been built
    options["stride"] = across or options.get("stride", "1")
    return []


def _portable_convolution(section: Section) -> list[Section]:
    section.options.setdefault("activation", "logistic")
    return _one_stride(section)


def _portable_pool(section: Section) -> list[Section]:
    _one_stride(section)
    section.options.setdefault("size", section.options["stride"])
    return []


def _portable_upsample(section: Section) -> list[Section]:
    section.options.setdefault("stride", "2")
    return []


def _chain(section: Section) -> list[Section]:
    """Shortcuts that add one layer each; the last one carries the activation. OpenCV adds the first source only."""
    links = []
    while len(section.inputs) > 2:
        link = section.sibling(
            "shortcut", {"from": "", "activation": "linear"}, section.inputs[:2], section.relative[:1]
        )
        section.inputs = [link, *section.inputs[2:]]
        section.relative = section.relative[1:]
        links.append(link)
    return links


def _one_route_per_input(section: Section) -> list[Section]:
    """Of a route with groups and several inputs, which OpenCV refuses."""
    if len(section.inputs) < 2 or section.int("groups", 1) == 1:
        return []
    split: dict[str, str] = {key: section.options.pop(key) for key in ("groups", "group_id") if key in section.options}
    parts = [section.sibling("route", {"layers": "", **split}, [source], [True]) for source in section.inputs]
    section.inputs, section.relative = list(parts), [True] * len(parts)
    return parts


def _dilation_problem(section: Section) -> str:
    dilated = section.int("dilation", 1) > 1 and section.int("size", 1) > 1
    return f"ignores dilation={section.str('dilation')}" if dilated else ""


def _joins_nothing(section: Section) -> bool:
    return len(section.inputs) == 1 and section.int("groups", 1) == 1


# -- the kinds -------------------------------------------------------------------------------------------------------


def _layers() -> ModuleType:
    from models import layers

    return layers


def _timm_section() -> ModuleType:
    from models import timm_section

    return timm_section


def _no_layer() -> type[Layer]:
    raise AssertionError("[net] is the picture, not a layer")


_RECORDS = (
    SectionKind(
        "net",
        layer=_no_layer,
        effect=_words("width height channels letter_box"),
        training=_words(
            "batch subdivisions learning_rate_min momentum decay angle aspect saturation exposure hue policy steps "
            "scales seq_scales step scale gamma power burn_in max_batches max_crop min_crop flip blur mixup cutmix "
            "gaussian_noise mosaic mosaic_bound label_smooth_eps resize_step attention adversarial_lr "
            "max_chart_loss adam B1 B2 eps inputs time_steps track augment_speed sequential_subdivisions "
            "init_sequential_subdivisions num_sigmas_reject_badlabels ema_alpha badlabels_reject_threshold "
            "badlabels_rejection_percentage equidistant_point loss_scale dynamic_minibatch optimized_memory "
            "workspace_size_limit_MB batches_per_cycle batches_cycle_mult contrastive contrastive_jit_flip "
            "contrastive_color unsupervised weights_reject_freq show_receptive_field use_cuda_graph notruth"
        ),
        off=_OFF,
    ),
    SectionKind(
        "convolutional",
        layer=lambda: _layers().Conv,
        effect=_words("filters size stride stride_x stride_y pad padding groups dilation batch_normalize activation"),
        training=_words("wait_stream stream"),
        off=_OFF
        | dict.fromkeys(
            _words(
                "binary xnor flipped dot bin_output antialiasing deform rotate sway stretch stretch_sway "
                "assisted_excitation coordconv"
            ),
            "0",
        ),
        make_portable=_portable_convolution,
        opencv_problem=_dilation_problem,
    ),
    SectionKind(
        "maxpool",
        layer=lambda: _layers().MaxPool,
        effect=_words("size stride stride_x stride_y padding"),
        off=_OFF | {"maxpool_depth": "0", "antialiasing": "0"},
        make_portable=_portable_pool,
    ),
    SectionKind("avgpool", layer=lambda: _layers().AvgPool),
    SectionKind(
        "upsample",
        layer=lambda: _layers().Upsample,
        effect=_words("stride"),
        off=_OFF | {"scale": "1"},
        make_portable=_portable_upsample,
    ),
    SectionKind(
        "reorg",
        layer=lambda: _layers().Reorg,
        effect=_words("stride reverse"),
        make_portable=_one_stride,
        opencv_problem=lambda section: "ignores reverse=1" if section.int("reverse", 0) else "",
    ),
    SectionKind(
        "timm",
        layer=lambda: _timm_section().Backbone,
        effect=_words("model features widths"),
        training=_words("pretrained version"),
        darknet=False,
    ),
    SectionKind(
        "route",
        layer=lambda: _layers().Route,
        effect=_words("layers groups group_id feature"),
        training=_words("wait_stream stream"),
        off=_OFF,
        reference="layers",
        joins="cat",
        reads_before=False,
        unchanged=_joins_nothing,
        make_portable=_one_route_per_input,
    ),
    SectionKind(
        "shortcut",
        layer=lambda: _layers().Shortcut,
        effect=_words("from activation"),
        off=_OFF | {"weights_type": "none", "weights_normalization": "none", "alpha": "1", "beta": "1"},
        reference="from",
        joins="add",
        make_portable=_chain,
    ),
    SectionKind(
        "scale_channels",
        layer=lambda: _layers().ScaleChannels,
        effect=_words("from activation scale_wh"),
        reference="from",
        joins="gate",
        opencv_problem=lambda section: "knows no scale_wh=1" if section.int("scale_wh", 0) else "",
    ),
    SectionKind(
        "sam",
        layer=lambda: _layers().Gate,
        effect=_words("from activation"),
        reference="from",
        joins="gate",
    ),
    SectionKind(
        "attention",  # not one of Darknet's; layers= names the maps of the queries, the keys and the values
        layer=lambda: _layers().Attention,
        effect=_words("layers heads scale"),
        reference="layers",
        reads_before=False,
        darknet=False,
    ),
    SectionKind(
        "dropout",
        layer=lambda: _layers().Dropout,
        effect=_words("probability"),
        training=_words("dropblock dropblock_size_rel dropblock_size_abs"),
        unchanged=lambda section: True,
    ),
    SectionKind(
        "yolo",
        layer=lambda: _layers().Head,
        effect=_words("mask anchors classes num scale_x_y new_coords"),
        training=_words(
            "jitter ignore_thresh truth_thresh random resize iou_thresh iou_loss iou_thresh_kind iou_normalizer "
            "obj_normalizer cls_normalizer delta_normalizer uc_normalizer nms_kind beta_nms max_delta max "
            "counters_per_class label_smooth_eps focal_loss objectness_smooth show_details"
        ),
        head="anchored",
    ),
    SectionKind(
        "region",
        layer=lambda: _layers().Head,
        effect=_words("anchors classes num coords softmax"),
        training=_words(
            "jitter ignore_thresh thresh bias_match rescore object_scale noobject_scale class_scale coord_scale "
            "mask_scale absolute random log sqrt max focal_loss classfix"
        ),
        off=_OFF | {"background": "0"},
        head="anchored",
    ),
    SectionKind(
        "detect",  # not one of Darknet's; layers= names the map of the sides and the map of the classes
        layer=lambda: _layers().Head,
        effect=_words("layers classes bins one_to_one"),
        reference="layers",
        reads_before=False,
        head="free",
        darknet=False,
    ),
)

KINDS = {kind.name: kind for kind in _RECORDS}
