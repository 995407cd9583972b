"""Baseline, sparsity training, pruning and, if wanted, the student: one run of several stages."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import prune
from common.errors import UserError
from common.files import whole_file
from common.log import log
from common.rundir import MARK, START, mark
from data import DataSpec, choose_anchors
from data.folds import folds_of
from data.labels import scan
from distill import Teacher
from engine import Hooks, checkpoints, distributed
from models.keys import layer_of
from models.lineage import identity_lineage
from models.network import Network
from pipeline.conclusion import PLAIN, PRETRAINED, PRUNED, Line
from pipeline.crossfit import fold_epochs, fold_specs, say_cost
from pipeline.cut import Cutter
from pipeline.finetune import FinetuneResult, finetune
from pipeline.footage import check_footage, gathered
from pipeline.foresight import check_target, check_trained, check_used
from pipeline.prune_options import PruneConfig
from pipeline.show import (
    GammaHistograms,
    LayerRow,
    layer_rows,
    quantiles,
    write_rows,
)
from pipeline.sparsifying import PrunedScore, foreseen, make_sparsity, watched
from pipeline.spent import (
    LONGER,
    epochs_after_baseline,
    longer_row,
    say_equal,
)
from pipeline.stage import check_options, check_space, check_test, stage_tracker, train_network
from pipeline.start import chosen_stages, first_network
from pipeline.teaching import refuse_modes
from pipeline.unhelped import worse_than_begun
from reporting.cut_words import cut_in_words
from reporting.results import scores


class PruneRun(Line):
    """The stages of one run. Each leaves its network in a file, and finds it there when the run is resumed."""

    def go(self) -> None:
        """Every chosen stage, then the table, the verdict and the report."""
        start = self._start()
        stages = chosen_stages(self.config, start, self.spec)
        log.info("%s: stages %s", self.folder, ", ".join(stages))
        if self._anchors(start) == "fit" and "baseline" not in stages:
            asked = "--drop-heads" if start.meta.get("dropped_heads") else "--anchors fit"
            raise UserError(
                f"{asked}: new anchors have to be learnt, and there is no baseline stage",
                todo="add --stages baseline,sparse,prune, or --anchors keep",
            )
        if dropped := start.meta.get("dropped_heads"):
            strides = ", ".join(map(str, dropped))
            self.tell(
                "heads", f"cut off before the baseline, with all that only they read: the heads of stride {strides}"
            )
        check_test(self.spec)
        check_options(start, self.config)
        check_space(start, self.config, self.folder, len(stages) + self.config.rounds + self.config.cross_fit)
        self._rehearse(start, stages)
        # A network that is only cut may be anything: of what is trained sparse the baseline is meant.
        self.first = "baseline" if {"baseline", "sparse"} & set(stages) else "input"
        line: tuple[str, ...] = ("baseline",) if "baseline" in stages else ()
        baseline = self.baseline(start) if line else start
        last = self.add(self.first, baseline, line)
        if not line and self.config.weights:
            self.notes[self.first] = "came with --weights: how long it was trained before is not counted"
        if "sparse" in stages:
            line = (*line, "sparse")
            last = self.add("sparse", self.sparse(last), line)
        if "prune" in stages:
            last, line = self.cut(last, line)
        if "student" in stages:
            if self.config.equal_baseline:
                self.longer(baseline, stages)
            self.students(last, baseline, line)
        text = self.summarise()
        if distributed.is_main():
            print(text)

    def _rehearse(self, start: Network, stages: Sequence[str]) -> None:
        """Try the cut and the teacher on the first network: what cannot work is said before hours of training."""
        check_used(self.config, stages)
        check_trained(self.config, stages)
        if "prune" in stages:
            check_target(self.config, Cutter(self.config, self.spec, start).rehearse(), stages)
        if "student" in stages:
            if self.config.t_cfg or self.config.t_weights:
                refuse_modes(self.config, start, Teacher.load(self.config.t_cfg, self.config.t_weights, start))
            if self.config.cross_fit:
                self._check_cross_fit(stages)
            if self.config.equal_baseline:
                say_equal(self.config, stages)
            check_footage(self.config)
        if "student" in stages or (self.config.reconstruct and "prune" in stages):
            self.config = gathered(self.config, self.spec, self.folder)

    def _left(self, path: Path) -> bool:
        """Whether the run that is resumed has left this file; one of an older run in a reused folder does not count."""
        return bool(self.config.resume) and path.exists()

    def _start(self) -> Network:
        """What the run begins with, kept in its folder: a resumed run begins with the same bits."""
        kept = self.folder / START
        begun = bool(self.config.resume) and any(self.folder.glob(f"*/{checkpoints.LAST}"))
        if begun or self._left(kept):
            content = checkpoints.read_own(kept)
            checkpoints.check_pictures(content["extra"].get("pictures"), self.spec, kept)
        elif distributed.is_main():
            first = first_network(self.config, self.spec)
            models.save(first, kept, extra={MARK: mark(kept), "pictures": checkpoints.pictures_of(self.spec)})
        distributed.barrier()
        return models.load(kept)

    def _anchors(self, start: Network) -> str:
        """`--anchors`, where heads were dropped "fit" for "auto": the others share out the boxes anew."""
        return "fit" if self.config.anchors == "auto" and start.meta.get("dropped_heads") else self.config.anchors

    def baseline(self, start: Network) -> Network:
        """Ordinary training."""
        config = self.config
        if config.weights:
            self.add(PRETRAINED, start, ())
        anchors, reason = choose_anchors(
            self._anchors(start), self.spec, start.specs, config.input_size, config.seed, resize=start.resize
        )
        log.info("%s", reason)
        network = copy.deepcopy(start)
        return self._train(network if anchors is None else network.with_anchors(anchors), config, "baseline")

    def sparse(self, baseline: Network) -> Network:
        """Sparsity training.

        Its *last* weights go on, as `sparse.pt`. `best.pt` is the best by mAP of the epochs at the target, or absent.
        """
        config = watched(self.config.for_stage(self.config.sparse_epochs, self.config.sparse_lr0))
        folder = self.folder / "sparse"
        network = copy.deepcopy(baseline)
        network.lineage = [*baseline.lineage, identity_lineage(baseline, "baseline")]
        hook = make_sparsity(network, config)
        settled = folder / "weights" / "sparse.pt"
        if not self._left(settled):
            self._train(network, config, "sparse", hook)
            self._settle(folder, settled)
        state = checkpoints.read_last(folder)
        hooks = state["hooks"] if state else ()
        noted: dict[str, Any] = next((each for each in hooks if "history" in each), {})  # by the sparsity's hook
        self.gammas = quantiles(noted.get("history", []), noted.get("histograms", ()))
        return checkpoints.own_network(settled, checkpoints.MADE_AGAIN)

    def _settle(self, folder: Path, settled: Path) -> None:
        """An average never quite reaches 0: where the live gamma is exactly 0, so is the averaged one from now on."""
        state = checkpoints.read_last(folder)
        assert state is not None
        averaged = models.load(folder / checkpoints.LAST)
        live = copy.deepcopy(averaged)
        live.load_state_dict(state["network"])
        before = scores(averaged, self.spec, self.config, splits=("val",))["val"]
        changed = prune.settle_ema(live, averaged)
        after = scores(averaged, self.spec, self.config, splits=("val",))["val"] if changed else before
        log.info(
            "sparse: %d channels that training has switched off (scale 0) are so in the saved weights too; "
            "val mAP50-95 %.4f -> %.4f",
            changed,
            before.map50_95,
            after.map50_95,
        )
        self._keep(averaged, settled)

    def cut(self, network: Network, line: tuple[str, ...]) -> tuple[Network, tuple[str, ...]]:
        """Remove channels and shortcut blocks; with ``--rounds`` in several cuts, a short training between two.

        Args:
            line: the folders of the trainings behind `network`; returned with those that were added.
        """
        cutter = Cutter(self.config, self.spec, network)
        kind = "sparse" if "sparse" in self.networks else self.first
        for number in range(1, self.config.rounds):
            folder = self.folder / f"round{number}"
            thin = self._cut(cutter, network, kind, number, folder / "cut")
            kind, line = f"round {number}", (*line, folder.name)
            network = self.add(kind, self._recover(thin, folder), line)
        pruned = self._cut(cutter, network, kind, self.config.rounds, self.folder / "pruned")
        return self.add("pruned", pruned, line), line

    def _cut(self, cutter: Cutter, network: Network, kind: str, number: int, folder: Path) -> Network:
        """One cut, by rank 0 for all; its network is found again when the run is resumed.

        Leaves `pruned.pt`, a Darknet cfg with weights, what was done (`report.txt`) and the layers (`channels.csv`).
        """
        path = folder / "pruned.pt"
        if distributed.is_main() and not self._left(path):
            result = cutter(network, kind, number)
            text = result.report.text()
            log.info("%s\nmore of the cut: %s", result.report.brief(), folder / "report.txt")
            try:
                models.save_darknet(result.network, folder / "pruned.cfg", folder / "pruned.weights")
            except UserError as error:  # heads without anchors; a backbone with operators that Darknet has no word for
                log.info("pruned.pt stands alone, without Darknet files: %s", error.problem)
            with whole_file(folder / "report.txt") as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
            held = result.report.held if network is cutter.uncut else {}
            rows = layer_rows(cutter.uncut, result.network, self.config.input_size, held)
            write_rows(folder / "channels.csv", rows)
            self._track_cut(folder, number, rows, (cutter.uncut, result.network))
            extra = {MARK: mark(path), "pruning": result.report.as_dict(), "report": text, "layers": rows}
            models.save(result.network, path, extra=extra)
        distributed.barrier()
        content = checkpoints.read_own(path, checkpoints.MADE_AGAIN)
        self.layers = content["extra"]["layers"]
        title = f"cut {number} of {self.config.rounds}" if self.config.rounds > 1 else "what the cut did"
        self.tell(title, content["extra"]["report"], cut_in_words(content["extra"]["pruning"], self.layers))
        return models.from_checkpoint(content, path)

    def _recover(self, thin: Network, folder: Path) -> Network:
        """A short training between two cuts, without a pull on the gammas."""
        config = self.config.for_stage(self.config.recovery_epochs, self.config.finetune_lr0)
        return self._train(thin, replace(config, freeze=self._frozen_in(thin)), folder.name)

    def _track_cut(
        self, folder: Path, number: int, rows: Sequence[LayerRow], networks: tuple[Network, Network]
    ) -> None:
        """The layer table, and the totals before and after, in W&B."""
        kind = "prune" if number == self.config.rounds else f"prune{number}"
        with stage_tracker(self.config, folder, kind, self.folder.name) as tracker:
            tracker.log_table("channels", list(rows[0]), [list(row.values()) for row in rows])
            for when, network in zip(("before", "after"), networks):
                tracker.log_summary(
                    {
                        f"channels/{when}": sum(conv.out_channels for conv in network.conv_modules.values()),
                        f"params/{when}": models.parameters(network),
                        f"macs/{when}": models.macs(network, self.config.input_size),
                    }
                )

    def longer(self, baseline: Network, stages: Sequence[str]) -> None:
        """The uncut network trained on for as long as the line after it: equal training is compared."""
        config = self.config.for_stage(epochs_after_baseline(self.config, stages), self.config.finetune_lr0)
        trained = (*self.stages[self.first], LONGER)
        self.add(longer_row(self.first), self._train(copy.deepcopy(baseline), config, LONGER), trained)

    def students(self, pruned: Network, baseline: Network, line: tuple[str, ...]) -> None:
        """Fine-tune under the baseline, and with --compare-plain once more without it."""
        config = self.config.for_stage(self.config.finetune_epochs, self.config.finetune_lr0)
        config = replace(config, freeze=self._frozen_in(pruned))
        teacher: Network | Sequence[Network] | None = None if config.t_cfg or config.t_weights else baseline
        if config.cross_fit and teacher is baseline:
            teacher = self._fold_teachers(baseline)
        done = finetune(
            config, self.folder / "student", student=copy.deepcopy(pruned), teacher=teacher, group=self.folder.name
        )
        if config.compare_plain:
            self._plain(config, pruned, done, line)
        self.add("student", done.student, (*line, "student"))
        self.scored["student"] = done.scores["student"]
        self.notes["student"] = done.note
        self.unhelped = worse_than_begun(done.scores, PRUNED)
        if teacher is baseline:
            self.scored[self.first] = done.scores["teacher"]

    def _plain(self, config: PruneConfig, pruned: Network, student: FinetuneResult, line: tuple[str, ...]) -> None:
        """The fine-tune that nobody teaches, with which the student is compared; the student, where nobody taught."""
        if student.kd_off or not config.distil.modes():
            why = student.kd_off or f"KD off: --kd {config.distil.kd}"
            log.info("--compare-plain: the student is the plain fine-tune (%s); it is not trained twice", why)
            self.remarks.append(f"{PLAIN}: it is the student, and was not trained twice. {why}")
            return
        untaught = replace(config.distil, kd="none")
        alone = replace(config, distil=untaught, t_cfg="", t_weights="", unlabelled=(), cross_fit=0)
        done = finetune(
            alone, self.folder / "plain", student=copy.deepcopy(pruned), kind="plain", group=self.folder.name
        )
        self.add(PLAIN, done.student, (*line, "plain"))
        self.scored[PLAIN] = done.scores["student"]

    def _check_cross_fit(self, stages: Sequence[str]) -> None:
        if not self.config.distil.modes():
            raise UserError(
                f"--cross-fit {self.config.cross_fit} with --kd none: teachers would be trained that nobody asks",
                todo="leave out one of the two",
            )
        if self.config.t_cfg or self.config.t_weights:
            return  # the teachers of an earlier run
        if "baseline" not in stages:
            raise UserError(
                f"--cross-fit {self.config.cross_fit} without a baseline stage: what this run begins with has seen all "
                "pictures",
                todo="begin with weights of other pictures (--stages baseline,sparse,prune,student trains them on "
                "these), or --t_weights fold1.pt+fold2.pt, or --cross-fit 0",
            )
        folds_of(len(scan(self.spec, "train").pictures), self.config.cross_fit)  # refuses more folds than pictures
        say_cost(self.config.cross_fit, self.config.epochs)

    def _fold_teachers(self, baseline: Network) -> list[Network]:
        """From what the baseline began with, and with its anchors: a network a fold that has not seen it."""
        anchors = [spec.anchors for spec in baseline.specs]
        config = replace(self.config, epochs=fold_epochs(self.config.epochs, self.config.cross_fit))
        found, reports = [], []
        for number, spec in enumerate(fold_specs(config, self.spec), start=1):
            start = models.load(self.folder / START).with_anchors(anchors)
            found.append(self._train(start, config, f"fold{number}", spec=spec))
            reached = scores(found[-1], self.spec, config, splits=("val",))["val"].map50_95
            log.info("the teacher of fold %d: val mAP50-95 %.4f", number, reached)
            reports.append(f"{reached:.4f}")
        self.tell(
            "cross-fit teachers",
            f"the student was taught by {len(found)} networks, each trained without the pictures it taught on; "
            f"their val mAP50-95: {', '.join(reports)}",
        )
        return found

    def _frozen_in(self, pruned: Network) -> str:
        """`--freeze` names the baseline's layers: the numbers of what is left of them in the pruned network."""
        baseline = self.networks[self.first]
        frozen = self.config.frozen_layers(len(baseline.layers))
        if not frozen or len(pruned.lineage) <= len(baseline.lineage):
            return self.config.freeze
        rows = pruned.lineage[len(baseline.lineage)]["layers"]  # the first ancestor the baseline does not have: itself
        number = {layer: layer_of(layer) for layer in rows}  # what is inside a backbone: the backbone
        left = {number[layer] for layer, row in rows.items() if layer_of(row["layer"]) in frozen}
        return "".join(f"{layer}," for layer in sorted(left))

    def _train(
        self,
        network: Network,
        config: PruneConfig,
        stage: str,
        sparsity: prune.Sparsity | None = None,
        spec: DataSpec | None = None,
    ) -> Network:
        folder = self.folder / stage
        if self._left(folder) and (done := checkpoints.finished(folder)):
            return checkpoints.own_network(done.best, checkpoints.anew(folder))
        hooks: list[Hooks] = []
        with stage_tracker(config, folder, stage, self.folder.name) as tracker:
            if sparsity:
                pruned_now = PrunedScore(lambda averaged: prune.thin(averaged, foreseen(config)))
                hooks = [sparsity, GammaHistograms(sparsity, network, tracker), pruned_now]
            trained = train_network(
                network, spec or self.spec, config, folder, kind=stage, hooks=hooks, tracker=tracker
            )
            if isinstance(sparsity, prune.AutoSparsity):
                log.info("auto sparsity: %s", sparsity.conclusion())
                tracker.log_summary({"sparsity": sparsity.conclusion()})
        return trained

    @staticmethod
    def _keep(network: Network, path: Path) -> None:
        if distributed.is_main():
            models.save(network, path, extra={MARK: mark(path)})
        distributed.barrier()
