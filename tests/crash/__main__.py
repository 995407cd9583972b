"""``python -m tests.crash [KIND ...]``: die at every point of every line, resume, and compare."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from tests.crash.lines import LINES, Line, make_material


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"some of {', '.join(LINES)} (default: all)")
    parser.add_argument("--every", type=int, default=1, help="only every so many points (default: 1)")
    parser.add_argument("--first", type=int, default=0, help="number of the first point (default: 0)")
    parser.add_argument("--keep", type=Path, help="a folder for the runs with differences (default: a temporary one)")
    given = parser.parse_args()
    torch.set_num_threads(1)  # a process with threads is not to be forked
    place = given.keep or Path(tempfile.mkdtemp(prefix="crash"))
    failed = 0
    for kind in given.kinds or LINES:
        line = Line.begin(kind, make_material(place / kind / "material"), place / kind)
        points = range(given.first, len(line.points), given.every)
        print(f"{kind}: {len(line.points)} points, {len(points)} of them tried", flush=True)
        for number in points:
            found = line.attempt(number)
            failed += bool(found)
            print(f"{number:4} {line.points[number]}: {'; '.join(found) or 'as if nothing had happened'}", flush=True)
    print(f"{failed} points at which something was lost; runs in {place}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
