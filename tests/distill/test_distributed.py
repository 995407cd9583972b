"""Several processes distil as one: adapters stay equal, resume, and the step is that of the global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distill.job import HEADS, make_trainer, train
from tests.engine.job import make_pictures

ROOT = Path(__file__).resolve().parents[2]
States = dict[str, list[dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_pictures(tmp_path_factory.mktemp("pictures"), train=12, val=2))


@pytest.fixture(scope="module")
def states(pictures: str, tmp_path_factory: pytest.TempPathFactory) -> States:
    """Name of a training -> what each of two processes has in the end."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.distill.job", str(folder), pictures],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return {
        name: [torch.load(folder / f"{name}-{rank}.pt") for rank in (0, 1)] for name in ("whole", "resumed", "heads")
    }


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]


def test_adapters_drawn_apart_are_the_same_in_both_processes_and_learn(
    states: States, pictures: str, tmp_path: Path
) -> None:
    ours, theirs = (
        {name: tensor for name, tensor in state.items() if not name.startswith("watch.")} for state in states["whole"]
    )
    assert differing(ours, theirs) == []
    drawn = make_trainer(tmp_path, pictures, "fitnets,mgd,fgd,imitation", 0.3).objective.state_dict()
    adapters = [name for name in drawn if name.startswith("adapters.")]
    assert len({name.split(".")[1] for name in adapters}) == 4
    # The offset of a softmax's logits has no gradient.
    assert [name for name in adapters if torch.equal(drawn[name], ours[name]) and "key.bias" not in name] == []


def test_training_given_up_and_begun_again_ends_with_the_same_bits_in_both_processes(states: States) -> None:
    for rank in (0, 1):
        found = differing(states["whole"][rank], states["resumed"][rank])
        # What a process has seen of the terms is kept of the first one only.
        assert [name for name in found if not (rank and name.startswith("watch."))] == []


def test_terms_on_responses_are_those_of_the_global_batch(states: States, pictures: str, tmp_path: Path) -> None:
    alone = train(tmp_path, pictures, HEADS)
    fresh = make_trainer(tmp_path / "fresh", pictures, HEADS).objective.state_dict()
    moved = 0.0
    for name, tensor in states["heads"][0].items():
        if name.startswith("network.") and tensor.is_floating_point():
            assert (tensor - alone[name]).abs().max() < 1e-5, name
            moved = max(moved, float((tensor - fresh[name]).abs().max()))
    assert moved > 1e-3
