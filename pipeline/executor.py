"""Where the cells of a grid run: one after the other in this process, or on the machines of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from common.errors import UserError, first_line
from common.log import log, show_log

EXECUTORS = ("local", "ray")
NICENESS = "RAY_worker_niceness"  # environment variable of Ray's
RETRIES = 3  # of a cell whose worker died; each goes on at the cell's last checkpoint

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_all(
    function: Callable[[Task], Result], tasks: Sequence[Task], executor: str, *, threads: int = 0, device: str = ""
) -> Iterator[tuple[Task, Result | UserError]]:
    """``function(task)`` of all tasks, as they are done; a `UserError` of one is its result, the others go on.

    Args:
        function: importable, so that a worker finds it; safe to call again for a task that was broken off.
        tasks: picklable.
        executor: "local", or "ray": on the cluster of ``RAY_ADDRESS``, or on one of this machine's cores. The workers
            have to see the same files under the same paths.
        threads: CPU threads a task takes on Ray (at least 1).
        device: on Ray, "cpu" takes no GPU; anything else takes one where the cluster has any.

    Raises:
        UserError: Ray is not installed.
    """
    if executor == "ray":
        yield from _on_ray(function, tasks, max(1, threads), device)
        return
    for task in tasks:
        yield task, _attempt(function, task)


def _attempt(function: Callable[[Task], Result], task: Task) -> Result | UserError:
    try:
        return function(task)
    except UserError as error:
        return error.with_traceback(None)  # whose frames keep a network alive while the next task runs


def _on_ray(
    function: Callable[[Task], Result], tasks: Sequence[Task], threads: int, device: str
) -> Iterator[tuple[Task, Result | UserError]]:
    try:
        import ray
    except ImportError:
        raise UserError(
            "--executor ray: Ray is not installed", todo="pip install 'thinyolo[ray]', or --executor local"
        ) from None
    began = not ray.is_initialized()
    if began:
        # On a cluster begun here. Ray's own default is 15: beside anything else that runs, no cell gets anywhere.
        os.environ.setdefault(NICENESS, "0")
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        have = ray.cluster_resources()
        gpus = 1 if device != "cpu" and have.get("GPU", 0) >= 1 else 0
        log.info(
            "Ray: %d cells on %g CPUs and %g GPUs, each takes %d and %d",
            len(tasks),
            have.get("CPU", 0),
            have.get("GPU", 0),
            threads,
            gpus,
        )
        largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if tasks and largest < threads:
            log.warning(
                "Ray: no machine has the %d CPUs a cell takes (the largest has %g): nothing begins until one "
                "joins; else stop and give fewer --threads",
                threads,
                largest,
            )
        remote: Any = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=RETRIES)(_on_worker)
        running: dict[Any, Task] = {remote.remote(os.getcwd(), function, task): task for task in tasks}
        while running:
            (reference, *_), _ = ray.wait(list(running), num_returns=1)
            task = running.pop(reference)
            try:
                yield task, ray.get(reference)
            except (
                ray.exceptions.WorkerCrashedError,
                ray.exceptions.OutOfMemoryError,
                ray.exceptions.RaySystemError,
                ray.exceptions.NodeDiedError,
            ) as error:
                lost = first_line(error)
                yield task, UserError(f"its worker died {RETRIES + 1} times: {lost}", todo="go on later with --resume")
    finally:
        if began:
            ray.shutdown()


def _on_worker(folder: str, function: Callable[[Task], Result], task: Task) -> Result | UserError:
    """In a worker: where the command was started, so that relative paths mean the same."""
    if not Path(folder).is_dir():
        return UserError(f"a Ray worker does not see the folder {folder}", todo="the workers have to share its files")
    os.chdir(folder)
    show_log()
    return _attempt(function, task)
