"""What a KD mode is: facts about it, its options, and where its loss is found. `distill.modes` declares them all.

Nothing here imports torch: the command line shows modes and their options without it. What computes is imported by the
methods when it is used.

Whoever trains with a mode does this, once:

1. ``pairs = config.pairs(name, student, teacher, alignment.heads)``: the layers the mode compares, none for a mode on
   responses. Before the teacher changes its number format: *aligned* recognises an ancestor by its fingerprint.
2. ``adapter = mode.adapter(pairs)``: an `nn.Module` that maps the student's channels to the teacher's, or None. It is
   trained beside the student (on its device) and is no part of its checkpoint.
3. Both networks are to put out the layers named by all pairs: ``network.forward_features(images, layers)``.

and for every batch, with `Outputs.features` of both filled (keys: each network's own layer numbers; FP32 or wider):
``mode(student, teacher, matches, pairs, adapter)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill.pairs import FeaturePair
    from models.heads import HeadSpec
    from models.network import Network
    from models.spec import Matches, Outputs

    Loss = Callable[..., dict[str, Tensor]]

COSTLY = 1.15
"""`Mode.cost` above which a mode is said to be slow."""
METRIC = "metric/"
"""Prefix of the entries of a loss function's result that are only logged."""


@dataclass(frozen=True)
class Mode:
    """One way of learning from the teacher: here, from what its heads say (a *response* mode).

    A subclass states the facts, loads the function, and declares options as fields made by `option`: the field's name
    is the function's keyword, ``key="kd_..."`` the flag and YAML key.

    Attributes:
        paper: where it comes from.
        needs: what has to hold of student and teacher, for people.
        weight: the default weight.
        relative_to: the detection term whose gain the weight multiplies, one that heads of every family have ("box",
            "cls"): a weight of 1 makes the KD term count like that term.
        joins: name of a returned scalar -> the detection term it joins, where that is not `relative_to`.
        same_places: compares the two networks cell by cell, anchor by anchor.
        distributions: compares distributions of the sides of boxes (`HeadSpec.sides`), over the same distances.
        features: compares maps inside the networks.
        across: works between families of heads (with anchors, without): it looks at decoded boxes, certainties and
            class scores only (`models.heads.DecodedSpec`), or at no heads at all.
        cost: a step by (the teacher's forward pass + a plain step), as `benchmarks/kd_cost.py` measures it
            (docs/distillation.md); it is told where it is above `COSTLY`.
        needs_truth: has nothing to say of a picture without labels, and is not shown any. A mode that only counts
            matched cells for more goes by the teacher alone there.
    """

    paper: ClassVar[str]
    needs: ClassVar[str]
    weight: ClassVar[float]
    relative_to: ClassVar[str] = "box"
    joins: ClassVar[Mapping[str, str]] = {}
    same_places: ClassVar[bool] = False
    distributions: ClassVar[bool] = False
    features: ClassVar[bool] = False
    across: ClassVar[bool] = False
    needs_truth: ClassVar[bool] = False
    cost: ClassVar[float] = 1.0

    def load(self) -> Loss:
        """The loss: ``(student: Outputs, teacher: Outputs, matches: Matches, **options) -> {name: scalar}``."""
        raise NotImplementedError

    def check(self, specs: Sequence[HeadSpec]) -> None:
        """Refuse options that make no sense for a student with these heads (UserError)."""

    def pairs(self, student: Network, teacher: Network, heads: Sequence[int]) -> list[FeaturePair]:
        """The layers it compares.

        Args:
            heads: per head of the student, the number of the teacher's (`Alignment.heads`).

        Raises:
            UserError: the mode needs what this pair of networks lacks.
        """
        return []

    def adapter(self, pairs: Sequence[FeaturePair]) -> nn.Module | None:
        """What it trains between the channels of the two networks."""
        return None

    def options(self) -> dict[str, Any]:
        """The keywords of the loss."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def gain(self, term: str) -> str:
        """The detection term whose gain multiplies the weight of the scalar `term`."""
        return self.joins.get(term, self.relative_to)

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs,
        matches: Matches,
        pairs: Sequence[FeaturePair] = (),
        adapter: nn.Module | None = None,
    ) -> dict[str, Tensor]:
        """The loss of a batch, with the mode's options."""
        return self.load()(student, teacher, matches, **self.options())


@dataclass(frozen=True)
class FeatureMode(Mode):
    """A mode that compares maps inside the networks: what the two necks put out, unless it says otherwise.

    Its loss takes ``pairs=`` besides.
    """

    features = True
    across = True

    def pairs(self, student: Network, teacher: Network, heads: Sequence[int]) -> list[FeaturePair]:
        from distill.pairs import pairs_at_heads

        return pairs_at_heads(student, teacher, heads)

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs,
        matches: Matches,
        pairs: Sequence[FeaturePair] = (),
        adapter: nn.Module | None = None,
    ) -> dict[str, Tensor]:
        keywords = self.options() if adapter is None else {**self.options(), "adapter": adapter}
        return self.load()(student, teacher, matches, pairs=pairs, **keywords)
