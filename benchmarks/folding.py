"""What pruning costs before any fine-tuning, with and without folding and BatchNorm re-estimation.

Takes a sparse network, cuts the given share of its channels by their gammas, and scores on one split: the network
itself, the network with those gammas set to 0, and what is left of it, folded or not, re-estimated or not.

    python benchmarks/folding.py --weights runs/train_prune/bccd/sparse/weights/sparse.pt --data bccd.yaml --share .6
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch

import data
import engine
import models
import prune
from common.errors import UserError, run_cleanly
from common.log import show_log
from prune.border import gammas_at_zero

NEAR_ZERO = 0.01
"""A gamma up to this part of the median of those that stay counts as near 0."""


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="the sparse network, a .pt")
    parser.add_argument("--data", required=True, help="the data set's yaml, or shapes")
    parser.add_argument(
        "--share", type=float, default=0.6, help="share of all channels that goes (default %(default)s)"
    )
    parser.add_argument("--strategy", default="union", help="who decides about tied channels (default %(default)s)")
    parser.add_argument("--split", default="val", help="the split that is scored (default %(default)s)")
    parser.add_argument("--imgsz", type=int, help="side of the network input; by default the cfg's")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--batches", type=int, default=16, help="training batches for the BatchNorm statistics (default %(default)s)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--tolerance", type=float, default=0.01, help="the mAP50-95 that may be lost (default %(default)s)"
    )
    return parser.parse_args(argv)


def gone_gammas(net: models.Network, thin: models.Network) -> tuple[np.ndarray, np.ndarray]:
    """|gamma| of the channels that went and of those that stayed, of all convolutions with BatchNorm."""
    kept = {row["layer"]: row["kept"] for row in thin.lineage[-1]["layers"].values()}
    gone, stayed = [np.zeros(0)], [np.zeros(0)]
    for number, layer in net.convolutions.items():
        if layer.bn is not None:
            gammas = layer.bn.weight.detach().abs().double().cpu().numpy()
            mask = np.zeros(len(gammas), bool)
            mask[kept.get(number, [])] = True
            stayed.append(gammas[mask])
            gone.append(gammas[~mask])
    return np.concatenate(gone), np.concatenate(stayed)


def candidates(
    net: models.Network, folded: models.Network, plain: models.Network, spec: data.DataSpec, args: argparse.Namespace
) -> dict[str, models.Network]:
    """The networks to compare, by name; the first is the measure."""
    size = (args.imgsz, args.imgsz) if args.imgsz else net.image_size
    pictures = data.Dataset(spec, "train", size=size)

    def anew(thin: models.Network) -> models.Network:
        twin = copy.deepcopy(thin)
        batches = data.make_loader(pictures, min(args.batch_size, len(pictures)), drop_last=True)
        prune.reestimate(twin, islice(batches, args.batches))
        return twin

    return {
        "sparse": net,
        "the same, their gammas at 0": gammas_at_zero(net, folded),
        "pruned, folded": folded,
        "pruned, not folded": plain,
        "pruned, folded, BatchNorm anew": anew(folded),
        "pruned, not folded, BatchNorm anew": anew(plain),
    }


def main(argv: Sequence[str] | None = None) -> int:
    args = options(argv)
    show_log()
    if not 0 < args.share < 1:
        raise UserError(f"--share {args.share:g} is not between 0 and 1", todo="give --share .6")
    net, spec = models.load(args.weights).to(args.device).eval(), data.load_spec(args.data)
    asked = {"strategy": args.strategy, "budget": f"channels={1 - args.share:g}", "layer_keep": 0.01}
    result = prune.channels(net, **asked)
    folded, plain = result.network, prune.channels(net, fold=False, **asked).network
    gone, stayed = gone_gammas(net, folded)
    print(result.report.text())
    print(
        f"|gamma| of the {len(gone)} channels that went: median {np.median(gone):.2e}, 99 % "
        f"{np.quantile(gone, 0.99):.2e}, largest {gone.max():.2e}; of the {len(stayed)} that "
        f"stayed: median {np.median(stayed):.2e}"
    )
    live = int((gone > NEAR_ZERO * np.median(stayed)).sum())
    print(
        f"{len(gone) - live} of those that went were near 0 (up to {NEAR_ZERO:.0%} of that median)"
        + (f"; what the other {live} did is lost, folding or not: ask for a smaller --share" if live else "")
    )
    scores = {}
    print(f"\n{'':36}  mAP50-95     lost     mAP50  parameters  away from 'gammas at 0'")
    for name, candidate in candidates(net, folded, plain, spec, args).items():
        score = engine.evaluate(
            candidate,
            spec,
            args.split,
            size=(args.imgsz, args.imgsz) if args.imgsz else None,
            batch_size=args.batch_size,
            device=args.device,
        )
        scores[name] = score.map50_95
        measured = candidate is folded or candidate is plain
        away = f"{max(prune.border_error(net, candidate)):23.2e}" if measured else ""
        print(
            f"{name:36}  {score.map50_95:8.4f}  {scores['sparse'] - score.map50_95:+7.4f}  {score.map50:8.4f}  "
            f"{models.parameters(candidate):10,}  {away}",
            flush=True,
        )
    lost = scores["sparse"] - scores["pruned, folded"]
    print(
        f"\n{args.share:.0%} of the channels pruned: folding leaves mAP50-95 {abs(lost):.4f} "
        f"{'below' if lost > 0 else 'above'} the sparse network, "
        f"{'within' if lost <= args.tolerance else 'NOT within'} {args.tolerance:g}; without folding it is "
        f"{scores['sparse'] - scores['pruned, not folded']:+.4f} away"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
