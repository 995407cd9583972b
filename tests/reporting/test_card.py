"""Model cards: a student's cut, ancestors and teacher, from its own checkpoint or from the runs it came from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import models
import prune
from export.description import Description, describe
from models.network import Network
from reporting.card import code, write_card
from reporting.origin import network_facts
from tests import nets
from tests.alive import alive


class Runs:
    """A run that pruned a network and one that fine-tuned what was left; `old`: lineages as they once were."""

    def __init__(self, folder: Path, old: bool):
        self.fat = alive(Network(models.parse_cfg(nets.RESIDUAL))).eval()
        models.save(self.fat, folder / "cut" / "start.pt")
        result = prune.prune(self.fat, budget="params=0.4", shortcuts=1, kind="baseline")
        self.thin = result.network
        if old:
            for entry in self.thin.lineage:
                del entry["parameters"], entry["cut"]
        self.pruned = folder / "cut" / "pruned" / "pruned.pt"
        models.save(self.thin, self.pruned, extra={"pruning": result.report.as_dict()})
        (folder / "cut" / "args.yaml").write_text("data: /far/away/bccd/data.yaml\nimgsz: '64'\nweights: ''\n")
        student = alive(models.load(self.pruned), seed=3)  # trained on
        student.meta["teacher"] = {"source": "/far/away/fat.pt", "sha256": models.fingerprint(self.fat)}
        self.student = folder / "tuned" / "weights" / "best.pt"
        models.save(student, self.student, extra={"kind": "student"})
        tuned = f"data: /far/away/bccd/data.yaml\nimgsz: '64'\nkd: bounded\nweights: {self.pruned}\n"
        (folder / "tuned" / "args.yaml").write_text(tuned)


@pytest.fixture(params=[False, True], ids=["now", "old"])
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> Runs:
    return Runs(tmp_path, request.param)


def facts_of(path: Path) -> dict[str, Any]:
    return network_facts(models.load(path), path, (64, 64))


def test_a_student_far_from_its_pruning_knows_its_ratio_and_its_cut(runs: Runs) -> None:
    fat, thin = models.parameters(runs.fat), models.parameters(runs.thin)
    facts = facts_of(runs.student)
    (ancestor,) = facts["lineage"]["ancestors"]
    assert (ancestor["kind"], ancestor["parameters"]) == ("baseline", fat)
    assert ancestor["share_kept"] == pytest.approx(thin / fat)
    (cut,) = facts["lineage"]["cuts"]
    assert tuple(cut["params"]) == (fat, thin)
    assert (cut["asked"]["budget"], cut["asked"]["shortcuts"]) == ("params=0.4", 1)
    assert facts["lineage"]["teacher"]["ancestor"] == "baseline"
    assert facts["lineage"]["kd"] == "bounded"
    assert facts["source"]["kind"] == "student"
    assert facts_of(runs.pruned)["source"]["kind"] == "pruned"


def test_the_card_says_how_deep_pictures_were_read(runs: Runs, tmp_path: Path) -> None:
    net, file = models.load(runs.student), tmp_path / "net.onnx"
    file.write_bytes(b"graph")
    assert "pixel-range" not in write_card(file, describe(net), facts_of(runs.student), {}).read_text()
    net.meta["pixel_range"] = [0.0, 4095.0]
    text = write_card(file, describe(net), facts_of(runs.student), {}).read_text()
    assert "--pixel-range 0,4095`" in text
    assert "of pictures with more than 8 bits the values from 0 to 4095 become 0..1" in text
    again = Description.from_metadata(describe(net).metadata(), file)
    assert again.pixel_range == (0, 4095)
    older = {key: value for key, value in describe(net).metadata().items() if key != "pixel_range"}
    assert Description.from_metadata(older, file).pixel_range is None


def test_the_card_says_it_in_words_and_names_no_folder_of_the_machine(runs: Runs, tmp_path: Path) -> None:
    net, file = models.load(runs.student), tmp_path / "net.onnx"
    file.write_bytes(b"graph")
    text = write_card(file, describe(net), facts_of(runs.student), {"format": "ONNX"}).read_text()
    fat, thin = models.parameters(runs.fat), models.parameters(runs.thin)
    assert "budget=params=0.4, " in text
    assert f"parameters {fat:,} -> {thin:,} ({thin / fat:.1%} left)" in text
    assert "the baseline named above" in text
    assert "best.pt is ThinYOLO's own file, a cfg and its tensors: no other program reads it" in text
    assert "one-to-one" not in text
    assert "data set: bccd/data.yaml" in text
    assert "`python examples/run_onnx.py net.onnx PICTURE ...`" in text
    for each in ("RGB", "INTER_AREA", "114/255", "sigmoid of objectness x sigmoid of the class", "NMS class by class"):
        assert each in text, each
    assert "distillation: bounded" in text
    record = (tmp_path / "net.onnx.card.json").read_text()
    assert json.loads(record)["lineage"]["teacher"]["file"] == "fat.pt"
    for content in (text, record):
        assert "/far" not in content
        assert str(tmp_path) not in content


def test_the_card_of_another_programs_checkpoint_calls_it_nobodys_own(tmp_path: Path) -> None:
    net, file = models.load("yolo26n").eval(), tmp_path / "net.onnx"
    file.write_bytes(b"graph")
    weights = tmp_path / "theirs.pt"
    torch.save({"model": 1}, weights)
    thin = models.only_heads(net, "one-to-one")
    text = write_card(file, describe(thin), network_facts(thin, weights, (64, 64)), {"format": "ONNX"}).read_text()
    assert "ThinYOLO's own file" not in text
    assert "its heads are one-to-one: an object gets one box, and no NMS is needed" in text


def test_a_stranger_among_the_runs_lends_nothing(tmp_path: Path) -> None:
    runs = Runs(tmp_path, old=True)
    models.save(alive(Network(models.parse_cfg(nets.RESIDUAL)), seed=9), tmp_path / "cut" / "start.pt")
    other = prune.prune(runs.fat, budget="params=0.6").network
    models.save(other, runs.pruned, extra={"pruning": {}})
    facts = facts_of(runs.student)
    assert facts["lineage"]["ancestors"][0]["parameters"] is None
    assert facts["lineage"]["cuts"] == []


HOSTILE = [
    "<script>alert(1)</script>",
    "a|b",
    "**bold**",
    "[x](http://evil)",
    "`code`",
    "_it_",
    "two\nlines",
    "$x$",
    "a_b",
]


def test_names_in_a_card_are_names_and_nothing_else(runs: Runs, tmp_path: Path) -> None:
    net, file = models.load(runs.student), tmp_path / "we`ird|<b>.onnx"
    file.write_bytes(b"graph")
    facts = facts_of(runs.student)
    facts["data"] = {"set": "sets/<img src=x>.yaml", "classes": HOSTILE}
    facts["lineage"]["teacher"]["file"] = "<i>fat</i>.pt"
    facts["lineage"]["ancestors"][0]["kind"] = "<u>kind</u>"
    scores = {
        "data": "<s>set</s>",
        "split": "test",
        **{f"{k}mAP50{e}": 0.5 for k in ("", "torch_") for e in ("", "-95")},
    }
    text = write_card(file, describe(net), facts, {"format": "ONNX", "scores": scores}).read_text()
    outside = re.sub(r"(`+).+?(?<!`)\1(?!`)", "", re.sub(r"\\.", "", text))  # but for code, and what is escaped
    for sign in ("<script", "<img", "<i>", "<u>", "<s>", "<b>", "**", "](http", "$", "_it_", "http://"):
        assert sign not in outside, sign
    assert "&lt;script&gt;alert\\(1\\)&lt;/script&gt;, a\\|b, \\*\\*bold\\*\\*" in text
    assert "two lines" in text
    assert "a_b" in text
    assert "- ``thinyolo predict --model we`ird|<b>.onnx --source pictures/``" in text


@pytest.mark.parametrize("text", ["", "`", "``a`", "a"])
def test_code_ends_where_it_should(text: str) -> None:
    said = code(text)
    fence = re.match("`+", said)
    assert fence is not None
    assert fence[0] not in text
    assert said.endswith(fence[0])


def test_a_card_says_at_which_size_another_program_trained(tmp_path: Path) -> None:
    net, weights = models.load("yolo26n").eval(), tmp_path / "theirs.pt"
    torch.save({"model": 1}, weights)
    assert network_facts(net, weights, (64, 64))["source"]["trained_at"] is None
    net.meta["trained_at"] = "160"
    assert network_facts(net, weights, (64, 64))["source"]["trained_at"] == "160"
