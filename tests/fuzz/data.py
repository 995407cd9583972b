"""What reads data sets: labels, yaml, .data, lists, names, VOC, COCO, .mat, pictures, caches."""

from __future__ import annotations

import io
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
from PIL import Image

from common.errors import UserError
from data import check
from data.cache import DiskCache
from data.contents import pictures_digest
from data.convert import coco_to_yolo, read_names, voc_to_yolo, yolo_to_yolo
from data.convert_hand import MatFiles
from data.describe import names_listed
from data.facts import RANGELESS
from data.label_files import find_labels, read_label_files
from data.pictures import picture_facts, read_picture
from data.spec import load_spec
from tests.fuzz import Reader
from tests.fuzz.mutate import damage, damaged, write


@cache
def picture(kind: str = ".png", shape: tuple[int, ...] = (12, 16, 3), deep: bool = False) -> bytes:
    rng = np.random.default_rng(len(kind))
    values = rng.integers(0, 65536 if deep else 256, shape).astype(np.uint16 if deep else np.uint8)
    return cv2.imencode(kind, values)[1].tobytes()


@cache
def turned(kind: str) -> bytes:
    """A picture with an EXIF orientation."""
    exif = Image.Exif()
    exif[274] = 6
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


@cache
def odd(kind: str, mode: str = "RGB", frames: int = 1) -> bytes:
    """A picture of several frames, with a palette, in CMYK, with transparency."""
    rng = np.random.default_rng(len(kind))
    images = [Image.fromarray(rng.integers(0, 255, (12, 16, 3)).astype(np.uint8)).convert(mode) for _ in range(frames)]
    if mode == "RGBA":
        images[0].putalpha(99)
    buffer = io.BytesIO()
    images[0].save(buffer, kind, **({"save_all": True, "append_images": images[1:]} if frames > 1 else {}))
    return buffer.getvalue()


@cache
def floating(shape: tuple[int, ...]) -> bytes:
    return cv2.imencode(".tif", np.linspace(0, 1, 12 * 16 * shape[-1]).reshape(shape).astype(np.float32))[1].tobytes()


YAML = b"path: .\ntrain: images/train\nval: [images/val]\ntest:\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
LABELS = (
    b"0 0.5 0.5 0.2 0.1\n1 0.25 0.75 0.5 0.5\n",
    b"0 .5 .4 .2 .1 .48 .38 .52 .38 .5 .42\n" * 3,
    b"0 .1 .2 .5 .3 .4 .8 .2 .9\n1 .1 .2 .5 .3 .4 .8\n",
    b"0 .5 .4 .2 .1 .9 3\n" * 4,
    b"0 .5 .4 .2 .1 .48 .38 2 .52 .38 1\n" * 2,
    b"",
    # What other programs write, which has to be recognised.
    b"0,0.5,0.5,0.2,0.1\n1;0,25;0,75;0,5;0,5\n" * 2,
    b"cat 0.5 0.5 0.2 0.1\nfire truck 1 2 3 4\n'dog', 10%, 20%, 5%, 7 %\n" * 2,
    b"imagesource:GoogleEarth\ngsd:0.1\n1 2 9 2 9 8 1 8 large-vehicle 0\n2 2 9 2 9 8 2 8 ship 1\n" * 2,
    b'class x y w h\n3\n# a\n{"a": [1]}\n<a>\n1 2 9 8 0.9 1\n3 2 9 7 0.8 0\n' * 2,
    b"0 8 6 3 2\n1 4 4 8 5\n0 1 1 16 12\n" * 2,
    b"1,1,3,2,5,4,1,-1,-1,-1\n2,1,3,3,5,4,1,-1,-1,-1\n" * 2,
    b".1 .2 .5 .3 .4 .8 .2 .9 .3 .3 .7 .7\n.1 .2 .5 .3 .4 .8 .2 .9\n" * 2,
)


def a_set(rng: random.Random) -> dict[str, bytes]:
    return {
        "data.yaml": YAML,
        "images/train/a.png": picture(),
        "images/train/b.jpg": picture(".jpg"),
        "images/val/c.png": picture(),
        "labels/train/a.txt": rng.choice(LABELS),
        "labels/train/b.txt": rng.choice(LABELS),
        "labels/val/c.txt": LABELS[0],
    }


def make_labels(rng: random.Random, folder: Path) -> None:
    damage(rng, folder, a_set(rng), ("labels/train/a.txt", "labels/train/b.txt"))


def read_set(folder: Path) -> None:
    check(folder / "data.yaml").announce()


YAMLS = (
    YAML,
    b"train: ../images/train\nval: .\\images\\val\nnames: [no, yes]\nkpt_shape: [5, 2]\n",
    b"train: [images/train, images/val]\nval: images/val\nnames: [a, 'b']\npixel_range: [0, 4095]\nmax_det: 300\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\ntrain: images/train\nval: images/val\nnames: *c\n",
    b"train: images/train\nval: images/val\nnc: 2\n",
    b"{train: images/train, val: images/val, names: {0: a, 1: b}}",
    b"base: &b {train: images/train, names: [a, b]}\n<<: [*b, *b]\nval: images/val\n",
    b"Train: images/train\nvalid: images/val\nclasses: [a, b]\nNC: 2\n",
    b"path: C:\\set\ntrain: /content/x/images/train\nval: images/train, images/val\nnames: 'a, b'\n",
)


def make_yaml(rng: random.Random, folder: Path) -> None:
    damage(rng, folder, {**a_set(rng), "data.yaml": rng.choice(YAMLS)}, ("data.yaml",))


def make_layout(rng: random.Random, folder: Path) -> None:
    """A folder as a labelling program exports it, without a yaml."""
    names = rng.choice(("classes.txt", "obj.names", "_darknet.labels", "notes.json"))
    images, labels = rng.choice(
        (("images", "labels"), ("obj_train_data", "obj_train_data"), ("train/images", "train/labels"))
    )
    files = {f"set/{names}": b"cat\ndog\n", f"set/{images}/a.png": picture(), f"set/{images}/b.jpg": picture(".jpg")}
    files |= {f"set/{labels}/a.txt": rng.choice(LABELS), f"set/{labels}/b.txt": LABELS[0]}
    if rng.random() < 0.5:
        files["set/obj.data"] = b"classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n"
        files["set/train.txt"] = rng.choice((b"data/", b"/content/", b"C:\\x\\", b"")) + f"{images}/a.png\n".encode()
    damage(rng, folder, files, (f"set/{names}", f"set/{labels}/a.txt", *(["set/train.txt"] if len(files) > 5 else [])))


def read_layout(folder: Path) -> None:
    for name in (".", *(path.name for path in sorted((folder / "set").iterdir()))):
        _try(load_spec, folder / "set" / name)
    _try(yolo_to_yolo, folder / "set", folder / "out", splits=(50, 25, 25))


def make_darknet(rng: random.Random, folder: Path) -> None:
    files = {
        **a_set(rng),
        "obj.data": b"classes = 2\ntrain = train.txt\nvalid = train.txt # same\nnames = obj.names\nbackup = x/\n",
        "obj.names": b"cat\ndog\n",
        "train.txt": b"images/train/a.png\n./images/train/b.jpg\n../images/train/a.png\n.\\images\\train\\b.jpg\n",
    }
    damage(rng, folder, files, ("obj.data", "obj.names", "train.txt"))


def read_darknet(folder: Path) -> None:
    load_spec(folder / "obj.data")
    check(folder / "obj.data").announce()


def make_names(rng: random.Random, folder: Path) -> None:
    names = rng.choice((b"cat\ndog\n", b"names: [cat, dog]\n", b"names:\n  0: cat\n  1: dog\n"))
    damage(rng, folder, {"c.names": names, "c.yaml": names}, ("c.names", "c.yaml"))
    words = [os.fsdecode(damaged(rng, b"person,bicycle,car")) for _ in range(2)]
    (folder / "list").write_text(words[0], encoding="utf-8", errors="surrogateescape")


def read_names_everywhere(folder: Path) -> None:
    text = os.fsdecode((folder / "list").read_bytes())
    for read, value in ((read_names, folder / "c.names"), (read_names, folder / "c.yaml"), (read_names, text)):
        _try(read, str(value))
    _try(names_listed, folder / "c.names")


def _try(read: Callable[..., object], *arguments: object, **options: object) -> None:
    with suppress(UserError):
        read(*arguments, **options)


VOC = b"""<annotation><filename>a.png</filename><size><width>16</width><height>12</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>
</object></annotation>"""


def make_voc(rng: random.Random, folder: Path) -> None:
    files = {
        "xml/a.xml": VOC,
        "xml/b.xml": VOC.replace(b"a.png", b"b.png"),
        "images/a.png": picture(),
        "images/b.png": picture(),
        "sets/train.txt": b"a\n",
        "sets/val.txt": b"b 1\n",
    }
    damage(rng, folder, files, ("xml/a.xml", "sets/train.txt"))


def read_voc(folder: Path) -> None:
    voc_to_yolo(
        folder / "xml", folder / "images", folder / "out", splits=folder / "sets", only_named=True, names=["cat"]
    )
    voc_to_yolo(folder / "xml", folder / "images", folder / "out2")


COCO = b"""{"images": [{"id": 1, "file_name": "a.png", "width": 16, "height": 12}, {"id": 2, "file_name": "b.png"}],
"annotations": [{"id": 7, "image_id": 1, "category_id": 1, "bbox": [2, 3, 7, 5], "iscrowd": 0},
{"id": 8, "image_id": 2, "category_id": 90, "bbox": [0, 0, 4.5, 4], "iscrowd": 1}],
"categories": [{"id": 1, "name": "cat"}, {"id": 90, "name": "dog"}]}"""


def make_coco(rng: random.Random, folder: Path) -> None:
    files = {"instances_val.json": COCO, "images/a.png": picture(), "images/b.png": picture()}
    damage(rng, folder, files, ("instances_val.json",))


def read_coco(folder: Path) -> None:
    coco_to_yolo(folder / "instances_val.json", folder / "images", folder / "out", keep_crowd=True)


@cache
def mat_files() -> tuple[bytes, ...]:
    from scipy.io import savemat

    hands = np.empty((1, 2), object)
    for number in range(2):
        corners = {name: np.array([[2.0 + place, 3.0 + number]]) for place, name in enumerate("abcd")}
        hands[0, number] = np.array([[tuple(corners.values())]], dtype=[(name, object) for name in corners])
    found = []
    for options in ({}, {"do_compression": True}, {"format": "4"}):
        buffer = io.BytesIO()
        savemat(buffer, {"boxes": np.eye(3) if options.get("format") else hands}, **options)
        found.append(buffer.getvalue())
    return tuple(found)


def make_mat(rng: random.Random, folder: Path) -> None:
    damage(rng, folder, {"a.mat": rng.choice(mat_files()), "a.png": picture()}, ("a.mat",))


@cache
def mat_reader() -> MatFiles:
    return MatFiles()


def read_mat(folder: Path) -> None:
    mat_reader().read(
        folder / "a.mat"
    )  # the process it reads in is kept: starting one takes longer than a thousand cases


PICTURES = (".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm", ".pgm")


def make_pictures(rng: random.Random, folder: Path) -> None:
    kind = rng.choice(PICTURES)
    raw = rng.choice(
        (
            picture(kind, (12, 16) if kind == ".pgm" else (12, 16, 3)),
            picture(".png", (12, 16), deep=True),
            picture(".tif", (12, 16), deep=True),
            turned("JPEG"),
            turned("TIFF"),
            turned("PNG"),
            turned("WEBP"),
            odd("PNG", frames=3),
            odd("WEBP", frames=3),
            odd("TIFF", frames=3),
            odd("GIF", frames=3),
            odd("PNG", "P"),
            odd("PNG", "RGBA"),
            odd("TIFF", "CMYK"),
            odd("JPEG", "CMYK"),
            floating((12, 16, 1)),
            floating((12, 16, 3)),
        )
    )
    damage(rng, folder, {f"x{kind}": raw}, (f"x{kind}",))
    path = folder / f"x{kind}"
    if rng.random() < 0.1 and path.is_file() and path.stat().st_mode & 0o400:  # the sizes that a header declares
        changed = bytearray(path.read_bytes())
        place = rng.randrange(min(len(changed), 64)) if changed else 0
        changed[place : place + 4] = rng.randrange(2**32).to_bytes(4, "big")
        path.write_bytes(changed)


def read_pictures(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        (facts,) = picture_facts([path])
        if isinstance(facts, str):
            _try(read_picture, path)
        else:
            if RANGELESS in facts.notes:
                _try(read_picture, path)
            else:
                assert read_picture(path).shape == (*facts.shape, 3)
            assert read_picture(path, (0, 4095)).shape == (*facts.shape, 3)


CACHED_LABELS = b"0 .5 .5 .2 .1\n1 .25 .75 .5 .5\n"


def make_cache(rng: random.Random, folder: Path) -> None:
    """A picture's cached pixels, damaged; and what is remembered of files, damaged or of wild but whole numbers."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 5, 3), np.uint8))
    files = {"seed.npy": buffer.getvalue() + b"abcd", "images/a.png": picture(), "labels/a.txt": CACHED_LABELS}
    damage(rng, folder, files, ("seed.npy",))
    (folder / "seed").write_text(str(rng.randrange(2**32)))


def read_cache(folder: Path) -> None:
    made = np.full((2, 2, 3), 7, np.uint8)
    cached = DiskCache(lambda _: made, [str(folder)])
    (file,) = cached.files
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    if os.path.lexists(folder / "seed.npy"):
        os.replace(folder / "seed.npy", file)
    assert (cached(0) == made).all(), "a damaged file stands for the picture"

    rng = random.Random((folder / "seed").read_text())
    memory = file.parent.parent / "checked"
    for old in memory.glob("*"):
        old.unlink()
    with patch("data.remembered.YOUNG", -(2**60)):  # so that files of this moment are known again
        first = _remembered(folder)
        wild = rng.random() < 0.3
        for path in memory.glob("*.npz"):
            path.write_bytes(_wild(rng, path) if wild else damaged(rng, path.read_bytes()))
        second = _remembered(folder)
    assert wild or first == second, "something damaged is remembered"


def _remembered(folder: Path) -> list[object]:
    pictures = [folder / "images/a.png"]
    labels = read_label_files(find_labels(pictures))
    boxes = [None if rows is None else rows.tolist() for rows in labels.boxes]
    return [picture_facts(pictures), pictures_digest(pictures), labels.digests, boxes]


def _wild(rng: random.Random, path: Path) -> bytes:
    """What is remembered there with other numbers, of the same files."""
    with np.load(path) as parts:
        rows, more = parts["rows"].copy(), parts["more"].copy()
    for row in rows:
        for name in [name for name in rows.dtype.names or () if name != "stamp" and rng.random() < 0.5]:
            value = row[name]
            row[name] = np.frombuffer(rng.randbytes(value.nbytes), value.dtype).reshape(value.shape)
    if rng.random() < 0.5:
        more = np.frombuffer(damaged(rng, more.tobytes()), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, rows=rows, more=more)
    return buffer.getvalue()


ODD_NAMES = ("h\udcff", "a b", "a\nb", "é猫", "x" * 240, "-rf", "a.b.c", "'", "%s", "{}", ".hidden", "~", "a,b")


def make_folders(rng: random.Random, folder: Path) -> None:
    files = a_set(rng)
    for _ in range(rng.choice((1, 3))):
        split, name = rng.choice(("train", "val")), rng.choice(ODD_NAMES)
        files[f"images/{split}/{name}{rng.choice(PICTURES)}"] = rng.choice((picture(), b"", damaged(rng, picture())))
        if rng.random() < 0.5:
            files[f"labels/{split}/{name}.txt"] = rng.choice(LABELS)
    write(folder, files)
    for _ in range(rng.choice((0, 1, 3))):
        link = (
            folder
            / rng.choice(("images", "images/train", "labels", "labels/val", "."))
            / rng.choice(("up", "l.png", "l"))
        )
        link.exists() or link.is_symlink() or link.symlink_to(
            rng.choice((folder, "..", "l", "/dev/zero", folder / "labels"))
        )
    if rng.random() < 0.2:
        os.mkfifo(folder / "images/train/pipe.png")


READERS = {
    "labels": Reader(make_labels, read_set),
    "yaml": Reader(make_yaml, read_set),
    "layouts": Reader(make_layout, read_layout),
    "darknet": Reader(make_darknet, read_darknet),
    "names": Reader(make_names, read_names_everywhere),
    "voc": Reader(make_voc, read_voc),
    "coco": Reader(make_coco, read_coco),
    "mat": Reader(make_mat, read_mat),
    "pictures": Reader(make_pictures, read_pictures),
    "caches": Reader(make_cache, read_cache),
    "folders": Reader(make_folders, read_set),
}
