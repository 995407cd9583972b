"""`benchmarks/folding.py` on a tiny network: the table it prints, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import models
import prune
from benchmarks import folding
from common.errors import UserError
from models.cfg import parse_cfg
from models.network import adapt_classes
from tests.alive import alive
from tests.cli.material import NAMES, make_set
from tests.nets import TINY
from tests.prune.reference import wither


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    cfg = parse_cfg(TINY["residual"])
    adapt_classes(cfg, len(NAMES))
    net = alive(models.Network(cfg, NAMES))
    with torch.no_grad():
        for _ in range(2):
            wither(net, prune.trace(net), 0.6)
    models.save(net, tmp_path / "sparse.pt")
    return tmp_path / "sparse.pt"


def test_the_table_compares_folded_and_not_folded_with_the_sparse_network(
    sparse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_set(tmp_path / "set") / "data.yaml"
    given = ["--weights", str(sparse), "--data", str(data), "--share", ".4", "--batch-size", "4", "--device", "cpu"]
    assert folding.main(given) == 0
    told = capsys.readouterr().out
    rows = {
        line[:36].strip(): line[36:].split()
        for line in told.splitlines()
        if line.startswith(("sparse", "the same", "pruned"))
    }
    assert list(rows) == [
        "sparse",
        "the same, their gammas at 0",
        "pruned, folded",
        "pruned, not folded",
        "pruned, folded, BatchNorm anew",
        "pruned, not folded, BatchNorm anew",
    ]
    assert float(rows["pruned, folded"][-1]) < float(rows["pruned, not folded"][-1])
    assert int(rows["pruned, folded"][3].replace(",", "")) < int(rows["sparse"][3].replace(",", ""))
    # The gammas that went had been made small.
    largest = float(re.search(r"largest (\S+);", told)[1])
    assert largest < 0.01
    assert "40% of the channels pruned" in told


def test_a_share_that_is_none_is_refused(sparse: Path) -> None:
    with pytest.raises(UserError, match="is not between 0 and 1"):
        folding.main(["--weights", str(sparse), "--data", "shapes", "--share", "1.5"])
