"""What it takes to index a large data set: CPU time and peak memory, the first time and the second.

    python benchmarks/indexing.py --pictures 100000

Draws a data set of small JPEG and PNG files, no two with the same bytes, with label files; then indexes it in processes
of their own, with a cache folder that is empty at first. Measured are

- *check*: every label read, every picture opened, leaks looked for: what `thinyolo check` and the start of a run do;
- *digests*: by which a run that goes on knows its pictures and labels again (`data.contents`);
- *import*: Python and what both import, which is part of either.

``--equal`` makes all files equally large, so that no size tells that two pictures differ.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from common.errors import UserError, run_cleanly
from reporting.tables import table

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
SIDES = 48, 64
A_FOLDER = 10_000
"""Pictures in one folder of a split."""
EQUAL = 8192
"""Bytes of each file with ``--equal``."""
JOBS = {
    "import": "import data.labels, data.contents",
    "check": "import data.labels, sys\nreport = data.labels.check(sys.argv[1])\nassert not report.errors",
    "digests": """\
import data.labels, data.contents, sys
for pictures in data.labels.load_spec(sys.argv[1]).splits.values():
    data.contents.pictures_digest(pictures), data.contents.labels_digest(pictures)""",
}
MEASURED = """
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def drawn(number: int, random: np.random.Generator) -> np.ndarray:
    """A smooth picture that is like no other."""
    image = cv2.resize(random.integers(0, 256, (6, 8, 3), np.uint8), SIDES[::-1], interpolation=cv2.INTER_LINEAR)
    bits = number >> np.arange(24) & 1
    image[:8, : 2 * len(bits)] = np.repeat(255 * bits, 2)[None, :, None]
    return image


def padded(raw: bytes, suffix: str) -> bytes:
    """The file with a comment that makes it `EQUAL` bytes long."""
    lacking = EQUAL - len(raw)
    if suffix == ".jpg":
        return raw[:2] + b"\xff\xfe" + (lacking - 2).to_bytes(2, "big") + bytes(lacking - 4) + raw[2:]
    content = b"tEXtComment\0" + b" " * (lacking - 20)
    crc = zlib.crc32(content)
    return raw[:33] + (len(content) - 4).to_bytes(4, "big") + content + crc.to_bytes(4, "big") + raw[33:]


def make(folder: Path, pictures: int, equal: bool) -> Path:
    """The data set's yaml, all of it written."""
    random = np.random.default_rng(0)
    number = 0
    for split, share in SHARES.items():
        for place in range(round(share * pictures)):
            suffix = (".jpg", ".png")[number % 2]
            below = f"{split}/{place // A_FOLDER}"
            if place % A_FOLDER == 0:
                for kind in ("images", "labels"):
                    (folder / kind / below).mkdir(parents=True)
            raw = cv2.imencode(suffix, drawn(number, random))[1].tobytes()
            with open(f"{folder}/images/{below}/{number:06}{suffix}", "wb") as handle:
                handle.write(padded(raw, suffix) if equal else raw)
            sides = random.uniform(0.05, 0.3, (random.integers(1, 5), 2))
            centres = random.uniform(sides / 2, 1 - sides / 2)
            lines = [
                f"{random.integers(3)} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n"
                for (x, y), (w, h) in zip(centres, sides, strict=True)
            ]
            with open(f"{folder}/labels/{below}/{number:06}.txt", "w", encoding="ascii") as handle:
                handle.writelines(lines)
            number += 1
    path = folder / "data.yaml"
    path.write_text("".join(f"{split}: images/{split}\n" for split in SHARES) + "names: [a, b, c]\n", encoding="utf-8")
    return path


def measured(job: str, data: Path, cache: Path) -> tuple[float, float]:
    """CPU seconds and peak MB of a process that does it."""
    command = [sys.executable, "-c", JOBS[job] + MEASURED, str(data)]
    surroundings = {**os.environ, "THINYOLO_CACHE": str(cache)}
    done = subprocess.run(command, env=surroundings, stdout=subprocess.PIPE, text=True, check=True)
    seconds, kilobytes = done.stdout.split()[-2:]
    return float(seconds), float(kilobytes) / 1e3


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--equal", action="store_true", help="files of equal size")
    parser.add_argument("--rounds", type=int, default=1, help="times the cache is emptied (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the data set is made, or lies from an earlier call")
    arguments = parser.parse_args(argv)
    if arguments.pictures < 100:
        raise UserError(f"--pictures {arguments.pictures}: too few to measure", todo="give 100 or more")
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name) / "set"
        data = folder / "data.yaml"
        if not data.exists():
            data = make(folder, arguments.pictures, arguments.equal)
        rows = []
        for turn in range(arguments.rounds):
            cache = Path(name) / f"cache{turn}"
            for job, time in (
                ("import", ""),
                ("check", "first"),
                ("digests", "first"),
                ("check", "second"),
                ("digests", "second"),
            ):
                seconds, megabytes = measured(job, data, cache)
                rows.append([f"{job} {time}".strip(), f"{seconds:.2f}", f"{megabytes:.0f}"])
    print(f"{arguments.pictures} pictures of {SIDES[1]}x{SIDES[0]}{', files of equal size' if arguments.equal else ''}")
    print(table(["", "CPU s", "peak MB"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
