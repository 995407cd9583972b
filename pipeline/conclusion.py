"""What a run of several stages says in the end: the table, the verdict, the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import models
from common.rundir import network_in
from data import DataSpec, load_spec
from engine import distributed
from engine.bootstrap import Interval
from engine.checkpoints import Progress
from engine.evaluate import Score
from engine.plots import plot_channels, plot_gammas
from models.network import Network
from pipeline.measured import Mark
from pipeline.prune_options import PruneConfig
from pipeline.records import begun_record, compared, costed, lineage_records
from pipeline.show import LayerRow, channel_bars, side_by_side, training_pictures
from pipeline.spent import LONGER, improving, longer_row, progress_of, spent
from pipeline.stage import stage_tracker
from pipeline.unhelped import why_instead
from reporting.page import write_report
from reporting.record import kept_speeds
from reporting.report import EPOCHS, Row, scored_on, text_table
from reporting.results import Scores, counted, footnote, interval_of, pictures, scores, shown_split, table
from reporting.speed import Speeds
from reporting.verdict import NOTHING, same_network, short_verdict, unlearnt, verdict

PLAIN, PRETRAINED, PRUNED = "plain fine-tune", "pretrained", "pruned"
CUT = Path(PRUNED) / "pruned.pt"


class Line:
    """The networks of one run in the order in which they were made, and what is to be told of them.

    Args:
        config: the options.
        folder: the run's folder.

    Attributes:
        networks: name -> network, in the order of the table.
        first: the name of the network that the others are compared with.
        scored: name -> scores, of those a stage has scored.
        notes: name -> what its row has to say.
        stages: name -> the folders of all the trainings behind it, in order.
        layers: what pruning did, a row a convolution.
        told: "title", "plain" (sentences) and "text" of each cut, see `reporting.record.Record`.
        remarks: last lines of the verdict.
        unhelped: a sentence where the student was at least as good before its first step, as it was cut; else "".
        gammas: the gammas' quantiles, a row an epoch of sparsity training.
    """

    def __init__(self, config: PruneConfig, folder: Path):
        self.config, self.folder = config, folder
        self.spec: DataSpec = load_spec(config.data, single_cls=config.single_cls)
        self.networks: dict[str, Network] = {}
        self.first = "baseline"
        self.scored: dict[str, Scores] = {}
        self.notes: dict[str, str] = {}
        self.stages: dict[str, tuple[str, ...]] = {}
        self.layers: list[LayerRow] = []
        self.told: list[dict[str, Any]] = []
        self.remarks: list[str] = []
        self.unhelped = ""
        self.gammas: list[dict[str, Any]] = []

    def add(self, name: str, network: Network, trained: tuple[str, ...]) -> Network:
        """A row of the table: a network, and the folders of the trainings behind it."""
        self.networks[name], self.stages[name] = network, trained
        return network

    def _trained(self) -> list[str]:
        """Folders of the run in which something is trained; "plain" is the fine-tune without a teacher."""
        rounds = [f"round{number}" for number in range(1, self.config.rounds)]
        folds = [f"fold{number}" for number in range(1, self.config.cross_fit + 1)]
        return ["baseline", "sparse", *rounds, *folds, LONGER, "plain", "student"]

    def summarise(self) -> str:
        """Score every network on the same pictures, write ``report.html``; the terminal's table and verdict."""
        split, size = shown_split(self.spec), self.config.input_size
        last = list(self.networks)[-1]
        drawn = self.folder / "student" / "student" if last in self.scored else self.folder / "scores"
        for name in [each for each in self.networks if each not in self.scored]:  # in one order on every process
            folder = drawn if name == last else None  # figures are of the last network: they take longer than the score
            self.scored[name] = scores(self.networks[name], self.spec, self.config, folder, (split,))
        if not distributed.is_main():
            return ""
        found = {name: self.scored[name][split] for name in self.networks}
        kept = kept_speeds(self.folder) if self.config.resume else {}
        rows, speeds = table(self.networks, found, size, kept.get("table"))
        rows = [replace(row, epochs=sum(self._epochs(row.name)), note=self.notes.get(row.name, "")) for row in rows]
        by_name = {row.name: row for row in rows}
        line = self._verdict(by_name, speeds, split) if last != self.first else ""
        # What came in says something of the others only where it detects something.
        rows = [row for row in rows if row.name != PRETRAINED or (row.map50 or 0.0) >= NOTHING]
        page = self._report(rows, found, split, line, speeds, drawn / split)
        self._track_end(rows, line, split)
        mean = scored_on(split, found[last].images, size)
        footnotes = [mean, speeds.measured_with, footnote(found[last]), EPOCHS]
        return "\n".join(filter(None, ["", text_table(rows), *footnotes, line, f"report: {page}"]))

    def _report(
        self, rows: Sequence[Row], found: Mapping[str, Score], split: str, line: str, speeds: Speeds, drawn: Path
    ) -> Path:
        """Leave the run's record, and its page; `drawn` is where the last network's figures are."""
        last = list(self.networks)[-1]
        record = begun_record(self.config, self.spec, split, self.folder.name, self._asked())
        record["speeds"] = {"table": speeds.as_dict()}
        figures, shown = pictures(drawn)
        matches = {last: found[last].matches}
        if last != self.first:
            by_name = {row.name: row for row in rows}
            first, thin = ((by_name[name], found[name]) for name in (self.first, last))
            compared(record, self.folder, self.spec, first, thin)
            figured = [name for name in (self.first, PRUNED, PLAIN) if name in found and name != last]
            marks = [
                Mark(name, kind, self.config.input_size, found[name], self.networks[name])
                for name, kind in zip([*figured, last], ["fat", *["cut"] * len(figured)])
            ]
            marks[-1] = replace(marks[-1], path=network_in(self.folder))
            instead = None
            if self.unhelped and PRUNED in figured:
                place = figured.index(PRUNED)
                marks[place] = replace(marks[place], path=self.folder / CUT)
                instead = PRUNED, why_instead(self.unhelped, self.folder / CUT, self.config)
            matches |= costed(record, self.folder, self.spec, self.config, marks, instead)
        record |= {
            "verdict": line,
            "rows": [asdict(row) for row in rows],
            "baseline": self.first,
            "last": last,
            "resize": self.networks[last].resize,
            "measured_with": speeds.measured_with,
            "counted": counted(found[last]),
            "cut": self.told,
            "layers": self.layers,
            "results": {stage: f"{stage}/results.csv" for stage in self._trained()},
            "figures": [
                (caption, path.relative_to(self.folder).as_posix())
                for caption, path in [*self._training_pictures(), *figures, *([] if last != self.first else shown)]
            ],
            "lineage": lineage_records(self.networks[last].lineage),
        }
        if self.layers:
            record["channels"] = plot_channels(channel_bars(self.layers), self.folder / "channels.png").name
        if self.gammas and (path := plot_gammas(self.gammas, self.folder / "gammas.png")):
            record["gammas"] = path.name
        return write_report(self.folder, record, matches)

    def _asked(self) -> str:
        """The options that say what the run was to do."""
        config, trained = self.config, any("student" in stages for stages in self.stages.values())
        words = [f"cut to {config.budget}" if config.budget else f"cut that costs {config.max_drop:g} mAP at most"]
        words += [f"without {config.shortcuts} shortcut blocks"] * (config.shortcuts not in ("", "0"))
        asked = words if self.told else []
        last = list(self.networks)[-1]
        epochs = {name: sum(self._epochs(name)) for name in (self.first, last)}
        asked += [f"kd {config.distil.kd}"] * trained
        return ", ".join([*asked, *(f"{name} of {count} epochs" for name, count in epochs.items() if count)])

    def _training_pictures(self) -> list[tuple[str, Path]]:
        """Of the first training of this run, if there is one."""
        first = next((self.folder / stages[0] for stages in self.stages.values() if stages), None)
        return training_pictures(self.folder, first, self.spec) if first else []

    def _epochs(self, name: str) -> list[int]:
        """Of each training behind a network."""
        return [self._progress[stage].epoch for stage in self.stages[name]]

    @cached_property
    def _progress(self) -> dict[str, Progress]:
        """Of every training behind a row, once all are done; read once, for most stand behind several rows."""
        trained = dict.fromkeys(stage for stages in self.stages.values() for stage in stages)
        return {stage: progress_of(self.folder / stage) for stage in trained}

    def _verdict(self, rows: Mapping[str, Row], speeds: Speeds, split: str) -> str:
        """The last network against the first, and against those that were trained as long; a comparison a line."""
        last = list(rows)[-1]

        def interval(name: str) -> Interval | None:
            return interval_of(self.scored[name][split], self.scored[last][split])

        more = [spent(self.first, self._epochs(self.first), last, self._epochs(last))]
        if self.stages[self.first]:
            more.append(improving(self._progress["baseline"].history))
        if models.fingerprint(self.networks[self.first]) == models.fingerprint(self.networks[last]):
            more.append(same_network(self.first, last))
        lines = [
            verdict(
                rows[self.first],
                rows[last],
                split,
                interval=interval(self.first),
                speed=speeds.compared(self.first, last),
                more=" ".join(filter(None, more)),
            )
        ]
        others = [name for name in (longer_row(self.first), PLAIN) if name in rows]
        if PRETRAINED in rows and self.first != PRETRAINED:
            came = interval_of(self.scored[PRETRAINED][split], self.scored[self.first][split])
            if warning := unlearnt(rows[PRETRAINED], rows[self.first], split, came):
                others.append(PRETRAINED)
                self.remarks.append(warning)
        lines += [short_verdict(rows[name], rows[last], split, interval(name)) for name in others]
        if self.unhelped:
            self.remarks.append(self.unhelped)
        return "\n".join([*lines, *self.remarks])

    def tell(self, title: str, text: str, plain: Sequence[str] = ()) -> None:
        """Something that was done to the network, for the report."""
        self.told.append({"title": title, "plain": list(plain), "text": text})

    def _track_end(self, rows: Sequence[Row], line: str, split: str) -> None:
        """All networks in a table, the verdict, predictions and channels, in a W&B run beside those of the stages."""
        tracker = stage_tracker(self.config, self.folder, "report", self.folder.name)
        tracker.log_table("networks", list(asdict(rows[0])), [list(asdict(row).values()) for row in rows])
        if tracker.active and self.first != (last := list(self.networks)[-1]):
            pair = {name: self.networks[name] for name in (self.first, last)}
            tracker.log_pictures("predictions", side_by_side(pair, self.spec, split, self.config.input_size))
        if self.layers:
            tracker.log_pictures("channels", [("before and after pruning", self.folder / "channels.png")])
        tracker.log_summary({"verdict": line})
        tracker.finish()
