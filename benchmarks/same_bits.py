"""Did a change of the code's structure change anything that a user measures?

    python benchmarks/same_bits.py --out before.json --bccd bccd/data.yaml --weights yolov5n.pt --work /tmp/before
    ... change the code ...
    python benchmarks/same_bits.py --out after.json --bccd ... --weights ... --work /tmp/after --against before.json

On one thread: the demo; a KD fine-tune of two epochs on BCCD; one cut for each strategy and budget, and for each way of
scoring, searching and sharing out a cut; an ablation of two modes and two seeds. Kept of every run are the sha256 of
all weights in every .pt, all columns of every results.csv but those that a clock or the memory fills, and what was cut.
A step that is done is not done again; the numbers are those of one machine and one version of PyTorch.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common.child import run_python
from common.errors import UserError, run_cleanly

ROOT = Path(__file__).resolve().parents[1]
CLOCK = ("seconds", "memory_gb", "step ms", "step by none")
STRATEGIES = ("union", "shared", "conservative")
BUDGETS = ("channels=0.5", "params=0.3", "flops=0.4", "ratio=0.6")
CUTS = {
    **{
        f"{strategy}-{budget}": ["--strategy", strategy, "--prune", budget]
        for strategy in STRATEGIES
        for budget in BUDGETS
    },
    "taylor": ["--criterion", "taylor", "--prune", "params=0.3", "--round-to", "8"],
    "reader": ["--criterion", "gamma-reader", "--prune", "flops=0.4", "--shortcuts", "auto"],
    "filters": ["--criterion", "l2", "--prune", "channels=0.6", "--exclude", "0-3", "--layer-keep", "0.2"],
    "blocks": ["--prune", "none", "--shortcuts", "2"],
    "rounds": ["--prune", "params=0.3", "--shortcuts", "2", "--rounds", "2", "--round-epochs", "1"],
    "drop": ["--max-drop", "0.05"],
    "anew": ["--prune", "params=0.3", "--no-fold", "--reestimate-bn"],
}


def steps(arguments: argparse.Namespace) -> dict[str, tuple[str, list[str]]]:
    """Name of a run -> its script and options; each may start from the files of those before it."""
    runs, bccd = (
        arguments.work / "train_prune",
        ["--data", arguments.bccd, "--imgsz", "192", "--workers", "0", "--batch-size", "8"],
    )
    thin = ["--data", "shapes", "--imgsz", "128", "--workers", "0", "--epochs", "1"]
    found = {
        "demo": ("train_prune.py", ["--hyp", "demo"]),
        "bccd_line": (
            "train_prune.py",
            [
                *bccd,
                "--weights",
                arguments.weights,
                "--stages",
                "baseline,prune",
                "--epochs",
                "2",
                "--prune",
                "params=0.4",
            ],
        ),
        "bccd_kd": (
            "finetune_kd.py",
            [
                *bccd,
                "--weights",
                str(runs / "bccd_line/pruned/pruned.pt"),
                "--epochs",
                "2",
                "--kd",
                "scaled,bounded,mgd,aligned",
            ]
            + ["--t_weights", str(runs / "bccd_line/baseline/weights/best.pt"), "--nominal-batch", "16"],
        ),
    }
    sparse = str(runs / "demo/sparse/weights/sparse.pt")
    for name, options in CUTS.items():
        found[f"cut_{name}"] = ("train_prune.py", ["--weights", sparse, *thin, "--stages", "prune", *options])
    ablation = ["--hyp", "demo_kd", "--weights", str(runs / "demo/pruned/pruned.pt"), "--epochs", "2"]
    ablation += [
        "--t_weights",
        str(runs / "demo/baseline/weights/best.pt"),
        "--ablate",
        "none; scaled,bounded",
        "--seeds",
        "2",
    ]
    found["ablation"] = ("finetune_kd.py", ablation)
    return found


def measured(folder: Path) -> dict[str, Any]:
    """What a run left that must not change, by the file it is in."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.pt")):
        content = torch.load(path, map_location="cpu", weights_only=True)
        digest = hashlib.sha256()
        for name, tensor in sorted(content["state"].items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        parameters = sum(tensor.numel() for tensor in content["state"].values())
        found[str(path.relative_to(folder))] = {"sha256": digest.hexdigest(), "numbers": parameters}
    for path in sorted(folder.rglob("*.csv")):
        with open(path, newline="", encoding="utf-8") as handle:
            rows = [{key: value for key, value in row.items() if key not in CLOCK} for row in csv.DictReader(handle)]
        found[str(path.relative_to(folder))] = rows
    for path in sorted(folder.rglob("report.txt")):
        found[str(path.relative_to(folder))] = path.read_text(encoding="utf-8")
    return found


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """The places at which two records differ; what only one of them has counts."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = list(dict.fromkeys([*before, *after]))
        return [line for key in keys for line in differences(before.get(key), after.get(key), f"{where}/{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs: Sequence[tuple[Any, Any]] = list(zip(before, after))
        return [line for number, (a, b) in enumerate(pairs) for line in differences(a, b, f"{where}[{number}]")]
    return [] if before == after else [f"{where}: {before!r:.120} -> {after!r:.120}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="what was measured, as JSON")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--bccd", required=True, help="yaml of a small real data set")
    parser.add_argument("--weights", required=True, help="a trained yolov5n")
    parser.add_argument("--against", type=Path, help="an earlier --out to compare with")
    parser.add_argument("--only", nargs="+", help="only the runs whose names begin with these")
    arguments = parser.parse_args()
    record: dict[str, Any] = {}
    for name, (script, options) in steps(arguments).items():
        if arguments.only and not name.startswith(tuple(arguments.only)):
            continue
        kind = "ablate" if "--ablate" in options else Path(script).stem
        folder, done = arguments.work / kind / name, arguments.work / f"{name}.done"
        if not done.exists():
            shared = [
                "--project",
                str(arguments.work),
                "--name",
                name,
                "--exist-ok",
                "--threads",
                "1",
                "--wandb",
                "off",
            ]
            try:
                run_python(ROOT / script, *options, *shared)
            except UserError:  # a budget that this strategy cannot reach has to be refused afterwards too
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "report.txt").write_text("refused", encoding="utf-8")
            done.touch()
        record[name] = measured(folder)
        arguments.out.write_text(json.dumps(record, indent=1), encoding="utf-8")
    if arguments.against is None:
        return 0
    before = json.loads(arguments.against.read_text(encoding="utf-8"))
    wrong = [line for name in record for line in differences(before.get(name), record[name], name)]
    print("\n".join(wrong[:50]) or f"{len(record)} runs: the same bits")
    if wrong:
        raise UserError(f"{len(wrong)} values differ from those in {arguments.against}")
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
