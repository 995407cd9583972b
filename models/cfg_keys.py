"""Which keys a cfg section may have: those with an effect on the output, those for training only, those refused.

A key that changes the output and that we would ignore is worse than an error, so everything not listed here is one.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.cfg import Section

# Keys whose effect on the output is implemented.
EFFECT: dict[str, frozenset[str]] = {
    kind: frozenset(keys.split())
    for kind, keys in {
        "net": "width height channels",
        "convolutional": "filters size stride stride_x stride_y pad padding groups dilation batch_normalize activation",
        "maxpool": "size stride stride_x stride_y padding",
        "avgpool": "",
        "upsample": "stride",
        "reorg": "stride reverse",
        "timm": "model features widths",
        "route": "layers groups group_id feature",
        "shortcut": "from activation",
        "scale_channels": "from activation scale_wh",
        "sam": "from activation",
        "dropout": "probability",
        "yolo": "mask anchors classes num scale_x_y new_coords",
        "region": "anchors classes num coords softmax",
    }.items()
}

_ANYWHERE = "stopbackward onlyforward dont_update train_only_bn burnin_update learning_rate keep_delta_gpu"

# Keys for Darknet's own training and display: kept, written back, without effect on the output.
TRAINING: dict[str, frozenset[str]] = {
    kind: frozenset((keys + " " + _ANYWHERE).split())
    for kind, keys in {
        "net": "batch subdivisions learning_rate_min momentum decay angle aspect saturation exposure hue policy steps "
        "scales seq_scales step scale gamma power burn_in max_batches max_crop min_crop flip blur mixup cutmix "
        "gaussian_noise mosaic mosaic_bound letter_box label_smooth_eps resize_step attention adversarial_lr "
        "max_chart_loss adam B1 B2 eps inputs time_steps track augment_speed sequential_subdivisions "
        "init_sequential_subdivisions num_sigmas_reject_badlabels ema_alpha badlabels_reject_threshold "
        "badlabels_rejection_percentage equidistant_point loss_scale dynamic_minibatch optimized_memory "
        "workspace_size_limit_MB batches_per_cycle batches_cycle_mult contrastive contrastive_jit_flip "
        "contrastive_color unsupervised weights_reject_freq show_receptive_field use_cuda_graph notruth",
        "convolutional": "wait_stream stream",
        "maxpool": "",
        "avgpool": "",
        "upsample": "",
        "reorg": "",
        "route": "wait_stream stream",
        "shortcut": "",
        "scale_channels": "",
        "sam": "",
        "timm": "pretrained version",
        "dropout": "dropblock dropblock_size_rel dropblock_size_abs",
        "yolo": "jitter ignore_thresh truth_thresh random resize iou_thresh iou_loss iou_thresh_kind iou_normalizer "
        "obj_normalizer cls_normalizer delta_normalizer uc_normalizer nms_kind beta_nms max_delta max "
        "counters_per_class label_smooth_eps focal_loss objectness_smooth show_details",
        "region": "jitter ignore_thresh thresh bias_match rescore object_scale noobject_scale class_scale coord_scale "
        "mask_scale absolute random log sqrt max focal_loss classfix",
    }.items()
}

# Keys with an effect that is not implemented: accepted only with the value that switches them off.
OFF: dict[str, dict[str, str]] = {
    kind: {"dontload": "0", "dontloadscales": "0", "smooth": "0", **keys}
    for kind, keys in {
        "net": {},
        "convolutional": dict.fromkeys(
            (
                "binary",
                "xnor",
                "flipped",
                "dot",
                "bin_output",
                "antialiasing",
                "deform",
                "rotate",
                "sway",
                "stretch",
                "stretch_sway",
                "assisted_excitation",
                "coordconv",
            ),
            "0",
        ),
        "maxpool": {"maxpool_depth": "0", "antialiasing": "0"},
        "upsample": {"scale": "1"},
        "route": {},
        "shortcut": {"weights_type": "none", "weights_normalization": "none", "alpha": "1", "beta": "1"},
        "region": {"background": "0"},
    }.items()
}


def check(section: Section) -> None:
    """Raise `UserError` for a section kind or a key that would change the output and is not implemented."""
    if section.kind not in EFFECT:
        close = difflib.get_close_matches(section.kind, EFFECT, n=1)
        hint = f"did you mean [{close[0]}]? " if close else ""
        raise section.error("is not a section ThinYOLO knows", todo=f"{hint}known: {', '.join(sorted(EFFECT))}")
    off = OFF.get(section.kind, {})
    known = EFFECT[section.kind] | TRAINING[section.kind]
    for key, value in section.options.items():
        if key in known:
            continue
        if key in off:
            if not _equal(value, off[key]):
                raise section.error(
                    f"{key}={value} changes the output and is not implemented",
                    key,
                    todo=f"only {key}={off[key]} is accepted",
                )
            continue
        close = difflib.get_close_matches(key, known | set(off), n=1)
        raise section.error(
            f"{key}={value}: no such key is known",
            key,
            todo=f"did you mean {close[0]}=?"
            if close
            else f"keys with an effect: {', '.join(sorted(EFFECT[section.kind]))}",
        )


def _equal(value: str, wanted: str) -> bool:
    try:
        return float(value) == float(wanted)
    except ValueError:
        return value == wanted
