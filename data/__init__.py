"""A data set becomes batches: yaml and labels with their checks, cache, augmentation, anchors."""

from data.augment import AugmentConfig, letterbox
from data.batch import Batch, Letterbox
from data.dataset import Dataset, Sample
from data.labels import CheckReport, Problem, read_labels
from data.loader import collate, make_loader
from data.spec import DataSpec, load_spec

__all__ = [
    "AugmentConfig",
    "Batch",
    "CheckReport",
    "DataSpec",
    "Dataset",
    "Letterbox",
    "Problem",
    "Sample",
    "collate",
    "letterbox",
    "load_spec",
    "make_loader",
    "read_labels",
]
