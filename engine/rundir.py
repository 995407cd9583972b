"""What becomes of a run's folder when the run ends, and when it is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError
from common.files import check_watched
from common.lock import release
from common.rundir import START, made_here
from engine import distributed, tracking


@contextmanager
def no_trace_if_refused(run: Path, resumed: bool) -> Iterator[None]:
    """A run that ends with a `UserError` before it has left any network behind leaves no folder behind either.

    A folder that was there before this process, or that is resumed, stays whatever happens. Whichever way it ends,
    other processes may have it from then on.

    Raises:
        UserError: the folder was deleted while the run was writing into it.
    """
    try:
        try:
            yield
        except (OSError, AssertionError):  # of what read a file that was deleted
            check_watched(run)
            raise
        check_watched(run)
    except UserError:
        if distributed.is_main() and run in made_here and not resumed and not _networks(run):
            tracking.close_all()  # W&B writes into the folder until then
            shutil.rmtree(run, ignore_errors=True)
        raise
    finally:
        release(run)


def _networks(run: Path) -> list[Path]:
    """The checkpoints that a run has made; what it began with is none."""
    return [path for path in run.rglob("*.pt") if path != run / START]
