"""Peak memory of a network: measured in a process of its own, ``python -m export.memory '{"path": ..., ...}'``."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def peak_memory(
    path: str | Path, cfg: str = "", runtime: str = "auto", size: tuple[int, int] | None = None, threads: int = 1
) -> float | None:
    """MB (10^6 bytes) that loading a network and running it on one picture adds to a process.

    None where the system does not tell (it is not Linux) or the process fails.
    """
    asked = {"path": str(path), "cfg": cfg, "runtime": runtime, "size": size, "threads": threads}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "export.memory", json.dumps(asked)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None


def _measure(asked: dict[str, Any]) -> float | None:
    """Measured here: the highest resident memory from now on, less what is resident now."""
    import numpy as np
    import torch

    from export.opening import open_model

    torch.set_num_threads(asked["threads"])
    if asked["runtime"] in ("onnxruntime", "openvino"):
        importlib.import_module(asked["runtime"])  # the package is not the network's
    direct = (".onnx", ".xml") if asked["runtime"] != "opencv" else (".onnx", ".cfg", ".weights")
    if asked["runtime"] in ("onnxruntime", "openvino", "opencv") and Path(asked["path"]).suffix not in direct:
        return None  # a network of PyTorch: exporting it takes more than running it
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = _status("VmRSS")
        size = tuple(asked["size"]) if asked["size"] else None
        net = open_model(
            asked["path"], asked["cfg"], asked["runtime"], size=size, threads=asked["threads"], device="cpu"
        )
        picture = np.random.default_rng(0).random((1, 3, *(size or net.image_size)), np.float32)
        with torch.inference_mode():
            for _ in range(2):
                net(torch.from_numpy(picture))
        return (_status("VmHWM") - before) / 1e6
    except (OSError, StopIteration):
        return None


def _status(key: str) -> int:
    """Bytes, of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


if __name__ == "__main__":
    print(json.dumps(_measure(json.loads(sys.argv[1]))))
