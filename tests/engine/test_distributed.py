"""Several processes train as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from engine import distributed
from engine.objective import DetectionObjective
from tests.engine.job import make_network, make_trainer, state

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("heads", "nominal", "layers"),
    # What weighs how much is known before the forward pass with anchors alone: without, only whole batches are equal.
    [("anchored", 8, (0, 3, 15, 22)), ("free", 4, (0, 3, 9, 15, 22, 29))],
)
def test_two_processes_train_like_one_on_the_same_global_batch(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heads: str, nominal: int, layers: tuple[int, ...]
) -> None:
    """22 pictures in batches of 4: the last batch gives each process one picture. BatchNorm is held."""
    monkeypatch.setenv("THINYOLO_NET", heads)
    flags = [f"--data={pictures}", "--epochs=2", "--batch-size=4", f"--nominal-batch={nominal}", "--freeze-bn"]
    flags += ["--multi-scale", "--lr0=0.01", "--clip=10"]
    one = make_trainer(tmp_path / "one", flags, plain=True)
    one.fit()

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "THINYOLO_PLAIN": "1"}
    job = subprocess.run(
        [*command, "-m", "tests.engine.job", str(tmp_path / "two"), *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert job.returncode == 0, job.stderr

    ours, theirs = state(tmp_path / "one"), state(tmp_path / "two")
    assert ours.keys() == theirs.keys()
    fresh = make_network(living=True).state_dict()
    for name, tensor in ours.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            assert (tensor - theirs[name]).abs().max() < 1e-4, name
    for layer in layers:
        kernel = f"layers.{layer}.conv.weight"
        assert (ours[f".extra.training.network.{kernel}"] - fresh[kernel]).abs().max() > 1e-3
    for name in (".extra.training.progress.step", ".extra.training.progress.seen"):
        assert ours[name] == theirs[name], name
    loss = ".extra.training.progress.history.1.train/total"
    assert ours[loss] == pytest.approx(theirs[loss], rel=1e-3)


def test_one_process_is_left_alone() -> None:
    value, module = torch.tensor(3.0), torch.nn.Linear(1, 1)
    assert distributed.mean_over_ranks(value) is value
    assert distributed.wrap(module, torch.device("cpu")) is module
    assert distributed.sync_batchnorm(module, torch.device("cpu")) is module
    assert distributed.broadcast({"a": 1}) == {"a": 1}
    assert distributed.is_main()
    assert (distributed.rank(), distributed.world()) == (0, 1)


@pytest.mark.parametrize(
    "device, said", [("gpu7", "no device"), ("0,1", "torchrun --nproc_per_node=2"), ("cuda:99", "GPU")]
)
def test_bad_device_is_a_user_error(device: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        distributed.start(device)


@pytest.mark.parametrize(
    "gpus, device, expected", [(2, "", "cuda:0"), (2, "1", "cuda:1"), (2, "cuda", "cuda:0"), (0, "", "cpu")]
)
def test_device_is_the_named_one_or_the_first_gpu(
    monkeypatch: pytest.MonkeyPatch, gpus: int, device: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert distributed.start(device) == torch.device(expected)
    assert current == [torch.device(expected)] * (gpus > 0), "it is the current device as well"


def test_step_of_one_batch_in_one_process_counts_its_own_matches() -> None:
    import data

    objective = DetectionObjective(make_network())
    batch = data.Batch(torch.rand(2, 3, 64, 64), torch.tensor([[0, 1, 30.0, 30.0, 14.0, 22.0]]), torch.arange(2))
    objective.begin_step([batch])
    matches = objective.matched(batch, objective.network(batch.images))
    assert matches.expected is None
    assert float(matches.count) == sum(len(head) for head in matches.heads) > 0


def test_accumulated_batches_divide_by_the_same_matches_per_picture() -> None:
    import data

    objective = DetectionObjective(make_network())
    row = [0, 1, 30.0, 30.0, 14.0, 22.0]
    full = data.Batch(torch.rand(2, 3, 64, 64), torch.tensor([row, [1, *row[1:]]]), torch.arange(2))
    empty = data.Batch(torch.rand(1, 3, 64, 64), torch.zeros(0, 6), torch.arange(1))
    heads = objective.network(full.images)
    objective.begin_step([full])
    alone = float(objective.matched(full, heads).count)
    objective.begin_step([full, empty])
    assert float(objective.matched(full, heads).count) == pytest.approx(alone * 2 / 3)
    assert float(objective.matched(empty, objective.network(empty.images)).count) == pytest.approx(alone / 3)
