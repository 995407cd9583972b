from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from data import cache
from data.dataset import Dataset
from data.options import AugmentConfig
from tests.data.made import many, write_picture


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_caching_changes_no_sample(tmp_path: Path, kind: str) -> None:
    path = many(tmp_path, 5)
    plain = Dataset(path, "train", (48, 64), AugmentConfig())
    cached = Dataset(path, "train", (48, 64), AugmentConfig(), cache=kind)
    for key in (0, (0, 0), (1, 4), (0, 0)):
        assert torch.equal(plain[key].image, cached[key].image)
        assert torch.equal(plain[key].boxes, cached[key].boxes)


def test_the_ram_cache_reads_no_file_again(tmp_path: Path) -> None:
    dataset = Dataset(many(tmp_path, 3), "train", (48, 64), AugmentConfig(), cache="ram")
    for picture in dataset.pictures:
        picture.unlink()
    assert dataset[(0, 1)].image.shape == (3, 48, 64)


def test_the_disk_cache_survives_damage_and_notices_changes(tmp_path: Path, own_cache: Path) -> None:
    path = many(tmp_path, 2)
    wanted = Dataset(path, "train", (48, 64), cache="disk")[0].image
    (kept,) = (own_cache / "pictures").iterdir()
    whole = kept.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # a picture still, and another one
    header = whole.replace(b"'shape': (", b"'shape': ((", 1)  # what NumPy's parser raises TokenError for
    for damage in (whole[: len(whole) // 2], b"", b"nothing", bytes(flipped), header, whole[:-4]):
        kept.write_bytes(damage)
        assert torch.equal(Dataset(path, "train", (48, 64), cache="disk")[0].image, wanted)
        assert kept.read_bytes() == whole
    write_picture(tmp_path / "images/train/train000.png", np.full((60, 80, 3), 9, np.uint8))
    assert not torch.equal(Dataset(path, "train", (48, 64), cache="disk")[0].image, wanted)


def test_too_little_memory_falls_back_to_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = many(tmp_path, 3)
    monkeypatch.setattr(cache, "free_memory", lambda: 3 * 48 * 64)
    with caplog.at_level(logging.WARNING, "thinyolo"):
        dataset = Dataset(path, "train", (48, 64), cache="ram")
    assert "3 pictures need" in caplog.text
    assert "--cache disk" in caplog.text
    assert dataset[0].image.shape == (3, 48, 64)


def test_an_unknown_kind_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ram or disk, not 'tape'"):
        Dataset(many(tmp_path, 1), "train", (48, 64), cache="tape")


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("THINYOLO_CACHE", str(tmp_path / "file"))
    dataset = Dataset(many(tmp_path, 1), "train", (48, 64), cache="disk")
    with pytest.raises(UserError, match=r"cannot be written.*\n.*THINYOLO_CACHE"):
        dataset[0]


def test_free_memory_is_known_here_and_positive() -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("no /proc/meminfo on this system")
    free = cache.free_memory()
    assert free is not None
    assert free > 0
