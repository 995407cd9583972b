"""The model card beside every exported file: what is known of the network, as Markdown and as JSON.

Facts come from the checkpoint, from the run it lies in, and from what was measured now. What is not known is said so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import models
from common.errors import UserError
from common.files import whole_file
from engine.rundir import ARGS
from export.description import Description
from export.tables import parts
from models.network import Network

UNKNOWN = "not known"
Facts = dict[str, Any]


def card_paths(path: str | Path) -> tuple[Path, Path]:
    """(Markdown, JSON) of an exported file."""
    path = Path(path)
    return path.with_name(path.name + ".card.md"), path.with_name(path.name + ".card.json")


def read_description(path: str | Path) -> Description:
    """The description in the card beside an exported file that holds none itself.

    Raises:
        UserError: there is no such card.
    """
    card = card_paths(path)[1]
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
        return Description.from_dict(content["file"]["description"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"needs its model card {card.name} beside it, which says what its outputs mean", where=path,
                        todo="copy the card too, or export anew") from error  # fmt: skip


def network_facts(net: Network, weights: str | Path, size: tuple[int, int]) -> Facts:
    """What is known of a network before it is exported: its checkpoint, its run, its ancestors."""
    weights = Path(weights)
    content = _checkpoint(weights)
    extra = content.get("extra", {})
    run = _run_of(weights)
    settings = _settings(run)
    known = _fingerprints(run) if net.lineage else {}
    ancestors = [_ancestor(entry, net, known) for entry in net.lineage]
    cut = any(each["share_kept"] is not None and each["share_kept"] < 1 for each in ancestors)
    metrics = extra.get("metrics", {})
    return {
        "source": {
            "weights": weights.name,
            "sha256": sha256(weights),
            "fingerprint": models.fingerprint(net),
            "kind": extra.get("kind") or extra.get("training", {}).get("kind"),
            "epoch": extra.get("epoch"),
            "pictures_seen": net.meta.get("seen") or None,
            "trained_at": _trained_size(settings),
        },
        "data": {"set": data_name(settings.get("data")), "classes": list(net.names)},
        "lineage": {
            "ancestors": ancestors,
            "teacher": net.meta.get("teacher"),
            "kd": _kd(settings, net),
            "asked_cut": settings.get("prune") if cut else None,
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


def write_card(path: str | Path, description: Description, facts: Facts, measured: Mapping[str, Any]) -> Path:
    """Write the two cards of the exported file `path`; the Markdown's path.

    Args:
        facts: see `network_facts`.
        measured: of this file: "format", "difference", "difference_on", "scores", "latency", "int8", ...; None or
            absent is what was not measured.
    """
    record = {
        **facts,
        "file": {
            "files": [
                {"name": each.name, "bytes": each.stat().st_size, "sha256": sha256(each)} for each in parts(path)
            ],
            "description": description.as_dict(),
            **measured,
        },
    }
    markdown, plain = card_paths(path)
    with whole_file(plain) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    with whole_file(markdown) as temporary:
        temporary.write_text(card_text(Path(path).name, record, description), encoding="utf-8")
    return markdown


def sha256(path: str | Path) -> str:
    """Of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def data_name(data: str | Path | None) -> str | None:
    """A data set's file with its folder, without the rest of the way to it, which is nobody else's business."""
    return "/".join(Path(data).parts[-2:]) if data else None


def _checkpoint(weights: Path) -> dict[str, Any]:
    if weights.suffix not in (".pt", ".pth"):
        return {}
    try:
        return models.read_checkpoint(weights)
    except UserError:  # a YOLOv5 checkpoint has none of this
        return {}


def _run_of(weights: Path) -> Path | None:
    """The run's folder: the nearest one above the weights that has an `args.yaml`."""
    return next((folder for folder in weights.resolve().parents[:4] if (folder / ARGS).is_file()), None)


def _settings(run: Path | None) -> dict[str, Any]:
    if run is None:
        return {}
    content = yaml.safe_load((run / ARGS).read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _trained_size(settings: Mapping[str, Any]) -> str | None:
    return str(settings["imgsz"]) if settings.get("imgsz") else None


def _kd(settings: Mapping[str, Any], net: Network) -> str | None:
    """The KD terms, of a network that had a teacher."""
    return str(settings["kd"]) if net.meta.get("teacher") and settings.get("kd") else None


def _ancestor(entry: Mapping[str, Any], net: Network, known: Mapping[str, int]) -> Facts:
    """An ancestor: its fingerprint, and its parameters where its checkpoint still lies in the run."""
    found: Facts = {"kind": entry["kind"], "fingerprint": entry["sha256"], "parameters": None, "share_kept": None}
    if entry["sha256"] in known:
        found["parameters"] = known[entry["sha256"]]
        found["share_kept"] = models.parameters(net) / known[entry["sha256"]]
    return found


def _fingerprints(run: Path | None) -> dict[str, int]:
    """Fingerprint -> parameters of the networks a run has left."""
    if run is None:
        return {}
    found = {}
    kept = ("start.pt", "*/weights/best.pt", "*/weights/sparse.pt", "*/pruned.pt", "*/cut/pruned.pt")
    for path in sorted(path for pattern in kept for path in run.glob(pattern)):
        try:
            net = models.load(path)
        except UserError:
            continue
        found[models.fingerprint(net)] = models.parameters(net)
    return found


def card_text(name: str, record: Mapping[str, Any], description: Description) -> str:
    """The card in Markdown."""
    file, source, data = record["file"], record["source"], record["data"]
    lines = [f"# {name}", "", f"{file.get('format', 'File')} of a YOLO that detects {_names(data['classes'])}.", ""]
    lines += ["## Use", "", *_usage(name, description), ""]
    lines += ["## Measured", "", *_measured(file, record), ""]
    lines += ["## Where it comes from", "", *_origin(record), ""]
    lines += ["## Files", "", "| file | bytes | sha256 |", "|---|---|---|"]
    lines += [f"| {each['name']} | {each['bytes']:,} | `{each['sha256']}` |" for each in file["files"]]
    lines += [f"| {source['weights']} (the source) | | `{source['sha256']}` |", ""]
    return "\n".join(lines)


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:20])
    return f"{len(names)} classes: {shown}" + (", ..." if len(names) > 20 else "")


def _usage(name: str, description: Description) -> list[str]:
    height, width = description.size
    size = f"any size whose sides {description.stride} divides (made for {width} x {height})" if description.any_size \
        else f"{width} x {height} pixels (width x height)"  # fmt: skip
    batch = f"{description.batch} at a time" if description.batch else "any number at a time"
    meaning = description.as_dict()
    lines = [
        f"- `thinyolo predict --model {name} --source pictures/`",
        f"- pictures: {size}, {batch}; {meaning['input_meaning']}",
        f"- output: {meaning['output_meaning']}",
    ]
    if description.outputs == "heads":
        for number, spec in enumerate(description.specs):
            anchors = ", ".join(f"{width:g} x {height:g}" for width, height in spec.anchors)
            way = "(2 sigma(t))^2" if spec.new_coords else "exp(t)"
            s = spec.scale_x_y
            centre = f"(sigma(t) * {s:g} - {(s - 1) / 2:g} + cell) * stride"
            lines.append(
                f"- head{number}: stride {spec.stride}, anchors {anchors}; centre {centre}, size {way} * anchor"
            )
    if description.nms:
        lines.append(f"- inside: NMS at IoU {description.nms['iou']:g}, confidence above {description.nms['conf']:g}")
    return lines


def _measured(file: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    network = record["network"]
    lines = [
        f"- size: {sum(each['bytes'] for each in file['files']) / 1e6:.2f} MB, {network['parameters']:,} parameters, "
        f"{network['macs'] / 1e9:.3f} G multiply-adds a picture",
        f"- precision: {file['description']['precision']}",
    ]
    difference = file.get("difference")
    shown = UNKNOWN if difference is None else f"{difference:.2g} ({file.get('difference_on', '')})"
    lines.append(f"- largest difference to PyTorch's outputs: {shown}")
    scores = file.get("scores")
    if scores:
        mine, torchs = (f"{scores[k + 'mAP50-95']:.4f}, {scores[k + 'mAP50']:.4f}" for k in ("", "torch_"))
        lines.append(f"- mAP50-95 and mAP50 on {scores['split']} of {scores['data']}: {mine} (PyTorch: {torchs})")
    else:
        lines.append(f"- mAP of this file: {UNKNOWN} (export with --data measures it)")
    trained = record["scores_in_training"]
    if trained:
        lines.append("- val during training: " + ", ".join(f"{name} {value:.4f}" for name, value in trained.items()))
    if int8 := file.get("int8"):
        lines.append(f"- in INT8: {int8['candidate']}; calibrated on {int8['pictures']} training pictures")
    latency = file.get("latency")
    lines.append(f"- latency: {latency['median_ms']:.2f} ms a picture ({latency['runtime']}, {latency['machine']}, "
                 f"threads: {latency['threads']}, load average: {latency['load_average']})"
                 if latency else f"- latency: {UNKNOWN}")  # fmt: skip
    return lines


def _origin(record: Mapping[str, Any]) -> list[str]:
    source, data, lineage = record["source"], record["data"], record["lineage"]
    lines = [f"- data set: {data['set'] or UNKNOWN}", f"- stage: {source['kind'] or UNKNOWN}"]
    lines.append(f"- input size in training: {source['trained_at'] or UNKNOWN}")
    if lineage["ancestors"]:
        for each in lineage["ancestors"]:
            share = "its parameters are not known" if each["parameters"] is None else \
                f"{each['parameters']:,} parameters, of which {each['share_kept']:.1%} are left"  # fmt: skip
            lines.append(f"- descends from: {each['kind']} `{each['fingerprint'][:16]}` ({share})")
    else:
        lines.append("- pruned from: no ancestor is recorded")
    teacher = lineage["teacher"]
    lines.append(f"- teacher: {Path(teacher['source']).name} `{teacher['sha256'][:16]}`" if teacher
                 else "- teacher: none is recorded")  # fmt: skip
    if teacher:
        lines.append(f"- distillation: {lineage['kd'] or UNKNOWN}")
    if lineage["asked_cut"]:
        lines.append(f"- cut asked for: {lineage['asked_cut']}")
    lines.append(f"- fingerprint: `{source['fingerprint']}`")
    return lines
