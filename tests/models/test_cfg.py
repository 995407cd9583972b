import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import models
from common.errors import UserError
from models.cfg import number_text
from tests.nets import NET, TINY, conv, yolo

SHIPPED = sorted(Path(__file__).parents[2].joinpath("cfg").glob("*.cfg"))
LAYER = NET + "[convolutional]\n"
FEEDER = conv(24, 1, activation="linear", bn=0)
HEAD = FEEDER + yolo("0,1,2")


def error_of(text: str) -> UserError:
    with pytest.raises(UserError) as caught:
        models.Network(models.parse_cfg(text, source="mine.cfg"))
    return caught.value


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_cfg_survives_writing_and_its_text_is_a_fixed_point(path):
    cfg = models.read_cfg(path)
    again = models.parse_cfg(cfg.text())
    assert again.structure() == cfg.structure()
    assert again.text() == cfg.text()
    assert [section.options.keys() for section in again] == [section.options.keys() for section in cfg]


@pytest.mark.parametrize("text", TINY.values(), ids=TINY.keys())
def test_tiny_cfg_survives_writing(text):
    cfg = models.parse_cfg(text)
    assert models.parse_cfg(cfg.text()).structure() == cfg.structure()


def test_odd_forms_of_real_files_are_read():
    text = (
        "\ufeff# a comment\r\n[network]\r\nwidth = 64\r\nheight=64 ; inline\r\nlearning_rate=.001 # inline\r\n\r\n"
        "[conv]\r\n  filters = 24\r\nsize=1\r\nactivation = linear\r\n"
        "[yolo]\r\nmask = 0,1\r\nanchors = 10,13,  16.5,30\r\nnum=2\r\nclasses=7\r\n"
    ).lstrip("\ufeff")
    cfg = models.parse_cfg(text)
    assert [section.kind for section in cfg] == ["net", "convolutional", "yolo"]
    assert cfg.net.int("height") == 64
    assert cfg.net.float("learning_rate") == 0.001
    assert cfg.layers[1].floats("anchors") == [10, 13, 16.5, 30]


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "net.cfg").write_bytes(b"\xef\xbb\xbf" + TINY["csp"].encode())
    assert models.read_cfg(tmp_path / "net.cfg").structure() == models.parse_cfg(TINY["csp"]).structure()


def test_inputs_are_the_sections_themselves():
    layers = models.parse_cfg(TINY["residual"]).layers
    assert layers[0].inputs[0].kind == "net"
    assert layers[4].inputs == [layers[3], layers[1]]  # shortcut, from=-3
    assert layers[20].inputs == [layers[19], layers[11]]  # route -1,11
    assert layers[1].inputs == [layers[0]]


def test_references_keep_their_style_and_move_with_the_layers():
    cfg = models.parse_cfg(TINY["residual"])
    cfg.layers.insert(0, models.Section("dropout", {"probability": "0"}, inputs=[cfg.net]))
    cfg.layers[1].inputs = [cfg.layers[0]]
    written = models.parse_cfg(cfg.text())
    assert written.layers[21].str("layers") == "-1,12"  # the absolute one moved, the relative one did not
    assert written.layers[5].str("from") == "-3"


def test_a_removed_section_leaves_a_route_where_order_no_longer_implies_the_input():
    cfg = models.parse_cfg(TINY["residual"])
    block = cfg.layers[5:8]  # 1x1, 3x3, shortcut
    start = cfg.layers[4]
    for section in cfg.layers[8:]:
        section.inputs = [start if source is block[2] else source for source in section.inputs]
    cfg.layers = [section for section in cfg.layers if section not in block]
    again = models.parse_cfg(cfg.text())
    assert len(again.layers) == 21
    assert again.layers[5].inputs == [again.layers[4]]

    cfg = models.parse_cfg(TINY["residual"])
    cfg.layers[10].inputs = [cfg.layers[8]]  # the 3x3 now reads round the 1x1 before it
    before = len(cfg.layers)
    again = models.parse_cfg(cfg.legalised().text())
    assert len(again.layers) == before + 1
    assert again.layers[10].kind == "route"
    assert again.layers[10].inputs == [again.layers[8]]
    assert len(cfg.layers) == before  # legalised() left the original alone
    assert cfg.text() == cfg.legalised().text()


def test_copy_shares_no_section_and_keeps_references():
    cfg = models.parse_cfg(TINY["csp"])
    mapping: dict = {}
    twin = cfg.copy(mapping)
    assert not set(twin) & set(cfg)
    assert twin.structure() == cfg.structure()
    assert [mapping[section] for section in cfg] == list(twin)
    twin.layers[0].set("filters", 3)
    assert cfg.layers[0].int("filters") == 8


def test_deep_copies_and_pickles_do_not_recurse_along_the_layers():
    deep = models.parse_cfg(NET + conv(4) * 2000 + HEAD)
    assert len(copy.deepcopy(deep).layers) == 2002
    assert pickle.loads(pickle.dumps(deep)).structure() == deep.structure()


def test_training_keys_are_kept_and_written_back_but_do_not_count_as_structure():
    plain = models.parse_cfg(NET + HEAD)
    trained = models.parse_cfg(NET + "burn_in=1000\nsteps=1,2\n" + HEAD + "ignore_thresh=.7\nnms_kind=greedynms\n")
    text = trained.text()
    for line in ("burn_in=1000", "steps=1,2", "ignore_thresh=.7", "nms_kind=greedynms"):
        assert line in text
    assert trained.structure() == plain.structure()


@pytest.mark.parametrize(
    ("broken", "says", "culprit"),
    [
        (NET + "[convolutionnal]\nfilters=3\n" + HEAD, "did you mean [convolutional]", "[convolutionnal]"),
        (LAYER + "fliters=3\n" + HEAD, "did you mean filters=", "fliters=3"),
        (LAYER + "filters=3\nantialiasing=1\n" + HEAD, "antialiasing=1 changes the output", "antialiasing=1"),
        (
            NET + conv(8) + "[shortcut]\nfrom=-1\nweights_type=per_feature\n" + HEAD,
            "changes the output",
            "weights_type=per_feature",
        ),
        (LAYER + "filters=three\n" + HEAD, "filters=three is not a whole number", "filters=three"),
        (LAYER + "filters=2.5\n" + HEAD, "filters=2.5 is not a whole number", "filters=2.5"),
        (LAYER + "filters=0\n" + HEAD, "filters=0 has to be at least 1", "filters=0"),
        (LAYER + "filters=8\nactivation=lekay\n" + HEAD, "activation=lekay is not one", "activation=lekay"),
        (LAYER + "filters=8\ngroups=2\nactivation=relu\n" + HEAD, "groups=2 divides not both", "groups=2"),
        (LAYER + "filters=8\nfilters=9\n" + HEAD, "filters=8 in line", "filters=9"),
        (NET + "[route]\nlayers=-1\n" + HEAD, "points at layer -1", "layers=-1"),
        (NET + conv(8) + "[route]\nlayers=5\n" + HEAD, "points at layer 5", "layers=5"),
        (NET + conv(8) + "[route]\n" + HEAD, "has no layers=", "[route]"),
        (
            NET + conv(8) + "[route]\nlayers=-1\ngroups=2\ngroup_id=2\n" + HEAD,
            "group_id=2 has to be in 0..1",
            "group_id=2",
        ),
        (NET + conv(8) + "[route\nlayers=-1\n" + HEAD, "closing bracket", "[route"),
        (NET + "what is this\n" + HEAD, "neither a [section] nor key=value", "what is this"),
        (NET + conv(8) + conv(8, stride=2) + "[shortcut]\nfrom=-2\n" + HEAD, "maps of different size", "[shortcut]"),
        (NET + conv(25, 1, activation="linear", bn=0) + yolo("0,1,2"), "set filters=24", None),
        (NET + FEEDER + yolo("0,1,6"), "names anchor 6", None),
        (NET + FEEDER + yolo("0,1,2", anchors="3,4"), "anchors= has 2 numbers", None),
        (NET + conv(24, 1, activation="logistic", bn=0) + yolo("0,1,2"), "sigmoid of its own", None),
        (NET + FEEDER + yolo("0,1,2", new_coords=1), "write activation=logistic", None),
        (
            NET + conv(24, 1, activation="logistic", bn=0) + yolo("0,1,2", new_coords=1) + "[route]\nlayers=0\n" + HEAD,
            "is also read by",
            None,
        ),
        (NET + conv(8), "detects nothing", None),
        (NET + HEAD + "[net]\nchannels=1\n", "a second time", None),
        (LAYER + "filters=inf\n" + HEAD, "filters=inf is not a whole number", "filters=inf"),
        (NET + FEEDER + yolo("0,1,2", scale_x_y="nan"), "scale_x_y=nan is not a number", "scale_x_y=nan"),
        (NET + FEEDER + yolo("0,1,2", scale_x_y="-2"), "scale_x_y=-2 has to be above 0", "scale_x_y=-2"),
        (NET + FEEDER + yolo("0,1,2", new_coords="7"), "new_coords=7 is neither 0 nor 1", "new_coords=7"),
        (NET + FEEDER + yolo("0,,2"), "mask=0,,2 has nothing between two commas", None),
        (NET + FEEDER + yolo("0,1,2", anchors="1e30,4" + ", 9,9" * 5), "an anchor has a side of 1e+30 pixels", None),
        (NET + HEAD + HEAD, "reads a detection head", None),
    ],
)
def test_a_mistake_is_named_with_file_and_line(broken, says, culprit):
    error = error_of(broken)
    assert says in str(error)
    assert error.where == "mine.cfg"
    if culprit is not None:
        assert broken.splitlines()[error.line - 1] == culprit
        assert f"mine.cfg:{error.line}: " in str(error)


@pytest.mark.parametrize("text", ["", "filters=3\n", "[convolutional]\nfilters=3\n", "[net]\nwidth=3\n", "\x00\x01PNG"])
def test_what_is_no_cfg_is_refused(text):
    with pytest.raises(UserError):
        models.parse_cfg(text, source="mine.cfg")


def test_an_off_switch_with_its_off_value_is_accepted():
    text = NET + "[convolutional]\nfilters=8\nbinary=0\nactivation=relu\n" + HEAD
    assert "binary=0" in models.parse_cfg(text).text()


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        models.read_cfg(tmp_path / "none.cfg")


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_written_numbers_read_back_equal(value):
    assert float(number_text(value)) == value


def test_numpy_numbers_are_written_as_numbers():
    section = models.Section("yolo")
    section.set("anchors", np.array([3.5, 4.0]))
    section.set("scale_x_y", np.float64(1.05))
    assert section.options == {"anchors": "3.5,4", "scale_x_y": "1.05"}


@given(st.text(max_size=200))
def test_any_text_is_a_cfg_or_a_user_error(text):
    try:
        cfg = models.parse_cfg("[net]\nwidth=32\n" + text)
    except UserError:
        return
    assert models.parse_cfg(cfg.text()).structure() == cfg.structure()


def test_a_cfg_is_read_and_written_without_torch():
    program = (
        "import sys; from models.cfg import read_cfg; from models.portable import opencv_problems, portable\n"
        "for path in sys.argv[1:]: opencv_problems(portable(read_cfg(path))), read_cfg(path).text()\n"
        "print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program, *map(str, SHIPPED)], capture_output=True, text=True)
    assert ran.stdout.strip() == "False", ran.stderr


@pytest.mark.parametrize(
    "old, new",
    [
        ("filters=4", "filters=1000000000"),
        ("filters=4", "filters=60000\nsize=60000"),
        ("filters=4", "filters=1e300"),
        ("stride=1", "stride=1e300"),
        ("stride=1", "stride=60000"),
        ("channels=3", "channels=-3"),
        ("channels=3", "channels=1e9"),
        ("width=64", "width=0"),
        ("height=64", "height=1000000000"),
        ("num=6", "num=1000000000"),
        ("pad=1", "padding=60000"),
        ("pad=1", "padding=-1"),
        ("classes=3", "classes=2147483647"),
    ],
)
def test_numbers_beyond_any_network_are_refused_at_their_line_before_memory_is_full(old, new, tmp_path):
    text = NET + conv(4) + HEAD
    assert old in text
    path = tmp_path / "x.cfg"
    path.write_text(text.replace(old, new, 1).replace("size=3\n", "", new.count("size=")))
    with pytest.raises(UserError, match=r"x\.cfg:\d+: \[(net|convolutional|yolo)\] "):
        models.load(path)


def test_a_map_far_finer_than_the_picture_and_a_cfg_without_end_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"would cover 0\.001 pixels"):
        models.Network(models.parse_cfg(NET + conv(4) + "[upsample]\nstride=1000\n" + HEAD))
    with pytest.raises(UserError, match="more than 2500 sections"):
        models.parse_cfg(NET + conv(4) * 10000 + HEAD)
    (tmp_path / "x.cfg").write_text("#" * (5 << 20))
    with pytest.raises(UserError, match=r"has 5\.2 MB, more than"):
        models.load(tmp_path / "x.cfg")
