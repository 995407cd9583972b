"""Damaged and hostile files for everything that reads files: what may come out is a result or a `UserError`.

A module of this package has a dict ``READERS``: name -> `Reader`. ``python -m tests.fuzz`` runs them for as long as it
is told to, `tests/fuzz/test_fuzz.py` a bounded part.
"""

from __future__ import annotations

import random
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from common.errors import UserError

MODULES = ("data", "networks")
SECONDS = 2.0
"""A case that computes for longer hangs, however busy the machine is."""
PATIENCE = 20
"""So does one that waits for so many seconds: for a pipe, say."""
GROWTH = 2**30
"""Bytes by which a case may make the process larger."""


@dataclass(frozen=True)
class Reader:
    """One thing that reads files.

    Attributes:
        make: writes one case into an empty folder; all it draws comes from the generator.
        read: reads what lies there; may raise `UserError` and nothing else.
    """

    make: Callable[[random.Random, Path], object]
    read: Callable[[Path], object]


def readers() -> dict[str, Reader]:
    """All there are."""
    found: dict[str, Reader] = {}
    for name in MODULES:
        if find_spec(f"{__name__}.{name}"):
            for reader, entry in import_module(f"{__name__}.{name}").READERS.items():
                found[reader] = entry if isinstance(entry, Reader) else Reader(*entry)
    return found


CORPUS = Path(__file__).parent / "corpus"
"""Cases that once failed, or are the first of their kind: the folder of a case, in that of its reader."""


def corpus() -> list[tuple[str, str]]:
    """Reader and name of each case that is kept."""
    return sorted((case.parent.name, case.name) for case in CORPUS.glob("*/*"))


def kept(name: str, case: str) -> Reader:
    """The reader of a case that is kept, which is given its files as they are."""
    reader = readers()[name]
    return Reader(lambda rng, folder: shutil.copytree(CORPUS / name / case, folder, dirs_exist_ok=True), reader.read)


def run_case(name: str, reader: Reader, seed: int, folder: Path, warm: bool = True) -> str:
    """What is wrong with case `seed` of a reader; "" where it ended as it may.

    Args:
        folder: is emptied before and after.
        warm: whether time and memory count: what a reader imports at first is not the case's.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reader.make(random.Random(f"{name} {seed}"), folder)
    before, start = _largest(), time.process_time()
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(PATIENCE if warm else 10 * PATIENCE)
    try:
        reader.read(folder)
    except UserError as error:
        if not str(error).strip():
            return "a UserError without words"
    except BaseException as error:  # every other one is what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]!r} at {place.filename}:{place.lineno}"
    finally:
        signal.alarm(0)
        seconds, grown = time.process_time() - start, _largest() - before
        shutil.rmtree(folder, ignore_errors=True)
    if warm and seconds > SECONDS:
        return f"took {seconds:.1f} s"
    if warm and grown > GROWTH:
        return f"grew by {grown / 2**30:.1f} GiB"
    return ""


def _stop(*_: object) -> None:
    raise TimeoutError(f"no end after {PATIENCE} s")


def _largest() -> int:
    """The most memory this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
