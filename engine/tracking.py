"""Weights & Biases: what a run did, one commit per epoch; never the reason a training stops.

Without a login the run is recorded offline and can be sent later with `wandb sync`. Whatever the client or the network
does, training goes on: the first error switches tracking off with one warning.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import netrc
import os
import re
import socket
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlparse
from urllib.request import getproxies

import numpy as np

from common.errors import UserError, first_line
from common.files import whole_file
from common.log import log

MODES = ("auto", "online", "offline", "off")
ID_FILE = "wandb-id.txt"
INIT_SECONDS, FINISH_SECONDS = 30, 60

Method = TypeVar("Method", bound=Callable[..., Any])

_trackers: weakref.WeakSet[Tracker] = weakref.WeakSet()


def _harmless(method: Method) -> Method:
    """Errors of the client switch tracking off instead of ending the training."""

    @functools.wraps(method)
    def guarded(self: Tracker, *args: Any, **kwargs: Any) -> Any:
        if self._run is None:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            log.warning("W&B: %s failed (%s); this run is tracked no further", method.__name__, _first_line(error))
            self._run = None
            return None

    return cast(Method, guarded)


class Tracker:
    """One W&B run.

    Histograms, tables and pictures wait for the next `log_epoch`, so that an epoch is one commit; `finish` sends
    what is left. ``with Tracker(...) as tracker:`` finishes, as failed where an error comes out. In a distributed run
    every rank but 0 passes ``mode="off"``.

    Args:
        run_dir: the run's folder; the client's files go to ``run_dir/wandb``, the run's id to
            ``run_dir/wandb-id.txt``, so that a resumed training goes on in the same W&B run.
        config: the resolved settings (mapping or dataclass).
        mode: "auto" does what `WANDB_MODE` says, else goes online if there is a login, else offline; "off" never
            imports the client.
        project: W&B project.
        group: runs of one comparison (the stages of a pruning run, the modes of an ablation) share it.
        name: shown in W&B; by default the folder's name.
        kind: W&B's job type: "baseline", "sparse", "kd", ...
        tags: W&B's.
        tensorboard: write every epoch's values for TensorBoard too, to ``run_dir/tensorboard``, whatever `mode` is.
        settings: further settings of the client (`wandb.Settings`), a server of one's own by `base_url`, say.

    Raises:
        UserError: unknown mode; TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        run_dir: str | Path,
        config: Any = None,
        mode: str = "auto",
        project: str = "thinyolo",
        group: str | None = None,
        name: str | None = None,
        kind: str | None = None,
        settings: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        tensorboard: bool = False,
    ):
        if mode not in MODES:
            raise UserError(f"unknown tracking mode '{mode}'", todo=f"one of {', '.join(MODES)}")
        # The client may write by a process that another program started, in another folder.
        self.run_dir = Path(run_dir).absolute()
        self._board: Any = None
        self._run: Any = None
        self._pending: dict[str, Any] = {}
        self._last_step = -1
        _trackers.add(self)
        if tensorboard:
            with self._board_harmless():
                self._board = board_in(self.run_dir)
        if (resolved := _asked(mode)) == "off":
            return
        options = {
            "project": os.environ.get("WANDB_PROJECT", project),
            "group": group,
            "name": name or self.run_dir.name,
            "job_type": kind,
            "config": _plain(config),
            "tags": list(tags) or None,
        }
        try:
            self._open(resolved, options, settings or {})
        except Exception as error:
            log.warning("W&B is off: %s", _first_line(error))

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self.finish(exit_code=0 if error is None else 1)

    @property
    def active(self) -> bool:
        """Whether anything is recorded."""
        return self._run is not None

    @property
    def id(self) -> str | None:
        """The W&B run id, the same after a resume."""
        return self._run.id if self._run is not None else None

    @property
    def folder(self) -> Path | None:
        """Where the client keeps this run's own files; `wandb sync` takes it."""
        return Path(self._run.dir).parent if self._run is not None else None

    def _run_id(self, fresh: bool = False) -> str:
        path = self.run_dir / ID_FILE
        if not fresh and path.exists() and (known := path.read_text().strip()):
            return known
        made = uuid.uuid4().hex[:8]
        with whole_file(path) as temporary:
            temporary.write_text(made + "\n")
        return made

    def _open(self, mode: str, options: dict[str, Any], further: Mapping[str, Any]) -> None:
        """Open the run; online without a login (in mode "auto") or without a network becomes offline."""
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            show_errors=False,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=False,
            **further,
        )
        if mode == "auto":
            mode = "online" if _logged_in(settings.base_url) else "offline"
            no_login = mode == "offline"
        else:
            no_login = False
        if mode == "online" and not _reachable(settings.base_url):
            log.warning("W&B: %s does not answer; recording offline", settings.base_url)
            mode = "offline"
        start = functools.partial(wandb.init, dir=str(self.run_dir), reinit="create_new", settings=settings, **options)
        try:
            self._run = start(mode=cast(Any, mode), id=self._run_id(), resume="allow" if mode == "online" else None)
        except Exception as error:
            if mode == "offline":
                raise
            log.warning("W&B: cannot go online (%s); recording offline", _first_line(error))
            # The client still holds the first id; a run by another one can be sent all the same.
            self._run = start(mode="offline", id=self._run_id(fresh=True))
        self._last_step = int(self._run.step) - 1  # of a run that goes on, W&B drops what is not after its last
        if no_login:
            log.info("W&B: no login, recording offline; send it later with: wandb sync %s", self.folder)

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Commit one epoch: `values` and whatever has been waiting, in one step."""
        if self._board is not None:
            with self._board_harmless():
                for name, value in values.items():
                    self._board.add_scalar(name, float(value), epoch)
                self._board.flush()
        self._commit(epoch, values)

    @contextlib.contextmanager
    def _board_harmless(self) -> Iterator[None]:
        """Errors of TensorBoard's writer, a full disk say, switch it off and end no training."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            log.warning("TensorBoard is off: %s", _first_line(error))
            self._board = None

    @_harmless
    def _commit(self, epoch: int, values: Mapping[str, float]) -> None:
        # A later stage that counts its epochs from 0 again in the same run must not go back: W&B drops such steps.
        step = max(epoch, self._last_step + 1)
        row = {"epoch": epoch, **{name: float(value) for name, value in values.items()}, **self._pending}
        self._pending = {}
        self._run.log(row, step=step)
        self._last_step = step

    @_harmless
    def log_histogram(self, name: str, values: Any) -> None:
        """A distribution (the gammas of a network, say) for the next commit; `values` of any shape."""
        import wandb

        flat = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64).ravel()
        if flat.size:
            self._pending[name] = wandb.Histogram(cast(Any, flat))

    @_harmless
    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table for the next commit."""
        import wandb

        self._pending[name] = wandb.Table(columns=list(columns), data=[list(row) for row in rows])

    @_harmless
    def log_pictures(self, name: str, pictures: Sequence[tuple[str, Any]]) -> None:
        """``(caption, (H, W, 3) uint8 RGB or file)`` pairs for the next commit."""
        import wandb

        self._pending[name] = [
            wandb.Image(str(image) if isinstance(image, (str, Path)) else image, caption=caption)
            for caption, image in pictures
        ]

    @_harmless
    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Numbers that stand for the whole run (the best epoch's mAP, parameters, MACs)."""
        self._run.summary.update(_plain(values))

    @_harmless
    def log_artifact(self, path: str | Path, name: str, metadata: Mapping[str, Any] | None = None) -> None:
        """A network's file with its history: `metadata` names lineage and the teacher's sha256."""
        import wandb

        artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", name), type="model", metadata=_plain(metadata))
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def finish(self, exit_code: int = 0) -> None:
        """Send what is left and close the run; at most a minute without a network. Safe to call twice."""
        if self._board is not None:
            with self._board_harmless():
                self._board.close()
            self._board = None
        self._close(exit_code)

    @_harmless
    def _close(self, exit_code: int) -> None:
        run, self._run = self._run, None
        if self._pending:
            run.log(self._pending, step=self._last_step + 1)
        run.finish(exit_code=exit_code)


def need_tensorboard() -> None:
    """Refuse where TensorBoard is not installed.

    Raises:
        UserError: with what to install.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "--tensorboard needs the package tensorboard, which is not installed here",
            todo="python -m pip install tensorboard, or -e '.[tensorboard]'; or leave --tensorboard out",
        )


def board_in(run_dir: Path) -> Any:
    """A writer of TensorBoard's files in the folder of a run."""
    need_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run_dir / "tensorboard"))


def close_all() -> None:
    """Close whatever run is still open, as one that failed: its folder is about to go."""
    for tracker in list(_trackers):
        tracker.finish(exit_code=1)


def _asked(mode: str) -> str:
    """`mode`, where "auto" gives way to what the environment says: "auto", "online", "offline" or "off"."""
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        return "off"
    said = os.environ.get("WANDB_MODE", "").lower()
    modes = {"disabled": "off", "offline": "offline", "dryrun": "offline", "online": "online", "run": "online"}
    return modes.get(said, mode)


def _logged_in(base_url: str) -> bool:
    """Whether the client would find an API key: asked here because it would otherwise stop and prompt for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    hosts = {urlparse(base_url).hostname or "", "api.wandb.ai"}
    for path in filter(None, (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")):
        try:
            known = netrc.netrc(os.path.expanduser(path))
        except (OSError, netrc.NetrcParseError):
            continue
        if any(known.authenticators(host) for host in hosts):
            return True
    return False


def _reachable(base_url: str, seconds: float = 5) -> bool:
    """Whether the server takes a connection; True behind a proxy, which is the client's affair.

    The client itself would retry for minutes, and a training would start that much later.
    """
    if getproxies():
        return True
    url = urlparse(base_url)
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        socket.create_connection((url.hostname or "", port), seconds).close()
        return True
    except OSError:
        return False


def _plain(value: Any) -> Any:
    """Nested plain data that the client can write as JSON."""
    if value is None:
        return {}
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain_leaf(item) for key, item in value.items()}
    return _plain_leaf(value)


def _plain_leaf(value: Any) -> Any:
    if isinstance(value, Mapping) or (is_dataclass(value) and not isinstance(value, type)):
        return _plain(value)
    if isinstance(value, (list, tuple, set)):
        return [_plain_leaf(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _first_line(error: Exception) -> str:
    return first_line(error)[:200]
