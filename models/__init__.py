"""A cfg becomes a network: text <-> sections, layers, heads, weights, checkpoints, costs, lineage."""

from typing import TYPE_CHECKING

from common.lazy import lazily

if TYPE_CHECKING:
    from models.assign.by_shape import assign
    from models.cfg import Cfg, Section, parse_cfg, read_cfg
    from models.checkpoint import available_cfgs, cfg_path, from_checkpoint, load, read_checkpoint, save, transfer
    from models.dropping import drop_heads, only_heads
    from models.heads.anchored import AnchoredSpec
    from models.heads.free import FreeSpec
    from models.heads.spec import HeadSpec
    from models.inference import for_inference
    from models.initial import init_heads, init_weights
    from models.lineage import compose, descend, entry_for, identity_lineage, identity_step, kept_channels, known_as
    from models.load_report import LoadReport
    from models.loss.anchored import DetectionLoss
    from models.loss.criterion import Criterion, criterion
    from models.network import Network
    from models.portable import opencv_problems, portable
    from models.spec import HeadMatches, Matches, Outputs, Places
    from models.summary import (
        LayerCost,
        fingerprint,
        full_digest,
        layer_table,
        macs,
        megabytes,
        parameters,
        weights_bytes,
    )
    from models.timm_lower import lowered
    from models.weights import load_darknet, save_darknet

__all__ = [
    "AnchoredSpec",
    "Cfg",
    "Criterion",
    "DetectionLoss",
    "FreeSpec",
    "HeadMatches",
    "HeadSpec",
    "LayerCost",
    "LoadReport",
    "Matches",
    "Network",
    "Outputs",
    "Places",
    "Section",
    "assign",
    "available_cfgs",
    "cfg_path",
    "compose",
    "criterion",
    "descend",
    "drop_heads",
    "entry_for",
    "fingerprint",
    "for_inference",
    "from_checkpoint",
    "full_digest",
    "identity_lineage",
    "identity_step",
    "init_heads",
    "init_weights",
    "kept_channels",
    "known_as",
    "layer_table",
    "load",
    "load_darknet",
    "lowered",
    "macs",
    "megabytes",
    "only_heads",
    "opencv_problems",
    "parameters",
    "parse_cfg",
    "portable",
    "read_cfg",
    "read_checkpoint",
    "save",
    "save_darknet",
    "transfer",
    "weights_bytes",
]

lazily(__name__)
