"""Where a network comes from: what its checkpoint, the run it lies in and its ancestors' checkpoints say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import models
from common.errors import UserError
from common.reading import read_text
from common.rundir import ARGS, is_checkpoint, run_of
from distill.modes import AUTO, USUAL_MODES
from models.content import TRAINED_AT
from models.network import Network
from prune.report import set_options

Facts = dict[str, Any]
# Where a run leaves its checkpoints.
LEFT = ("start.pt", "*/weights/best.pt", "*/weights/sparse.pt", "*/pruned.pt", "*/cut/pruned.pt")


def network_facts(net: Network, weights: str | Path, size: tuple[int, int]) -> Facts:
    """What is known of a network before it is exported: its checkpoint, its run, its ancestors. None is not known."""
    weights = Path(weights)
    checkpoint = _checkpoint(weights)
    extra = checkpoint.get("extra", {})
    run = run_of(weights.resolve())
    settings = _settings(run)
    metrics = extra.get("metrics", {})
    teacher = net.meta.get("teacher")
    return {
        "source": {
            "weights": weights.name,
            "format": checkpoint.get("format"),
            "sha256": sha256(weights),
            "fingerprint": models.fingerprint(net),
            "kind": _kind(extra),
            "epoch": extra.get("epoch"),
            "pictures_seen": net.meta.get("seen") or None,
            "trained_at": str(settings["imgsz"]) if settings.get("imgsz") else net.meta.get(TRAINED_AT),
        },
        "data": {"set": data_name(settings.get("data")), "classes": list(net.names)},
        "lineage": {
            **_lineage(net, run),
            "teacher": teacher and _teacher(teacher, net),
            "kd": _kd(str(settings["kd"])) if teacher and settings.get("kd") else None,
            "dropped_heads": net.meta.get("dropped_heads"),
        },
        "network": {
            "parameters": models.parameters(net),
            "macs": models.macs(net, size),
            "megabytes_fp32": models.megabytes(net),
            "convolutions": len(net.conv_modules),
        },
        "scores_in_training": {name[4:]: value for name, value in metrics.items() if name.startswith("val/mAP")},
    }


def sha256(path: str | Path) -> str:
    """Of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _kd(asked: str) -> str:
    """The modes a student was taught by."""
    return USUAL_MODES if asked == AUTO else asked


def data_name(data: str | Path | None) -> str | None:
    """A data set's file with its folder, without the rest of the way to it, which is nobody else's business."""
    return "/".join(Path(data).parts[-2:]) if data else None


def _kind(extra: Mapping[str, Any]) -> str | None:
    kind = extra.get("kind") or extra.get("training", {}).get("kind")
    return kind or ("pruned" if "pruning" in extra else None)


def _checkpoint(weights: Path) -> dict[str, Any]:
    if not is_checkpoint(weights):
        return {}
    try:
        return models.read_checkpoint(weights)
    except UserError:  # a checkpoint of another program has none of this
        return {}


def _settings(run: Path | None) -> dict[str, Any]:
    if run is None:
        return {}
    try:
        content = yaml.safe_load(read_text(run / ARGS))
    except (UserError, yaml.YAMLError, ValueError, RecursionError):  # not ours, or damaged: not known, then
        return {}
    return content if isinstance(content, dict) else {}


def _teacher(teacher: Mapping[str, Any], net: Network) -> Facts:
    """The teacher's file without the way to it, and which ancestor it is, if it is one."""
    kinds = (entry["kind"] for entry in net.lineage if entry["sha256"] == teacher["sha256"])
    return {"file": Path(teacher["source"]).name, "sha256": teacher["sha256"], "ancestor": next(kinds, None)}


def _lineage(net: Network, run: Path | None) -> Facts:
    """Ancestors with their parameters, and the cuts that led from one to the next.

    Checkpoints of older versions hold neither; then the files that the runs have left are asked, by fingerprint.
    """
    parameters = {entry["sha256"]: entry["parameters"] for entry in net.lineage if "parameters" in entry}
    cuts = [entry["cut"] for entry in net.lineage if "cut" in entry]
    if len(parameters) < len(net.lineage):
        for content, other in _relatives(run):
            parameters.setdefault(models.known_as(net.lineage, other), models.parameters(other))
            if not cuts and "pruning" in content["extra"] and _channels(other) == _channels(net):
                report = content["extra"]["pruning"]
                told = {key: report[key] for key in ("channels", "params", "macs", "size")}
                cuts = [{**told, "asked": set_options(report["asked"])}]
    mine = models.parameters(net)
    ancestors = []
    for entry in net.lineage:
        count = parameters.get(entry["sha256"])
        share = mine / count if count else None
        ancestors.append(
            {"kind": entry["kind"], "fingerprint": entry["sha256"], "parameters": count, "share_kept": share}
        )
    return {"ancestors": ancestors, "cuts": cuts}


def _channels(net: Network) -> list[tuple[str, Any]]:
    """Which channels of which ancestors a network has: the same before and after a fine-tune."""
    return [(entry["sha256"], entry["layers"]) for entry in net.lineage]


def _relatives(run: Path | None) -> Iterator[tuple[dict[str, Any], Network]]:
    """(checkpoint, network) of what is left of a run and of the runs it started from."""
    for folder in _runs(run):
        for path in sorted(path for pattern in LEFT for path in folder.glob(pattern)):
            try:
                content = models.read_checkpoint(path)
                yield content, models.from_checkpoint(content, path)
            except UserError:  # of another program, or damaged
                continue


def _runs(run: Path | None) -> list[Path]:
    """A run, and those whose networks it was given."""
    found: list[Path] = []
    waiting = [run]
    while waiting:
        folder = waiting.pop(0)
        if folder is None or folder in found:
            continue
        found.append(folder)
        settings = _settings(folder)
        waiting += [run_of(Path(settings[name]).resolve()) for name in ("weights", "t_weights") if settings.get(name)]
    return found
