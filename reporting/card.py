"""The model card beside every exported file: what is known of the network, as Markdown and as JSON.

Facts come from the checkpoint, from the run it lies in, and from what was measured now. What is not known is said so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.files import whole_file
from export.description import Description, card_paths
from export.files import parts
from models.heads import ONE_TO_ONE
from reporting.origin import Facts, sha256

UNKNOWN = "not known"
EXAMPLE = "examples/run_onnx.py"
OURS = (
    "ThinYOLO's own file, a cfg and its tensors: no other program reads it, nor does the one that trained its first "
    "ancestor; an ONNX file (--to onnx) is what they take"
)


def write_card(path: str | Path, description: Description, facts: Facts, measured: Mapping[str, Any]) -> Path:
    """Write the two cards of the exported file `path`; the Markdown's path.

    Args:
        facts: see `reporting.origin.network_facts`.
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


def card_text(name: str, record: Mapping[str, Any], description: Description) -> str:
    """The card in Markdown."""
    file, source, data = record["file"], record["source"], record["data"]
    lines = [
        f"# {plain(name)}",
        "",
        f"{file.get('format', 'File')} of a YOLO that detects {_names(data['classes'])}.",
        "",
    ]
    lines += ["## Use", "", *_usage(name, description), ""]
    lines += ["## Measured", "", *_measured(file, record), ""]
    lines += ["## Where it comes from", "", *_origin(record), ""]
    lines += ["## Files", "", "| file | bytes | sha256 |", "|---|---|---|"]
    lines += [f"| {plain(each['name'])} | {each['bytes']:,} | `{each['sha256']}` |" for each in file["files"]]
    lines += [f"| {plain(source['weights'])} (the source) | | `{source['sha256']}` |", ""]
    return "\n".join(lines)


_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def plain(text: object) -> str:
    """A name as Markdown that shows it letter by letter, on one line: no tag, link, formula or cell of a table."""
    line = " ".join(str(text).split())
    line = re.sub(r"[&<>]", lambda found: _ENTITIES[found[0]], line)
    # An underscore within a word means nothing; nor does what only begins a list or a heading at the start of a line.
    line = re.sub(r"[\\`*{}\[\]()#!|~$]|(?<![^\W_])_|_(?![^\W_])", lambda found: f"\\{found[0]}", line)
    return re.sub(r"\b(https?|ftp|www)(?=:|\.)", r"\1<!-- -->", line)  # or it is made a link


def code(text: object) -> str:
    """The same as code, whose fence is longer than any row of backticks in it."""
    line = " ".join(str(text).split())
    fence = "`" * (1 + max((len(row) for row in re.findall("`+", line)), default=0))
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"


def _names(names: list[str]) -> str:
    shown = ", ".join(map(plain, names[:20]))
    return f"{len(names)} classes: {shown}" + (", ..." if len(names) > 20 else "")


def _usage(name: str, description: Description) -> list[str]:
    height, width = description.size
    size = (
        f"any size whose sides {description.stride} divides (made for {width} x {height})"
        if description.any_size
        else f"{width} x {height} pixels (width x height)"
    )
    batch = f"{description.batch} at a time" if description.batch else "any number at a time"
    meaning = description.as_dict()
    # In a cfg the [yolo] sections decode, each program in its own way; the logits before them are the same everywhere.
    place = "before the [yolo] sections: " if name.endswith(".cfg") else ""
    ends = description.pixel_range
    command = f"thinyolo predict --model {name} --source pictures/"
    if ends:
        command += f" --pixel-range {ends[0]:g},{ends[1]:g}"
    lines = [
        f"- {code(command)}" + " (of pictures with more than 8 bits)" * bool(ends),
        f"- pictures: {size}, {batch}",
        f"- input: {meaning['input_meaning']}",
        f"- output: {place}{meaning['output_meaning']}",
        f"- boxes: {meaning['detection_meaning']}",
    ]
    if name.endswith(".onnx"):
        lines.insert(
            1,
            f"- without ThinYOLO: {code(f'python {EXAMPLE} {name} PICTURE ...')} reads all this from the file",
        )
    if description.spec.one_to_one:
        lines.append(f"- its heads are {ONE_TO_ONE}: an object gets one box, and no NMS is needed")
    if description.outputs == "heads":
        for number, spec in enumerate(description.specs):
            lines.append(f"- head{number}: stride {spec.stride}, {spec.explain()}")
    if description.nms and "iou" in description.nms:
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
    lines.append(f"- difference to PyTorch's outputs, {file.get('difference_measure', 'the largest')}: {shown}")
    scores = file.get("scores")
    if scores:
        mine, torchs = (f"{scores[k + 'mAP50-95']:.4f}, {scores[k + 'mAP50']:.4f}" for k in ("", "torch_"))
        lines.append(
            f"- mAP50-95 and mAP50 on {scores['split']} of {plain(scores['data'])}: {mine} (PyTorch: {torchs})"
        )
    else:
        lines.append(f"- mAP of this file: {UNKNOWN} (export with --data measures it)")
    trained = record["scores_in_training"]
    if trained:
        lines.append("- val during training: " + ", ".join(f"{name} {value:.4f}" for name, value in trained.items()))
    if int8 := file.get("int8"):
        pictures = f"{int8['pictures']} training pictures of {plain(int8['data'])}"
        lines.append(f"- {int8['candidate']}; calibrated on {pictures}")
    if latency := file.get("latency"):
        where = f"{latency['runtime']}, {latency['machine']}, threads: {latency['threads']}"
        times = f"{latency['median_ms']:.2f} ms a picture, {latency['cpu_ms']:.2f} ms of CPU time"
        lines.append(f"- latency: {times} ({where}, load average: {latency['load_average']})")
    else:
        lines.append(f"- latency: {UNKNOWN}")
    return lines


def _origin(record: Mapping[str, Any]) -> list[str]:
    source, data, lineage = record["source"], record["data"], record["lineage"]
    lines = [f"- data set: {plain(data['set'] or UNKNOWN)}", f"- stage: {plain(source['kind'] or UNKNOWN)}"]
    if source["format"]:
        lines.append(f"- {plain(source['weights'])} is {OURS}")
    lines.append(f"- input size in training: {plain(source['trained_at'] or UNKNOWN)}")
    for each in lineage["ancestors"]:
        share = (
            "its parameters are not known"
            if each["parameters"] is None
            else f"{each['parameters']:,} parameters, of which {each['share_kept']:.1%} are left"
        )
        lines.append(f"- descends from: {plain(each['kind'])} {code(each['fingerprint'][:16])} ({share})")
    if not lineage["ancestors"]:
        lines.append("- pruned from: no ancestor is recorded")
    lines += [f"- cut: {_cut(each)}" for each in lineage["cuts"]]
    if dropped := lineage["dropped_heads"]:
        lines.append(f"- heads left out: those of stride {', '.join(map(str, dropped))}")
    if teacher := lineage["teacher"]:
        same = f", the {plain(teacher['ancestor'])} named above" if teacher["ancestor"] else ""
        lines.append(f"- teacher: {plain(teacher['file'])} {code(teacher['sha256'][:16])}{same}")
        lines.append(f"- distillation: {plain(lineage['kd'] or UNKNOWN)}")
    else:
        lines.append("- teacher: none is recorded")
    lines.append(f"- fingerprint: `{source['fingerprint']}`")
    return lines


def _cut(cut: Mapping[str, Any]) -> str:
    """What pruning was asked for, and what it did."""
    asked = ", ".join(plain(f"{key}={value}") for key, value in cut["asked"].items() if key != "size")
    (channels, channels_left), (count, left), (macs, macs_left) = (cut[key] for key in ("channels", "params", "macs"))
    height, width = cut["size"]
    return (
        f"asked for {asked}; channels {channels:,} -> {channels_left:,}, parameters {count:,} -> {left:,} "
        f"({left / count:.1%} left), multiply-adds {macs / 1e9:.3f} G -> {macs_left / 1e9:.3f} G at {width} x {height}"
    )
