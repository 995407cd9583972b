"""A data set becomes batches: yaml and labels with their checks, cache, augmentation, anchors.

`data.convert` and `data.shapes` (the drawn data set) are imported by those who need them.
"""

from typing import TYPE_CHECKING

from common.lazy import lazily

if TYPE_CHECKING:
    from data.anchors import assign_to_heads, check_anchors, choose_anchors, fit_anchors
    from data.augment import letterbox
    from data.batch import Batch, Letterbox
    from data.dataset import Dataset, Sample
    from data.footage import Footage
    from data.labels import CheckReport, check, read_labels
    from data.loader import Loader, collate, make_loader
    from data.options import AugmentConfig
    from data.problems import Problem
    from data.sources import find_sources
    from data.spec import DataSpec, load_spec

__all__ = [
    "AugmentConfig",
    "Batch",
    "CheckReport",
    "DataSpec",
    "Dataset",
    "Footage",
    "Letterbox",
    "Loader",
    "Problem",
    "Sample",
    "assign_to_heads",
    "check",
    "check_anchors",
    "choose_anchors",
    "collate",
    "find_sources",
    "fit_anchors",
    "letterbox",
    "load_spec",
    "make_loader",
    "read_labels",
]

lazily(__name__)
