"""A split as samples: picture plus boxes, every random choice a function of (seed, epoch, index)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from common.errors import UserError
from common.log import say_once
from data.augment import centre_boxes, fit, fitted_size, letterbox, pixel_boxes, random_sample
from data.batch import Letterbox
from data.cache import with_cache
from data.folds import folds_of
from data.labels import Scan, scan
from data.options import AugmentConfig
from data.pictures import read_picture
from data.problems import announce
from data.spec import DataSpec, load_spec
from models.resize import LETTERBOX


@dataclass(frozen=True)
class Sample:
    """One picture with its boxes.

    Attributes:
        image: ``(3, H, W)`` uint8 RGB.
        boxes: ``(n, 5)`` float32: class, cx, cy, w, h in pixels of the network input.
        index: the picture's number in the data set.
        letterbox: how the picture was fitted in; of an augmented sample only `original` and `path` mean anything.
    """

    image: Tensor
    boxes: Tensor
    index: int
    letterbox: Letterbox


class Dataset(TorchDataset[Sample]):
    """The pictures of one split at one network size.

    ``dataset[(epoch, index)]`` is varied as `augment` says, ``dataset[(epoch, index, turn)]`` in another way each turn;
    ``dataset[index]`` is the letterboxed picture as it is.

    Args:
        spec: the data set, or the path of its file.
        split: "train", "val" or "test".
        size: (H, W) of the network input.
        augment: None leaves every picture as it is.
        cache: None, "ram" or "disk": keep decoded pictures.
        seed: with (epoch, index) it fixes every random choice of a sample.
        close_mosaic_from: from this epoch on, samples are made of one picture only (no mosaic, no mixup).
        found: the pictures and their boxes, where they are known already: the split is not read then.
        folds: a sample is made of pictures of one fold only (`folds_of`), or its teacher would have seen a part of it.
        resize: how pictures are brought to `size`: as their network wants them (`Network.resize`).
        rectangles: (pictures a batch, stride): pictures go by their shape, and those of a batch are no larger than it
            takes to hold them, in multiples of the stride; without augmentation and in this order only. None: all are
            of `size`.

    Attributes:
        scan: what was read from the disk (counts, labels as shares of the picture), for `choose_anchors`.

    Raises:
        UserError: the split is empty or its labels have errors; wrong lines are named with file and line.
    """

    def __init__(
        self,
        spec: DataSpec | str | Path,
        split: str,
        size: tuple[int, int],
        augment: AugmentConfig | None = None,
        cache: str | None = None,
        seed: int = 0,
        close_mosaic_from: int | None = None,
        found: Scan | None = None,
        folds: int = 1,
        resize: str = LETTERBOX,
        rectangles: tuple[int, int] | None = None,
    ):
        self.spec = load_spec(spec)
        self.split, self.augment, self.seed, self.close_mosaic_from = split, augment, seed, close_mosaic_from
        self.size, self.resize = (int(size[0]), int(size[1])), resize
        if min(self.size) < 1:
            raise UserError(f"the network size must be positive, not {size}", todo="give --imgsz 416 or WIDTHxHEIGHT")
        if found is None:
            found = scan(self.spec, split)
            if found.background:
                say_once(logging.INFO, "%s: %s", split, found.counts)
            announce(self.spec, found.problems)
        self.scan = found
        self.pictures, self.shapes, self.labels = found.pictures, found.shapes, found.labels
        self._sizes = [self.size] * len(self.pictures)
        if rectangles is not None:
            assert augment is None, "augmented pictures are all of one size"
            self._arrange(*rectangles)
        self._fitted = self._make_cache(cache)
        self._fold = folds_of(len(self.pictures), folds)
        self._folds = [np.flatnonzero(self._fold == number) for number in range(folds)]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: int | tuple[int, ...]) -> Sample:
        epoch, index, *turn = map(int, key if isinstance(key, tuple) else (0, key))
        if index < 0 or index >= len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        path = str(self.pictures[index])
        if self.augment is None or not isinstance(key, tuple):
            inner, labels = self._take(index)
            image, record = letterbox(inner, self._sizes[index], path, self.resize)
            boxes = pixel_boxes(labels, np.array(inner.shape[1::-1], np.float32), np.array(record.pad, np.float32))
            original = (int(self.shapes[index][0]), int(self.shapes[index][1]))
            scale = (inner.shape[1] / original[1], inner.shape[0] / original[0])
            record = Letterbox(original, scale, record.pad, path)
        else:
            rng = np.random.default_rng(np.random.SeedSequence((self.seed, epoch, index, *turn)))
            joined = self.close_mosaic_from is None or epoch < self.close_mosaic_from
            own = self._folds[self._fold[index]]
            image, boxes = random_sample(
                lambda place: self._take(int(own[place])),
                int(np.searchsorted(own, index)),
                len(own),
                self.size,
                self.augment,
                rng,
                joined,
            )
            record = Letterbox((int(self.shapes[index][0]), int(self.shapes[index][1])), (1.0, 1.0), (0.0, 0.0), path)
        return Sample(to_tensor(image), torch.from_numpy(centre_boxes(boxes)), index, record)

    def _arrange(self, batch: int, step: int) -> None:
        """Sort the pictures by height to width, and give each batch of them the size that its largest ones need."""
        fitted = np.array([fitted_size((int(h), int(w)), self.size, self.resize) for h, w in self.shapes]).reshape(
            -1, 2
        )
        order = np.argsort(fitted[:, 0] / fitted[:, 1], kind="stable")
        self.pictures = [self.pictures[place] for place in order]
        self.labels = [self.labels[place] for place in order]
        self.shapes, fitted = self.shapes[order], fitted[order]
        for start in range(0, len(order), batch):
            height, width = (int(-(-side // step) * step) for side in fitted[start : start + batch].max(0))
            self._sizes[start : start + batch] = [(height, width)] * len(order[start : start + batch])

    def _take(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._fitted(index), self.labels[index]

    def _fetch(self, index: int) -> np.ndarray:
        path = self.pictures[index]
        image = read_picture(path, self.spec.pixel_range)
        if image.shape[:2] != tuple(self.shapes[index]):
            raise UserError(
                f"the picture is {image.shape[1]} x {image.shape[0]}, but was {self.shapes[index][1]} x "
                f"{self.shapes[index][0]} when it was checked",
                where=path,
                todo="do not change pictures during a run",
            )
        return fit(image, self.size, self.resize)

    def _make_cache(self, kind: str | None) -> Callable[[int], np.ndarray]:
        keys = []
        if kind == "disk":
            for path in self.pictures:
                status = path.stat()
                way = "" if self.resize == LETTERBOX else f"|{self.resize}"
                keys.append(
                    f"{path}|{status.st_size}|{status.st_mtime_ns}|{self.size}|{cv2.__version__}"
                    f"|{self.spec.pixel_range}{way}"
                )
        else:
            keys = [str(path) for path in self.pictures]
        sizes = [3 * int(np.prod(fitted_size((int(h), int(w)), self.size, self.resize))) for h, w in self.shapes]
        return with_cache(kind, self._fetch, keys, sizes)


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> ``(3, H, W)`` uint8 tensor, channels last in memory as networks are trained."""
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
