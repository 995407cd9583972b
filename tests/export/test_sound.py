"""What an exported file may hold is decided before a program gets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import models
from common.errors import UserError
from export.description import Description, describe
from export.sound import check_ncnn, check_onnx
from models.network import Network
from tests import nets
from tests.hostile.files import DESCRIPTIONS
from tests.hostile.graphs import NCNN, ONNX, forged_onnx

PASS = {"an operator that is none", "outputs of another number", "a graph that goes round"}
"""Those that the program itself, or the first answer, is refused by."""
HARMLESS = {"names that are HTML", "a batch of 10^9"}
PARAM = """7767517
3 3
Input in0 0 1 in0
Convolution c 1 1 in0 a 0=8 1=3 4=1 5=1 6=216 9=2 -23310=1,1.0e-01
Pooling p 1 1 a out0 0=0 1=3 2=1 3=1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound network as ONNX, and what it says about itself."""
    pytest.importorskip("onnx", reason="needs the extra export")
    pytest.importorskip("onnxscript", reason="needs the extra export")
    place = tmp_path_factory.mktemp("sound")
    net = Network(models.parse_cfg(nets.RESIDUAL)).eval()
    (place / "about.json").write_text(json.dumps(describe(net).metadata()))
    forged_onnx(place / "ok.onnx", {}, net)
    return place


def test_what_is_exported_here_passes(folder: Path) -> None:
    assert check_onnx(folder / "ok.onnx") == json.loads((folder / "about.json").read_text())


@pytest.mark.parametrize("what", sorted(set(ONNX) - PASS - {"100 GB of zeros"}))
def test_graphs_that_mean_harm_are_refused_before_they_are_run(folder: Path, what: str) -> None:
    path = folder / "hostile.onnx"
    ONNX[what](path, folder / "ran")
    with pytest.raises(UserError, match=r"it was not run|cannot read it"):
        check_onnx(path)


@pytest.mark.parametrize(("times", "fits"), [(2, True), (10, False)])
def test_a_file_for_any_size_may_enlarge_its_maps_a_few_times(folder: Path, times: int, fits: bool) -> None:
    """What comes out of its resizes is known to nobody: shape inference does not get through what is before them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["lost"], to=TensorProto.FLOAT),
        helper.make_node("Floor", ["lost"], ["floored"]),
        helper.make_node("Cast", ["floored"], ["again"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["images", "again"], ["map0"]),
        *(helper.make_node("Resize", [f"map{n}", "", "twice"], [f"map{n + 1}"]) for n in range(times)),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])]
    outputs = [helper.make_tensor_value_info(f"map{times}", TensorProto.FLOAT, None)]
    twice = [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice")]
    model = helper.make_model(helper.make_graph(nodes, "net", inputs, outputs, twice))
    said = json.loads((folder / "about.json").read_text()) | {"any_size": "true"}
    helper.set_model_props(model, said)
    onnx.save(model, str(folder / "any.onnx"))
    if fits:
        assert check_onnx(folder / "any.onnx") == said
    else:
        with pytest.raises(UserError, match="nothing tells how much Resize makes"):
            check_onnx(folder / "any.onnx")


@pytest.mark.parametrize("what", sorted(set(DESCRIPTIONS) - HARMLESS))
def test_what_a_file_says_about_itself_is_checked(folder: Path, what: str) -> None:
    said = json.loads((folder / "about.json").read_text()) | DESCRIPTIONS[what]
    with pytest.raises(UserError, match="its metadata are damaged"):
        Description.from_metadata(said, "hostile.onnx")


@pytest.mark.parametrize("what", sorted(NCNN))
def test_every_line_of_ncnns_files_is_checked(folder: Path, what: str) -> None:
    path = folder / "hostile.param"
    NCNN[what](path, folder / "ran")
    about = Description.from_metadata(json.loads(path.with_suffix(".json").read_text()), path)
    with pytest.raises(UserError, match=r"it was not run|no text file"):
        check_ncnn(path, about)


def test_a_param_of_ncnn_passes(folder: Path) -> None:
    path = folder / "fine.param"
    path.write_text(PARAM)
    path.with_suffix(".bin").write_bytes(b"")
    about = Description.from_metadata(json.loads((folder / "about.json").read_text()), path)
    with pytest.raises(UserError, match="no out1, though it says that it has 2 heads"):
        check_ncnn(path, about)
    check_ncnn(path, Description(about.names, about.specs[:1], about.size))
    path.write_text(PARAM.replace("4=1 ", "4=1000 "))
    with pytest.raises(UserError, match=r"fine.param:4: has a layer \(Convolution\) that makes too much of little"):
        check_ncnn(path, about)
