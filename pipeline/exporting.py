"""What `thinyolo export` does, step by step: write, check, score, time, tell."""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.cores import usable_threads
from common.errors import UserError
from common.files import need_folder
from common.log import log
from data import Dataset, load_spec
from data.options import BATCH
from engine.evaluate import Score, evaluate
from export.checks import Pictures, compare_outputs, noise, pictures_of
from export.description import describe
from export.files import parts
from export.formats import Format
from export.job import Job
from export.latency import caller, time_calls
from export.opening import Opened, in_classes_of, input_size, open_model
from export.options import ExportOptions
from export.quantise import Quantised, calibration_pictures, quantise
from export.runtimes import Runtime
from export.to_onnx import INPUT, need_onnx
from models.network import Network
from models.resize import with_resize
from reporting.origin import Facts, data_name, network_facts
from reporting.outcome import ROUNDS, About, Made, tell, write_cards


class Exporter:
    """One call of the command.

    Args:
        options: what is to be written, and how it is judged.
    """

    def __init__(self, options: ExportOptions):
        self.options = options
        self.formats = options.formats
        self.spec = load_spec(options.data, single_cls=options.single_cls) if options.data else None
        if options.threads:
            torch.set_num_threads(usable_threads(options.threads))
        self.threads = torch.get_num_threads()
        self.weights = Path(options.weights)
        names = list(self.spec.names) if self.spec and options.cfg else None
        net = open_model(self.weights, options.cfg, "torch", heads=options.heads, names=names, device="cpu")
        assert isinstance(net, Network)
        self.net = net = with_resize(net, options.resize, self.weights)
        if self.spec:
            self.spec = in_classes_of(net, self.spec)
        if self.spec and len(self.spec.names) != net.classes:
            raise UserError(
                f"--data {options.data} has {len(self.spec.names)} classes, the network {net.classes}",
                todo="give the data set it was trained on",
            )
        self.size = input_size(options.imgsz, net)
        self.folder, self.name = self._place()
        need_folder(self.folder, "--out")
        self._check_sources()
        self.made: list[Made] = []
        self.refused: list[tuple[str, UserError]] = []

    def _place(self) -> tuple[Path, str]:
        """(folder, name) of the files: ``run/weights/best.pt`` gives ``run/export/run.*``."""
        in_run = self.weights.parent.name == "weights" and self.weights.stem in ("best", "last")
        run = self.weights.resolve().parents[1] if in_run else self.weights.parent
        beside = self.weights.parent.parent if in_run else self.weights.parent
        folder = Path(self.options.out) if self.options.out else beside / "export"
        return folder, self.options.name or (run.name if in_run else self.weights.stem)

    def _check_sources(self) -> None:
        """Refuse to write over what is exported, and INT8 without val, before anything is made."""
        sources = {path.resolve() for path in (self.weights, Path(self.options.cfg or self.weights))}
        endings = [end for form in self.formats for end in (*form.endings, *form.beside)]
        targets = [self.folder / f"{self.name}{end}" for end in endings]
        if over := next((path for path in targets if path.resolve() in sources), None):
            raise UserError(f"{over} is what is exported, and would be written over", todo="--name or --out another")
        if self.spec and any(form.integer for form in self.formats):
            self.spec.require("val")

    def run(self) -> int:
        """Make every format, and tell of all; what fails is told at the end and does not stop the others."""
        rows = self.make()
        tell(rows, self.about)
        for name, refusal in self.refused:
            print(f"error: {name} was not made: {refusal}", file=sys.stderr)
        return 2 if self.refused else 0

    def make(self) -> list[Made]:
        """PyTorch's row, and one of every format that could be made; `refused` has the others."""
        torch_row = Made("PyTorch", self.weights, describe(self.net, self.size), self.net)
        torch_row.score = self.torch_score
        for form in self.formats:
            log.info("%s ...", form.title)
            try:
                made = self._made(form)
                self._judge(made)
                self.made.append(made)
            except UserError as error:
                self.refused.append((form.name, error))
                if old := [end for end in form.endings if (self.folder / f"{self.name}{end}").exists()]:
                    log.warning("%s%s is of an earlier export", self.folder / self.name, old[0])
        rows = [torch_row, *self.made]
        if self.options.latency:
            self._time(rows)
        write_cards(self.made, torch_row.score, network_facts(self.net, self.weights, self.size), self.about)
        return rows

    @property
    def about(self) -> About:
        """What the figures depend on."""
        return About(self.options, self.size, self.threads, self.folder)

    def _made(self, form: Format) -> Made:
        written = form.load()(self.job)
        made = Made(form.title, written.path, written.description, written.net, note=written.note)
        if form.integer:
            made.more["int8"] = self._int8_facts()
            made.note = self.quantised.candidate.name
        return made

    @cached_property
    def job(self) -> Job:
        """What the formats write from."""
        options = self.options
        return Job(
            self.net,
            self.size,
            self.folder,
            self.name,
            self.threads,
            batch=0 if options.dynamic in ("batch", "both") else options.batch,
            any_size=options.dynamic in ("size", "both"),
            outputs=options.outputs,
            nms={"conf": options.conf, "iou": options.iou, "max_det": options.max_det},
            opset=options.opset,
            half=options.half,
            int8_trunk=lambda: self.quantised.model,
        )

    @property
    def quantised(self) -> Quantised:
        """The INT8 trunk that keeps the most mAP; sought once, also where there is none.

        Raises:
            UserError: none is good enough.
        """
        if isinstance(self._quantised, UserError):
            raise self._quantised
        return self._quantised

    @cached_property
    def _quantised(self) -> Quantised | UserError:
        try:
            return self._quantise()
        except UserError as error:
            return error

    def _quantise(self) -> Quantised:
        need_onnx()
        assert self.spec is not None
        pictures = calibration_pictures(self.spec, self.size, self.options.calibrate, resize=self.net.resize)
        log.info("INT8: calibrated on %d training pictures", len(pictures))
        if self.options.batch > 1 and self.job.batch:
            pictures = [np.repeat(picture, self.job.batch, 0) for picture in pictures]
        options = self.options
        known = self.torch_score if options.split == "val" else None
        before = known.map50_95 if known else self._val_score(self.net)
        return quantise(self.job.trunk, pictures, self._score_trunk, before, options.max_drop, options.reduce_range)

    def _score_trunk(self, model: Any) -> float:
        """val mAP50-95 of a trunk, decoded outside, whatever the finished file will put out."""
        from export.to_onnx import session

        started = session(model.SerializeToString(), self.threads)
        description = describe(self.net, self.size, any_size=self.job.any_size, batch=self.job.batch)
        return self._val_score(Runtime(description, lambda images: started.run(None, {INPUT: images}), "", self.name))

    def _val_score(self, net: Opened) -> float:
        return evaluate(net, self.spec, size=self.size, batch_size=BATCH, dataset=self.val).map50_95

    @cached_property
    def torch_score(self) -> Score | None:
        """The network's own on ``--split``; None without a data set."""
        return self._scored(self.net) if self.spec else None

    @cached_property
    def val(self) -> Dataset:
        assert self.spec is not None
        return Dataset(self.spec, "val", self.size, cache="ram", resize=self.net.resize)

    def _scored(self, net: Opened) -> Score:
        split = self.options.split
        dataset = self.val if split == "val" else None
        progress = sys.stderr.isatty()
        return evaluate(net, self.spec, split, self.size, BATCH, dataset=dataset, progress=progress, matched=True)

    def _int8_facts(self) -> Facts:
        found = self.quantised
        return {
            "candidate": found.candidate.name,
            "data": data_name(self.options.data),
            "pictures": found.pictures,
            "val_mAP50-95_before": found.before,
            "val_mAP50-95_tried": found.scores,
        }

    def _judge(self, made: Made) -> None:
        """Compare a file with PyTorch, and score it.

        Raises:
            UserError: it does not compute what the network does; INT8 and FP16 may differ, and are scored instead.
        """
        if made.net is None:
            return
        made.difference = compare_outputs(self.net, made.net, self.pictures)
        checks = [made.difference]
        if made.description.any_size:
            height, width = (side + made.description.stride for side in self.size)
            checks.append(compare_outputs(self.net, made.net, noise((height, width))))
        for each in checks:
            if made.description.precision == "fp32" and not each.fits:
                beside = [made.path.with_suffix(".names")] if made.path.suffix == ".cfg" else []
                for path in (*parts(made.path), *beside):
                    path.unlink(missing_ok=True)
                raise UserError(
                    f"its outputs are not PyTorch's ({each.problem})",
                    where=made.path,
                    todo="the file was not kept; please report it",
                )
        if self.spec:
            made.score = self._scored(made.net)

    @cached_property
    def pictures(self) -> Pictures:
        """What files are compared with PyTorch on."""
        if not self.spec:
            return noise(self.size)
        split = "val" if self.spec.splits.get("val") else self.options.split
        return pictures_of(self.val if split == "val" else Dataset(self.spec, split, self.size, resize=self.net.resize))

    def _time(self, rows: list[Made]) -> None:
        """One interleaved run of all that can run here."""
        timed = [row for row in rows if row.net is not None]
        batch = self.job.batch or 1
        calls = {row.title: caller(row.net, self.size, batch) for row in timed if row.net is not None}
        found = time_calls(calls, ROUNDS, warm_up=3, pictures=dict.fromkeys(calls, batch))
        for row in timed:
            row.latency = found[row.title]


def export(options: ExportOptions) -> int:
    """`thinyolo export`; returns its exit status."""
    return Exporter(options).run()
