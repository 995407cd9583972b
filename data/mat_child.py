"""Reads .mat files for `data.convert_hand` in a process of its own: a damaged one can end the process that opens it.

A request is a path as JSON, a line; the answer is a line of JSON: ``{"objects": [corners or null, ...]}`` (four pairs
y, x), or ``{"problem": text}``. It imports nothing of ours: it is run by its path.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any

import numpy as np

CORNERS = ("a", "b", "c", "d")
MEMORY = 2**30
"""Bytes this process may take beside what its libraries need: a few damaged bytes can ask for any amount."""


def objects_in(path: str) -> dict[str, Any]:
    """What one file holds."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["boxes"])
    except Exception as error:  # scipy raises whatever a damaged file makes it stumble over
        return {"problem": f"not a MATLAB file scipy can read: {str(error)[:80]}"}
    if "boxes" not in content:
        return {"problem": "MATLAB file without `boxes`"}
    return {"objects": [_corners(cell) for cell in np.asarray(content["boxes"], dtype=object).ravel()]}


def _corners(cell: Any) -> list[list[float]] | None:
    """The four corners of one object, a 1 x 1 struct of 1 x 2 matrices y, x; None: it has none."""
    struct = np.asarray(cell)
    try:
        points = [np.asarray(struct[corner].ravel()[0], float).ravel()[:2].tolist() for corner in CORNERS]
    except (IndexError, ValueError, TypeError, KeyError):
        return None
    return points if all(len(point) == 2 for point in points) else None


def _bound_memory() -> None:
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        with open("/proc/self/statm", encoding="ascii") as handle:
            taken = int(handle.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))


def main() -> None:
    import scipy.io  # noqa: F401  before the limit, which counts what libraries map too

    _bound_memory()
    for line in sys.stdin:
        try:
            answer = objects_in(json.loads(line))
        except (MemoryError, RecursionError) as error:
            answer = {"problem": f"not a MATLAB file scipy can read: {type(error).__name__}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
