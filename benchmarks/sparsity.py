"""Sparsity by a target against hand-chosen strengths, at equal epochs from one baseline.

    python benchmarks/sparsity.py --weights baseline.pt --hyp demo --out runs/sparsity -- --threads 1 --sparse-epochs 8

What follows ``--`` goes to every `train_prune.py`. A run that is there already is not done again, one that was stopped
goes on; ``--only auto,0.003,proximal/0.5`` does these (a strength may name its form). The table is about the val split
and, for every way, it shows:

- the mAP at the end of the stage (averaged weights, the gammas that are exactly 0 settled);
- the share of prunable gammas that could go: near zero (1 % of the 95th percentile), with their whole tied group;
- the mAP once the network is cut to the same number of channels, with folding and before any fine-tuning;
- the mAP of that cut network after ``--finetune-epochs`` of plain fine-tuning, the same for all: what a user ends with.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import models
import prune
from common.child import run_python
from common.command_line import parse_config
from common.errors import run_cleanly
from common.files import whole_file
from common.options import load_config
from data import DataSpec, load_spec
from engine import evaluate
from models.network import Network
from pipeline.finetune import finetune
from pipeline.prune_options import PruneConfig

ROOT = Path(__file__).resolve().parents[1]
STRENGTHS = ("1e-4", "3e-4", "1e-3", "3e-3", "1e-2")


@dataclass(frozen=True)
class Row:
    """One way of training; mAPs are [50-95, 50]. `tuned` is empty where nothing was fine-tuned."""

    name: str
    sparse: list[float]
    share: float
    pruned: list[float]
    tuned: list[float]


def trained(name: str, flags: list[str], arguments: argparse.Namespace) -> Path:
    """The run's folder, trained now unless it is there."""
    run = arguments.out / "train_prune" / name
    if (run / "sparse" / "weights" / "sparse.pt").exists():
        return run
    if (run / "args.yaml").exists():
        line = ["--resume", str(run)]
    else:
        # The weights bring their own cfg, whatever the options name.
        line = [
            "--weights",
            arguments.weights,
            "--hyp",
            arguments.hyp,
            "--cfg",
            "",
            "--stages",
            "sparse",
            "--no-then-kd",
            "--project",
            str(arguments.out),
            "--name",
            name,
            "--wandb",
            "off",
            *flags,
            *arguments.further,
        ]
    run_python(ROOT / "train_prune.py", *line, cwd=ROOT)
    return run


def measured(name: str, run: Path, target: float, epochs: int, recipe: PruneConfig) -> Row:
    """Score the network of a run, and what is left of it when the target share is cut; kept in the run's folder."""
    kept = run / f"measured-{target:g}-{epochs}.json"
    if kept.exists():
        return Row(**json.loads(kept.read_text(encoding="utf-8")))
    config = load_config(PruneConfig, run)
    net = models.load(run / "sparse" / "weights" / "sparse.pt")
    hook = prune.Sparsity(net, 0.0)
    total = sum(conv.out_channels for conv in net.convolutions.values())
    budget = f"channels={1 - target * len(hook.values(net)) / total:.4f}"
    thin = prune.channels(net, budget=budget, layer_keep=config.layer_keep).network
    spec = load_spec(config.data, single_cls=config.single_cls)
    share = hook.share_near_zero(net)
    scores = [val(each, spec, config) for each in (net, thin)]
    tuned = []
    if epochs:
        # One optimiser for all: whichever the sparsity training had, the recipe's own repairs the cut.
        stage = replace(config, optimizer=recipe.optimizer).for_stage(epochs, recipe.finetune_lr0 or recipe.lr0)
        tuned = val(finetuned(thin, stage, run / f"finetuned-{target:g}-{epochs}"), spec, config)
    row = Row(name, scores[0], share, scores[1], tuned)
    with whole_file(kept) as temporary:
        temporary.write_text(json.dumps(asdict(row)), encoding="utf-8")
    return row


def val(net: Network, spec: DataSpec, config: PruneConfig) -> list[float]:
    score = evaluate(net, spec, "val", config.input_size)
    return [score.map50_95, score.map50]


def finetuned(thin: Network, stage: PruneConfig, folder: Path) -> Network:
    """`thin` after a fine-tune without a teacher."""
    plain = replace(stage, distil=replace(stage.distil, kd="none"), resume=str(folder))
    return finetune(plain, folder, student=thin, kind="plain", figures=False).student


def table(rows: list[Row], target: float) -> str:
    """The rows, and how far the target's run lies from the best strength."""
    lines = [
        f"{'':>18}  {'sparse mAP50-95':>15}  {'mAP50':>6}  {'near zero':>9}  "
        f"{f'cut by {target:.0%}: mAP50-95':>22}  {'mAP50':>6}  {'fine-tuned: mAP50-95':>20}  {'mAP50':>6}"
    ]
    for row in rows:
        line = (
            f"{row.name:>18}  {row.sparse[0]:15.4f}  {row.sparse[1]:6.4f}  {row.share:9.1%}  "
            f"{row.pruned[0]:22.4f}  {row.pruned[1]:6.4f}"
        )
        lines.append(line + (f"  {row.tuned[0]:20.4f}  {row.tuned[1]:6.4f}" if row.tuned else ""))
    by_hand = [row for row in rows if row.name.startswith("s=")]
    for auto in (row for row in rows if by_hand and row not in by_hand):
        shown = [("sparse", "sparse"), ("pruned", "cut"), *([("tuned", "fine-tuned")] if auto.tuned else [])]
        gaps = [
            f"{getattr(auto, what)[0] - max(getattr(row, what)[0] for row in by_hand):+.4f} {word}"
            for what, word in shown
        ]
        lines.append(f"{auto.name} - best strength: {', '.join(gaps)}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="the baseline every run starts from")
    parser.add_argument("--hyp", required=True, help="options of the stage: a YAML file or a name in cfg/hyp")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--target", type=float, default=0.7, help="share of the prunable channels (default: 0.7)")
    parser.add_argument("--only", default="", help="auto and strengths, as auto,1e-3,proximal/0.5 (default: all)")
    parser.add_argument("--finetune-epochs", type=int, default=0, help="of the cut networks (default: 0, not at all)")
    parser.add_argument("--finetune-lr0", type=float, default=0.0, help="of the fine-tune (default: the recipe's)")
    parser.add_argument("further", nargs="*", help="after --: further options of train_prune.py")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else ["auto", *STRENGTHS]
    recipe = parse_config(PruneConfig, ["--hyp", arguments.hyp])
    recipe = replace(recipe, finetune_lr0=arguments.finetune_lr0 or recipe.finetune_lr0)
    rows = []
    for each in wanted:
        form, _, strength = each.rpartition("/")
        name = each if each == "auto" else f"s={strength}" + f"-{form}" * bool(form)
        flags = ["--sparsity", "auto", "--target", str(arguments.target)]
        if each != "auto":
            flags = ["--sparsity", "constant", "--s", strength, "--sparse-form", form or "auto"]
        run = trained(name, flags, arguments)
        rows.append(measured(name, run, arguments.target, arguments.finetune_epochs, recipe))
        print(table(rows, arguments.target), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main, after_stop="The same command goes on."))
