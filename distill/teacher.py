"""The teacher: one network, or the average of several, that is only ever asked; never trained, never saved."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

import models
from common.errors import UserError
from common.log import log
from common.rundir import is_checkpoint
from distill.alignment import Alignment, align, describe, pair_classes
from models.heads import DecodedSpec, HeadReader, HeadSpec, decode_heads
from models.inference import fold_norms
from models.lineage import Lineage
from models.network import Network
from models.resize import with_resize
from models.spec import Outputs

__all__ = ["AlignedTeacher", "Alignment", "Teacher", "align", "describe", "split_chain"]


def split_chain(cfg: str, weights: str) -> list[tuple[str, str]]:
    """``--t_cfg`` and ``--t_weights`` of a chain ``a,b`` as one (cfg, weights) pair a link, in order.

    Raises:
        UserError: two lists of different length.
    """
    cfgs, files = _split(cfg, ","), _split(weights, ",")
    if len(cfgs) == 1:  # one structure for all weights, or none
        cfgs *= len(files)
    if files == [""]:
        files *= len(cfgs)
    if len(cfgs) != len(files):
        raise UserError(
            f"--t_cfg {cfg} has {len(cfgs)} links, --t_weights {weights} has {len(files)}",
            todo="give as many of both; a link without one is empty: --t_weights fat.weights,",
        )
    return list(zip(cfgs, files))


def _split(text: str | Path | None, mark: str) -> list[str]:
    """The parts of a list of files; a file whose own name holds the mark is one."""
    text = str(text or "")
    return [text] if os.path.isfile(text) else [part.strip() for part in text.split(mark)]


class AlignedTeacher(nn.Module):
    """What a student sees of its teachers, as a network of its own: the student's heads, places and classes.

    Heads of another family come decoded (`DecodedSpec`), others as logits.
    Several teachers are averaged (`HeadReader.average`). Scores are averaged as *probabilities*: the logit of the mean
    of ``sigma(z)`` (for softmax heads the logarithm of the mean of the softmax), the mixture that Hinton et al. 2015
    distil from an ensemble. Boxes are averaged as logits: of anchored heads the centres in the cell and logarithms of
    sizes.

    Args:
        members: the teachers.
        alignments: of each with the student.
        specs: how the answers are read, in the order of the student's heads.
        names: the student's classes.
    """

    def __init__(
        self,
        members: Sequence[Network],
        alignments: Sequence[Alignment],
        specs: Sequence[HeadReader],
        names: Sequence[str],
    ):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.alignments, self.specs, self.names = tuple(alignments), tuple(specs), list(names)
        self.classes, self.image_size, self.resize = len(self.names), members[0].image_size, members[0].resize

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` -> heads ``(B, A, H_i, W_i, K)`` in the student's order."""
        return self.answer(images, ())[0]

    def answer(self, images: Tensor, layers: Collection[int]) -> tuple[list[Tensor], dict[int, Tensor]]:
        """As `forward`, and the features of `layers` where there is a single teacher."""
        if layers:
            assert len(self.members) == 1, "several teachers have no common features"
            heads, features = self.members[0].forward_features(images, layers)  # type: ignore[operator]
            return self._ordered(0, heads), features
        each = [self.of(member, images) for member in range(len(self.members))]
        if len(each) == 1:
            return each[0], {}
        return [spec.average(heads) for heads, spec in zip(zip(*each), self.specs)], {}

    def of(self, member: int, images: Tensor) -> list[Tensor]:
        """As `forward`, of one member alone."""
        return self._ordered(member, self.members[member](images))

    def _ordered(self, member: int, heads: Sequence[Tensor]) -> list[Tensor]:
        """A member's heads as the student would have put them, or decoded; views where nothing is moved."""
        teacher, alignment = self.members[member], self.alignments[member]
        assert isinstance(teacher, Network)
        answers = []
        for spec, head, places in zip(self.specs, alignment.heads, alignment.places):
            own = teacher.specs[head]
            answer = own.select(heads[head], places, alignment.classes)
            if isinstance(spec, DecodedSpec):
                answer = spec.translate(answer, own.selected(places, spec.classes))
            answers.append(answer)
        return answers

    def decode(self, heads: Sequence[Tensor]) -> Tensor:
        """As `Network.decode`."""
        return decode_heads(heads, self.specs)

    def decode_above(self, heads: Sequence[Tensor], least: float) -> list[Tensor]:
        """As `Network.decode_above`, all rows: teachers are scored once a run."""
        return list(self.decode(heads))


class Teacher:
    """Trained networks whose heads are read in the order of a student's.

    It is not a `torch.nn.Module`, so that whatever holds it registers nothing: no optimiser, DDP wrapper, EMA or
    checkpoint ever sees its tensors. It answers in eval mode without gradients, from a copy with channels last in
    memory and every BatchNorm of the cfg folded into its convolution (5 to 25 % of the time on a CPU, 1e-7 of the
    answer; a timm backbone keeps its own), and on a GPU in half precision whatever the student is trained in: its
    answers are targets and need no more.

    Args:
        network: the teacher, or several to be averaged; taken over (eval mode, no gradients).
        student: the network that is to learn from it.
        source: the file it came from, for messages and lineage.
        folds: cross-fitted teachers (Dao et al.: *Knowledge Distillation as Semiparametric Inference*, ICLR 2021):
            ``(N,)`` for every training picture the number of the network that answers, because it was trained without
            it. On any other picture the average answers.

    Attributes:
        members: the networks, untouched but for eval mode and gradients.
        network: what is scored and shown: the network itself, or an `AlignedTeacher` where it is several, or detects
            more classes than the student.
        alignment: of the first member's heads with the student's.
        specs: how the answers are read, in the order of the student's heads.
        resize: how pictures are resized: as the student's.

    Raises:
        UserError: where the heads of the networks do not agree; both sides are named.
    """

    def __init__(
        self,
        network: Network | Sequence[Network],
        student: Network,
        source: str | Path = "",
        folds: Tensor | None = None,
    ):
        self.members: tuple[Network, ...] = (network,) if isinstance(network, Network) else tuple(network)
        self.source, self.folds, self.resize = str(source), folds, student.resize
        alignments = [
            align(student.specs, each.specs, pair_classes(student.names, each.names)) for each in self.members
        ]
        self.alignment = alignments[0]
        self.specs = _read_alike(student.specs, self.members, alignments)
        for each in self.members:
            each.requires_grad_(False).eval()
            if each.resize != student.resize:
                log.warning(
                    "the teacher was trained on pictures resized by %s, the student's are by %s: it teaches, and is "
                    "scored, on the student's",
                    each.resize,
                    student.resize,
                )
                with_resize(each, student.resize)
        fast = [_folded(each) for each in self.members]
        self._answering = AlignedTeacher(fast, alignments, self.specs, student.names).eval()
        whole = len(self.members) == 1 and self.alignment.classes is None
        plain = AlignedTeacher(self.members, alignments, self.specs, student.names).eval()
        self.network: nn.Module = self.members[0] if whole else plain

    def alone(self, member: int) -> nn.Module:
        """One of the networks as it is scored: with the student's classes, in its order."""
        both = self._answering
        own = [self.members[member]], [both.alignments[member]]
        return AlignedTeacher(*own, self.specs, both.names).eval()

    @classmethod
    def load(cls, cfg: str | Path, weights: str | Path | None, student: Network) -> Teacher:
        """The teacher from ``--t_cfg`` and ``--t_weights``; a `.pt` brings its own structure and may stand for both.

        ``a.pt+b.pt`` is the average of two; one cfg serves several weights.

        Raises:
            UserError: a part of a network is not in its weights, or student and teacher do not fit.
        """
        if not cfg and not weights:
            raise UserError(
                "there is no teacher", todo="--t_weights FAT.pt, or --t_cfg FAT.cfg --t_weights FAT.weights"
            )
        if len(split_chain(str(cfg), str(weights or ""))) > 1:
            raise UserError(
                f"--t_weights {weights or cfg} is a chain of teachers, which only finetune_kd.py goes through",
                todo="train the assistant first, then name it alone; a.pt+b.pt averages two teachers",
            )
        cfgs, files = _split(cfg, "+"), _split(weights, "+")
        count = max(len(cfgs), len(files))
        cfgs, files = (each * count if len(each) == 1 else each for each in (cfgs, files))
        if len(cfgs) != len(files):
            raise UserError(
                f"--t_cfg {cfg} names {len(cfgs)} networks, --t_weights {weights} names {len(files)}",
                todo="give one cfg for all weights, or as many of both",
            )
        return cls([_load(*pair) for pair in zip(cfgs, files)], student, weights or cfg)

    # Not inference_mode: its tensors cannot be saved for the student's backward pass.
    @torch.no_grad()
    def __call__(self, images: Tensor, layers: Collection[int] = (), pictures: Tensor | None = None) -> Outputs:
        """What the teacher says of pictures ``(B, 3, H, W)``. It follows them to their device: nobody else moves it.

        Args:
            images: the batch.
            layers: the teacher's layers (Darknet numbers) whose features are asked for; heads only without.
            pictures: ``(B,)`` their numbers in the training split, -1 for what is not of it; asked for where there
                are `folds`.

        Returns:
            Raw heads in the student's order of heads, anchors and classes, or decoded ones where a teacher's are of
            another family; and the features by layer number.
        """
        if next(self._answering.parameters()).device != images.device:
            self._answering.to(images.device)
        with fastest_precision(images.device):
            if self.folds is None or pictures is None:
                heads, features = self._answering.answer(images, layers)
            else:
                assert not layers, "several teachers have no common features"
                heads, features = self._cross(images, pictures.cpu()), {}
        return Outputs(heads, self.specs, features)

    def _cross(self, images: Tensor, pictures: Tensor) -> list[Tensor]:
        """Of each picture what the network says that it is to be taught by."""
        assert self.folds is not None
        every = len(self.members)
        wanted = torch.where(pictures < 0, every, self.folds[pictures]).to(images.device)
        rows = [(wanted == member).nonzero().flatten() for member in range(every + 1)]
        answers = [
            self._answering.of(member, images[own]) if member < every else self._answering(images[own])
            for member, own in enumerate(rows)
            if len(own)
        ]
        back = torch.cat(rows).argsort()
        return [torch.cat(parts)[back] for parts in zip(*answers)]

    def known_as(self, lineage: Lineage) -> str:
        """What a student's lineage calls it, or would call it (`models.known_as`); several, joined by +."""
        return "+".join(models.known_as(lineage, each) for each in self.members)

    @property
    def full_digest(self) -> str:
        """sha256 of all weights and BatchNorm statistics; the same after any number of steps. Several, joined by +."""
        return "+".join(models.full_digest(each) for each in self.members)

    def is_network(self, network: Network) -> bool:
        """Whether it is this network, weight by weight, and nothing else."""
        return len(self.members) == 1 and models.fingerprint(self.members[0]) == models.fingerprint(network)


@contextmanager
def fastest_precision(device: torch.device) -> Iterator[None]:
    """Half precision on GPUs that have units for it, bf16 on CPUs with AMX, FP32 elsewhere.

    The choice follows from the device alone, never from a timing: a resumed run has to make the same one.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0):
        with torch.autocast("cuda", dtype=torch.float16):
            yield
    elif device.type == "cpu" and torch.cpu._is_amx_tile_supported():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield
    else:
        with torch.autocast(device.type, enabled=False):
            yield


def _folded(network: Network) -> Network:
    """A copy that answers the same, faster: no BatchNorm after a convolution of the cfg, channels last."""
    fast = fold_norms(copy.deepcopy(network))
    return fast.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def _load(cfg: str, weights: str) -> Network:
    if not weights and not is_checkpoint(cfg):
        raise UserError("a teacher needs trained weights", where=cfg, todo="add --t_weights FILE")
    network = models.load(cfg, weights=weights) if cfg and weights else models.load(cfg or weights)
    report = network.load_report
    if report is not None and (report.missing or report.unfit):
        gaps = [*report.missing, *report.unfit]
        raise UserError(
            f"does not fill the teacher {cfg}: {len(gaps)} tensors lack or do not fit, the first is {gaps[0]}",
            where=weights,
            todo="give the weights that were trained with this cfg; a .pt brings its own and needs no --t_cfg",
        )
    return network


def _read(student: Sequence[HeadSpec], teacher: Sequence[HeadSpec], how: Alignment) -> tuple[HeadSpec, ...]:
    """The teacher's specs in the student's order, with the student's number of classes."""
    return tuple(
        teacher[head].selected(places, ours.classes) for ours, head, places in zip(student, how.heads, how.places)
    )


def _read_alike(
    student: Sequence[HeadSpec], members: Sequence[Network], alignments: Sequence[Alignment]
) -> tuple[HeadReader, ...]:
    """How the members' answers are read, all alike, in the student's order.

    Raises:
        UserError: they cannot be averaged.
    """
    if len({how.across for how in alignments}) > 1:
        shown = " and ".join(dict.fromkeys(each.specs[0].describe_places(each.specs) for each in members))
        raise UserError(
            f"teachers of different families of heads cannot be averaged: {shown}",
            todo="average teachers of one family, or let them teach one after the other: --t_weights a.pt,b.pt",
        )
    if alignments[0].across:
        return tuple(DecodedSpec.towards(spec) for spec in student)
    first, *others = (_read(student, each.specs, how) for each, how in zip(members, alignments))
    for other in others:
        _check_average(first, other)
    return first


def _check_average(one: Sequence[HeadSpec], other: Sequence[HeadSpec]) -> None:
    if not all(spec.averages_with(theirs) for spec, theirs in zip(one, other)):
        shown = ["; ".join(spec.describe() for spec in specs) for specs in (one, other)]
        raise UserError(
            f"teachers of different anchors or decoding cannot be averaged: {shown[0]} and {shown[1]}",
            todo="average teachers of one kind, or let them teach one after the other: --t_weights a.pt,b.pt",
        )
