"""Tiny data sets written to a temporary folder."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

RED = (220, 30, 30)


def rectangle(shape: tuple[int, int], box: tuple[int, int, int, int], colour: tuple[int, int, int] = RED) -> np.ndarray:
    """A black (h, w, 3) RGB picture with one filled rectangle x1, y1, x2, y2, right and lower edge excluded."""
    image = np.zeros((*shape, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = colour
    return image


def line(shape: tuple[int, int], box: tuple[int, int, int, int], label: int = 0) -> str:
    """The label line of a rectangle x1, y1, x2, y2 in a picture of `shape` (h, w)."""
    x1, y1, x2, y2 = box
    height, width = shape
    return (
        f"{label} {(x1 + x2) / 2 / width:.8f} {(y1 + y2) / 2 / height:.8f} "
        f"{(x2 - x1) / width:.8f} {(y2 - y1) / height:.8f}\n"
    )


def write_picture(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image)


def write_set(
    root: Path, splits: dict[str, list[tuple[np.ndarray, str | None]]], names: str = "[a, b]", suffix: str = ".png"
) -> Path:
    """A data set: for each split its pictures (RGB) with the text of their label files (None: no file). Its yaml."""
    lines = [f"names: {names}"]
    for split, pictures in splits.items():
        lines.append(f"{split}: images/{split}")
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        for number, (image, text) in enumerate(pictures):
            write_picture(root / "images" / split / f"{split}{number:03}{suffix}", image)
            if text is not None:
                label = root / "labels" / split / f"{split}{number:03}.txt"
                label.parent.mkdir(parents=True, exist_ok=True)
                label.write_text(text)
    path = root / "data.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def many(root: Path, count: int, shape: tuple[int, int] = (60, 80)) -> Path:
    """A data set with `count` noisy training pictures, each with one rectangle at a place of its own."""
    rng = np.random.default_rng(3)
    pictures: list[tuple[np.ndarray, str | None]] = []
    for number in range(count):
        x, y = int(rng.integers(0, shape[1] - 30)), int(rng.integers(0, shape[0] - 25))
        box = (x, y, x + int(rng.integers(8, 30)), y + int(rng.integers(8, 25)))
        image = rng.integers(0, 80, (*shape, 3)).astype(np.uint8)
        image[box[1] : box[3], box[0] : box[2]] = RED
        pictures.append((image, line(shape, box, number % 2)))
    return write_set(root, {"train": pictures, "val": pictures[:2]})
