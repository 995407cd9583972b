"""Folds: who is taught by whom, and that no sample mixes two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from data import load_spec
from data.dataset import Dataset
from data.folds import folds_of, without_fold
from data.options import AugmentConfig
from tests.data.made import line, write_set


@pytest.mark.parametrize(("count", "folds"), [(2, 2), (7, 2), (205, 2), (1000, 3)])
def test_folds_are_of_equal_size_and_neighbours_stay_together(count: int, folds: int) -> None:
    found = folds_of(count, folds)
    sizes = np.bincount(found, minlength=folds)
    assert sizes.min() > 0
    assert np.ptp(sizes) <= max(1, count // (10 * folds) + 1) + 10
    assert (np.diff(found) != 0).sum() <= 10 * folds - 1


def test_fewer_pictures_than_folds_are_refused() -> None:
    with pytest.raises(UserError, match="1 pictures do not make 2 folds"):
        folds_of(1, 2)


def test_mosaic_and_mixup_join_pictures_of_one_fold_only(tmp_path: Path) -> None:
    """Pictures of the first fold are red, those of the second blue: no sample is both."""
    fold = folds_of(40, 2)
    shades = [(200, 0, 0) if own == 0 else (0, 0, 200) for own in fold]
    box = line((48, 48), (4, 4, 20, 20))
    pictures = [(np.full((48, 48, 3), shade, np.uint8), box) for shade in shades]
    write_set(tmp_path, {"train": pictures, "val": pictures[:1]})
    augment = AugmentConfig(mosaic=1.0, mixup=1.0, hsv_h=0.0, hsv_s=0.0, hsv_v=0.0)

    def mixed(folds: int) -> int:
        dataset = Dataset(load_spec(tmp_path / "data.yaml"), "train", (48, 48), augment, folds=folds)
        found = 0
        for index in range(40):
            image = dataset[(0, index)].image.int()
            red, blue = (image[0] > image[2] + 60).any(), (image[2] > image[0] + 60).any()
            assert folds == 1 or bool(red) == (fold[index] == 0)
            found += bool(red and blue)
        return found

    assert mixed(1) > 10, "without folds they mix"
    assert mixed(2) == 0


def test_a_teacher_is_trained_without_its_fold(tmp_path: Path) -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    box = line((8, 8), (1, 1, 5, 5))
    write_set(tmp_path, {"train": [(black + shade, box) for shade in range(6)], "val": [(black, box)]})
    spec = load_spec(tmp_path / "data.yaml")
    pictures = spec.require("train")
    left = [without_fold(spec, pictures, fold, 2).require("train") for fold in range(2)]
    assert sorted([*left[0], *left[1]]) == sorted(pictures)
    assert not set(left[0]) & set(left[1])
    assert list(left[1]) == [path for path, own in zip(pictures, folds_of(6, 2)) if own == 0]
