"""What ``python -m export`` does, step by step: write, check, score, time, tell."""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import models
from common.errors import UserError
from common.files import need_folder, whole_file
from common.log import log
from data import Dataset, load_spec
from engine.evaluate import Score, evaluate
from export.checks import Pictures, compare_outputs, noise, pictures_of
from export.description import Description, describe
from export.files import parts
from export.latency import caller, time_calls
from export.onnx_graph import finished, model_of, unknown_to_tensorrt
from export.opening import Opened, input_size, open_model, warn_of_other_classes
from export.quantise import Quantised, calibration_pictures, quantise
from export.runtimes import Runtime, open_onnx, open_opencv, open_openvino, open_tensorrt
from export.to_onnx import INPUT, need_onnx, onnx_model
from export.to_openvino import need_openvino, save_ir
from export.to_tensorrt import build_engine, need_tensorrt
from models.network import Network
from reporting.card import remove_cards
from reporting.origin import Facts, data_name, network_facts
from reporting.outcome import ENDINGS, ROUNDS, TITLES, About, Made, tell, write_cards

BATCH = 16  # pictures at a time in an evaluation


class Exporter:
    """One call of the command.

    Args:
        options: of `export.command.add_arguments`, checked.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.spec = load_spec(options.data, single_cls=options.single_cls) if options.data else None
        if options.threads:
            torch.set_num_threads(options.threads)
        self.threads = torch.get_num_threads()
        self.weights = Path(options.weights)
        names = list(self.spec.names) if self.spec and options.cfg else None
        net = open_model(self.weights, options.cfg, "torch", names=names, device="cpu")
        assert isinstance(net, Network)
        self.net = net
        if self.spec and len(self.spec.names) != net.classes:
            raise UserError(
                f"--data {options.data} has {len(self.spec.names)} classes, the network {net.classes}",
                todo="give the data set it was trained on",
            )
        if self.spec:
            warn_of_other_classes(net, self.spec)
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
        targets = [self.folder / f"{self.name}{end}" for name in self.options.formats for end in ENDINGS[name]]
        if over := next((path for path in targets if path.resolve() in sources), None):
            raise UserError(f"{over} is what is exported, and would be written over", todo="--name or --out another")
        if self.spec and any("int8" in name for name in self.options.formats):
            self.spec.require("val")

    def run(self) -> int:
        """Make every format; what fails is told at the end and does not stop the others."""
        torch_row = Made("PyTorch", self.weights, describe(self.net, self.size), self.net)
        torch_row.score = self.torch_score
        makers: dict[str, Callable[[], Made]] = {
            "onnx": self.onnx,
            "int8": self.int8,
            "openvino": self.openvino,
            "openvino-int8": self.openvino_int8,
            "darknet": self.darknet,
            "tensorrt": self.tensorrt,
        }
        for name in self.options.formats:
            log.info("%s ...", TITLES[name])
            try:
                made = makers[name]()
                self._judge(made)
                self.made.append(made)
            except UserError as error:
                self.refused.append((name, error))
                if old := [end for end in ENDINGS[name] if (self.folder / f"{self.name}{end}").exists()]:
                    log.warning("%s%s is of an earlier export", self.folder / self.name, old[0])
        rows = [torch_row, *self.made]
        if not self.options.no_latency:
            self._time(rows)
        about = About(self.options, self.size, self.threads, self.folder)
        write_cards(self.made, torch_row.score, network_facts(self.net, self.weights, self.size), about)
        tell(rows, about)
        for name, refusal in self.refused:
            print(f"error: {name} was not made: {refusal}", file=sys.stderr)
        return 2 if self.refused else 0

    @cached_property
    def trunk(self) -> bytes:
        """Images -> heads, FP32."""
        return onnx_model(self.net, self.size, self._batch, self._any_size)

    @property
    def _batch(self) -> int:
        return 0 if self.options.dynamic in ("batch", "both") else self.options.batch

    @property
    def _any_size(self) -> bool:
        return self.options.dynamic in ("size", "both")

    def _description(self, precision: str = "fp32") -> Description:
        options = self.options
        nms = {"conf": options.conf, "iou": options.iou, "max_det": options.max_det}
        return describe(
            self.net,
            self.size,
            any_size=self._any_size,
            batch=self._batch,
            outputs=options.outputs,
            precision=precision,
            nms=nms if options.outputs == "nms" else None,
        )

    @cached_property
    def fp32(self) -> Any:
        """The finished ONNX model in FP32."""
        return finished(model_of(self.trunk), self._description())

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
        pictures = calibration_pictures(self.spec, self.size, self.options.calibrate)
        log.info("INT8: calibrated on %d training pictures", len(pictures))
        if self.options.batch > 1 and self._batch:
            pictures = [np.repeat(picture, self._batch, 0) for picture in pictures]
        options = self.options
        known = self.torch_score if options.split == "val" else None
        before = known.map50_95 if known else self._val_score(self.net)
        return quantise(self.trunk, pictures, self._score_trunk, before, options.max_drop, options.reduce_range)

    @cached_property
    def int8_model(self) -> Any:
        """The finished ONNX model in INT8."""
        return finished(copy.deepcopy(self.quantised.model), self._description("int8"))

    def _score_trunk(self, model: Any) -> float:
        """val mAP50-95 of a trunk, decoded outside, whatever the finished file will put out."""
        from export.to_onnx import session

        started = session(model.SerializeToString(), self.threads)
        description = describe(self.net, self.size, any_size=self._any_size, batch=self._batch)
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
        return Dataset(self.spec, "val", self.size, cache="ram")

    def _scored(self, net: Opened) -> Score:
        split = self.options.split
        dataset = self.val if split == "val" else None
        return evaluate(net, self.spec, split, self.size, BATCH, dataset=dataset, progress=sys.stderr.isatty())

    def onnx(self) -> Made:
        """``NAME.onnx``."""
        need_onnx()
        path = self._written(self.fp32, f"{self.name}.onnx")
        return Made(TITLES["onnx"], path, self._description(), open_onnx(path, self.threads))

    def int8(self) -> Made:
        """``NAME-int8.onnx``."""
        path = self._written(self.int8_model, f"{self.name}-int8.onnx")
        made = Made(TITLES["int8"], path, self._description("int8"), open_onnx(path, self.threads))
        made.more["int8"] = self._int8_facts()
        made.note = self.quantised.candidate.name
        return made

    def _int8_facts(self) -> Facts:
        found = self.quantised
        return {
            "candidate": found.candidate.name,
            "data": data_name(self.options.data),
            "pictures": found.pictures,
            "val_mAP50-95_before": found.before,
            "val_mAP50-95_tried": found.scores,
        }

    def openvino(self) -> Made:
        """``NAME.xml`` and ``NAME.bin``."""
        need_openvino()
        half = self.options.half
        return self._ir(self.fp32, self._description("fp16" if half else "fp32"), f"{self.name}.xml", "openvino", half)

    def openvino_int8(self) -> Made:
        """``NAME-int8.xml`` and ``NAME-int8.bin``."""
        need_openvino()
        made = self._ir(self.int8_model, self._description("int8"), f"{self.name}-int8.xml", "openvino-int8", False)
        made.more["int8"] = self._int8_facts()
        made.note = self.quantised.candidate.name
        return made

    def _ir(self, model: Any, description: Description, file: str, name: str, half: bool) -> Made:
        path = self._new(file)
        save_ir(model, path, description.metadata(), half)
        return Made(TITLES[name], path, description, open_openvino(path, self.threads))

    def darknet(self) -> Made:
        """``NAME.cfg``, ``NAME.weights`` and ``NAME.names``."""
        cfg, weights = self._new(f"{self.name}.cfg"), self.folder / f"{self.name}.weights"
        models.save_darknet(copy.deepcopy(self.net).with_image_size(self.size), cfg, weights)
        with whole_file(cfg.with_suffix(".names")) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in self.net.names), encoding="utf-8")
        description = describe(self.net, self.size, any_size=True, batch=0)
        made = Made(TITLES["darknet"], cfg, description)
        try:
            made.net = open_opencv(cfg, weights, self.net.names, threads=self.threads)
            made.note = "run by OpenCV"
        except UserError as error:
            made.note = "not run here: " + error.problem
        return made

    def tensorrt(self) -> Made:
        """``NAME.engine``; its ONNX file is checked even where no engine can be built."""
        need_onnx()
        if unknown := unknown_to_tensorrt(self.fp32):
            raise UserError(f"TensorRT has no {', '.join(unknown)}, which the network uses", todo="use --to onnx")
        log.info("TensorRT takes all of the graph's operators")
        need_tensorrt()
        path = self._new(f"{self.name}.engine")
        description = self._description("fp16" if self.options.half else "fp32")
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / f"{self.name}.onnx"
            source.write_bytes(self.fp32.SerializeToString())
            build_engine(source, path, description, self.options.half)
        made = Made(TITLES["tensorrt"], path, description)
        try:
            made.net = open_tensorrt(path, description)
        except UserError as error:  # built by trtexec, without the package
            made.note = "not run here: " + error.problem
        return made

    def _new(self, name: str) -> Path:
        """Where a file is to be written; the card of an earlier one is gone: it is not what will be there."""
        path = self.folder / name
        remove_cards(path)
        return path

    def _written(self, model: Any, name: str) -> Path:
        path = self._new(name)
        with whole_file(path) as temporary:
            temporary.write_bytes(model.SerializeToString())
        return path

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
        return pictures_of(self.val if split == "val" else Dataset(self.spec, split, self.size))

    def _time(self, rows: list[Made]) -> None:
        """One interleaved run of all that can run here."""
        timed = [row for row in rows if row.net is not None]
        batch = self._batch or 1
        calls = {row.title: caller(row.net, self.size, batch) for row in timed if row.net is not None}
        found = time_calls(calls, ROUNDS, warm_up=3, pictures=dict.fromkeys(calls, batch))
        for row in timed:
            row.latency = found[row.title]
