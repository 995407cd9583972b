"""Darknet's own files: a cfg, its weights, and the names of the classes beside them."""

from __future__ import annotations

import copy

import models
from common.errors import UserError
from common.files import whole_file
from export.description import describe
from export.job import Job, Written
from export.opencv import open_opencv


def write(job: Job) -> Written:
    """``NAME.cfg``, ``NAME.weights`` and ``NAME.names``."""
    cfg, weights = job.new(".cfg"), job.folder / f"{job.name}.weights"
    models.save_darknet(copy.deepcopy(job.net).with_image_size(job.size), cfg, weights)
    with whole_file(cfg.with_suffix(".names")) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in job.net.names), encoding="utf-8")
    description = describe(job.net, job.size, any_size=True, batch=0)
    try:
        net = open_opencv(cfg, job.threads, weights, job.net.names)
    except UserError as error:
        return Written(cfg, description, note="not run here: " + error.problem)
    return Written(cfg, description, net, "run by OpenCV")
