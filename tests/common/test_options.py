"""Options from defaults, YAML and the command line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from common.command_line import find_hyp, parse_config
from common.errors import UserError
from common.lock import LOCK, hold
from common.options import load_config, option, options, read_yaml, to_dict
from common.rundir import find_run, go_on, make_run_dir, network_in
from common.saved import check_saved
from engine.config import TrainConfig
from engine.rundir import no_trace_if_refused
from thinyolo.training import PRUNE, TRAIN

HOLD = "import sys, time; from pathlib import Path; from common.lock import hold; hold(Path(sys.argv[1])); "
HYP = Path(__file__).resolve().parents[2] / "cfg" / "hyp"


@dataclass
class ThinConfig(TrainConfig):
    strategy: str = option("union", "who decides", group="pruning", choices=("union", "shared"))
    t_cfg: str = option("", "the teacher", flags=("--t_cfg",))
    sparse: bool = option(True, "whether", flags=("-sr",))
    sizes: tuple[int, ...] = option((1, 2), "some numbers")
    limit: float | None = option(None, "a limit or none")


def test_command_line_overrides_yaml_overrides_defaults(tmp_path: Path) -> None:
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text("lr0: 0.5\nepochs: 7\nmosaic: 0.25\nbox: 3\n")
    config = parse_config(TrainConfig, ["--hyp", str(hyp), "--epochs", "9"])
    assert (config.lr0, config.epochs, config.batch_size) == (0.5, 9, TrainConfig().batch_size)
    assert (config.augment.mosaic, config.loss.box) == (0.25, 3.0)


@pytest.mark.parametrize("flags", [["--batch-size", "4"], ["--batch_size", "4"], ["--batch_size=4"], ["--batch", "4"]])
def test_hyphens_and_underscores_are_the_same(flags: list[str]) -> None:
    assert parse_config(TrainConfig, flags).batch_size == 4


def test_hyphenated_yaml_keys_are_understood(tmp_path: Path) -> None:
    (tmp_path / "h.yaml").write_text("batch-size: 4\n")
    assert parse_config(TrainConfig, ["--hyp", str(tmp_path / "h.yaml")]).batch_size == 4


def test_subclass_adds_flags_of_every_kind() -> None:
    config = parse_config(ThinConfig, ["--t-cfg", "fat.cfg", "--no-sparse", "--sizes", "3,4,5", "--limit", "2.5"])
    assert (config.t_cfg, config.sparse, config.sizes, config.limit) == ("fat.cfg", False, (3, 4, 5), 2.5)
    assert parse_config(ThinConfig, ["--no-sparse", "-sr"]).sparse
    assert parse_config(ThinConfig, ["--limit", "none"]).limit is None
    assert parse_config(ThinConfig, []).sizes == (1, 2)


def test_saved_options_read_back_equal(tmp_path: Path) -> None:
    flags = ["--lr0=1e-3", "--amp=off", "--cache=off", "--name=007", "--sizes=3", "--scale=.1"]
    config = parse_config(ThinConfig, flags)
    config.save(tmp_path / "args.yaml")
    assert load_config(ThinConfig, tmp_path / "args.yaml") == config
    assert load_config(ThinConfig, tmp_path) == config
    again = parse_config(ThinConfig, ["--hyp", str(tmp_path / "args.yaml")])
    assert replace(again, hyp="") == config


@dataclass(frozen=True)
class Inner:
    heat: float = option(1.0, "how hot", key="oven_heat", low=0)


@dataclass
class Middle:
    inner: Inner = Inner()
    height: int = option(2, "how high")


@dataclass
class Outer(TrainConfig):
    middle: Middle = field(default_factory=Middle, metadata={"group": "kitchen"})


def test_an_option_may_have_a_key_that_is_not_its_fields_name(tmp_path: Path) -> None:
    config = parse_config(Outer, ["--oven-heat", "3"])
    assert config.middle.inner == Inner(3.0)
    assert to_dict(config)["oven_heat"] == 3.0
    config.save(tmp_path / "args.yaml")
    assert load_config(Outer, tmp_path) == config
    with pytest.raises(UserError, match="--oven-heat"):
        parse_config(Outer, ["--oven-heat", "-1"])
    with pytest.raises(UserError, match="--heat"):
        parse_config(Outer, ["--heat", "3"])


def test_nested_options_stand_under_the_nearest_group_that_is_named() -> None:
    known = options(Outer)
    assert known["oven_heat"].metadata["group"] == known["height"].metadata["group"] == "kitchen"
    assert list(known)[-2:] == ["oven_heat", "height"]


def test_unknown_yaml_key_names_line_and_closest_key(tmp_path: Path) -> None:
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text("# mine\nlr0: 0.1\nmomentun: 0.9\n")
    with pytest.raises(UserError) as caught:
        parse_config(TrainConfig, ["--hyp", str(hyp)])
    assert f"{hyp}:3" in str(caught.value)
    assert "momentun" in str(caught.value)
    assert "'momentum'" in caught.value.todo


@pytest.mark.parametrize("flags", [["--clip", "1e9"], ["--lr0", "1e-9"], ["--warmup-epochs", "1_0.5"]])
def test_what_the_command_line_accepts_is_read_back_from_args_yaml(tmp_path: Path, flags: list[str]) -> None:
    config = parse_config(TrainConfig, flags)
    config.save(tmp_path / "args.yaml")
    assert to_dict(load_config(TrainConfig, tmp_path)) == to_dict(config)


@pytest.mark.parametrize("word", ["no", "false", "off", "'off'"])
def test_what_yaml_takes_for_off_is_off_where_that_is_a_choice(tmp_path: Path, word: str) -> None:
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text(f"cache: {word}\nname: no\n")
    assert read_yaml(TrainConfig, hyp) == {"cache": "off", "name": "no"}


def test_unknown_yaml_key_that_resembles_none_is_refused_all_the_same(tmp_path: Path) -> None:
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text("epochs: 3\nqqqqqqqqqqqq: 1\n")
    with pytest.raises(UserError, match=r"hyp\.yaml:2: unknown option 'qqqqqqqqqqqq'\n  -> --help lists all options"):
        read_yaml(TrainConfig, hyp)


@pytest.mark.parametrize(
    "text, line, said",
    [
        ("epochs: many\n", 1, "not a whole number"),
        ("lr0: 0.1\nepochs: 2.5\n", 2, "not a whole number"),
        ("single_cls: maybe\n", 1, "neither true nor false"),
        ("optimizer: adam\n", 1, "none of sgd, adamw"),
        ("\nlr0: -1\n", 2, "not between 1e-09 and 10"),
        ("lr0: 0.1\nlr0: 0.2\n", 2, "twice"),
        ("lr0: [0.1\nepochs: 3\n", 2, "YAML"),
        ("- lr0\n", 1, "key: value"),
        ("box_loss: diou\n", 1, "none of ciou, giou"),
    ],
)
def test_bad_yaml_value_names_file_and_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text(text)
    with pytest.raises(UserError) as caught:
        parse_config(TrainConfig, ["--hyp", str(hyp)])
    assert said in str(caught.value)
    assert caught.value.line == line or f":{line}" in str(caught.value)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--epochs", "few"], "--epochs few"),
        (["--epoch", "3"], "did you mean --epochs"),
        (["--lr0"], "--lr0"),
        (["--cache", "rma"], "none of off, ram, disk"),
        (["stray"], "stray"),
        (["--hyp", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_command_line_is_a_user_error(flags: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_config(TrainConfig, flags)
    assert said in str(caught.value)


def test_a_switch_that_is_on_is_described_by_the_spelling_that_changes_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_config(ThinConfig, ["--help", "all"])
    assert "--no-sparse whether (default: --sparse)" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "h.yaml").write_text("sparse: perhaps\n")
    with pytest.raises(UserError, match=r"--no-sparse: whether \(default: --sparse\)"):
        read_yaml(ThinConfig, tmp_path / "h.yaml")


def test_help_lists_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_config(ThinConfig, ["--help", "all"], prog="train", description="what it does", epilog="an example")
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for each in options(ThinConfig).values():
        assert each.flag in text or "--no-" + each.flag.lstrip("-") in text, each.flag
        assert each.metadata["help"], f"{each.key} has no help"
    for part in ("network and data:", "augmentation:", "loss:", "pruning:", "default: 0.937", "an example", "--t_cfg"):
        assert part in text


def test_a_field_that_is_not_declared_as_an_option_is_a_mistake_of_ours() -> None:
    @dataclass
    class Plain:
        depth: int = 3

    with pytest.raises(AssertionError, match=r"Plain\.depth"):
        options(Plain)


@pytest.mark.parametrize("text, size", [("416", (416, 416)), ("1280x800", (800, 1280)), ("640X480", (480, 640))])
def test_imgsz_is_width_by_height(text: str, size: tuple[int, int]) -> None:
    assert parse_config(TrainConfig, ["--imgsz", text]).input_size == size


@pytest.mark.parametrize("text", ["big", "0", "416x", "-32", "1x2x3"])
def test_bad_imgsz_is_a_user_error(text: str) -> None:
    with pytest.raises(UserError, match="imgsz"):
        _ = parse_config(TrainConfig, [f"--imgsz={text}"]).input_size


@pytest.mark.parametrize(
    "text, frozen", [("", set()), ("3", {0, 1, 2}), ("0,4", {0, 4}), ("[2,3]", {2, 3}), ("2,", {2}), ("0", set())]
)
def test_freeze_takes_a_number_or_a_list(text: str, frozen: set[int]) -> None:
    assert parse_config(TrainConfig, [f"--freeze={text}"]).frozen_layers(6) == frozen


@pytest.mark.parametrize("text", ["all", "7", "1,9", "-1"])
def test_bad_freeze_is_a_user_error(text: str) -> None:
    with pytest.raises(UserError, match="--freeze"):
        parse_config(TrainConfig, [f"--freeze={text}"]).frozen_layers(6)


def test_bare_multi_scale_flag_has_a_value() -> None:
    assert parse_config(TrainConfig, ["--multi-scale"]).multi_scale == 0.5
    assert parse_config(TrainConfig, ["--multi-scale", "0.2"]).multi_scale == 0.2


def test_resume_takes_the_saved_options_and_what_may_change(tmp_path: Path) -> None:
    run = make_run_dir(tmp_path, "train", "exp")
    parse_config(TrainConfig, ["--lr0", "0.03", "--workers", "7", "--project", str(tmp_path)]).save(run / "args.yaml")
    resumed = parse_config(TrainConfig, ["--resume", str(run), "--workers", "1"])
    assert (resumed.lr0, resumed.workers, resumed.resume) == (0.03, 1, str(run))
    assert parse_config(TrainConfig, ["--resume", "--project", str(tmp_path)]).lr0 == 0.03
    assert parse_config(TrainConfig, ["--resume", str(run), "--lr0", "0.03"]).lr0 == 0.03
    with pytest.raises(UserError, match=r"--lr0 0.5.*has 0.03 and keeps it"):
        parse_config(TrainConfig, ["--resume", str(run), "--lr0", "0.5"])


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../../x", "/abs"])
def test_a_runs_name_stays_in_its_project(tmp_path, name):
    with pytest.raises(UserError, match="is no name of a folder"):
        make_run_dir(tmp_path / "runs", "train", name)


def test_run_folders_are_numbered_and_found(tmp_path: Path) -> None:
    first, second = make_run_dir(tmp_path, "train", "exp"), make_run_dir(tmp_path, "train", "exp")
    assert (first.name, second.name) == ("exp", "exp2")
    assert make_run_dir(tmp_path, "train", "exp", exist_ok=True) == first
    (second / "weights").mkdir()
    TrainConfig().save(second / "args.yaml")
    assert find_run(second / "weights" / "last.pt") == second
    assert find_run("latest", tmp_path) == second
    with pytest.raises(UserError, match=r"args\.yaml"):
        find_run(first)
    with pytest.raises(UserError, match="no unfinished run"):
        find_run("latest", tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["scratch", "finetune"])
def test_shipped_hyp_files_are_valid_and_every_key_is_explained(name: str) -> None:
    values = read_yaml(TrainConfig, find_hyp(name))
    assert values
    for line in (HYP / f"{name}.yaml").read_text().splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            assert "#" in line, line


def test_flat_dict_has_every_option_once() -> None:
    values = to_dict(TrainConfig())
    assert list(values) == list(options(TrainConfig))
    assert {"lr0", "mosaic", "box_loss"} <= values.keys()


def refused(run: Path, *written: str, resumed: bool = False) -> bool:
    """Whether the folder is still there after a refusal; `written` are the files the run had made until then."""
    for name in written:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    with pytest.raises(UserError, match="no such thing"), no_trace_if_refused(run, resumed):
        raise UserError("no such thing")
    return run.exists()


def test_refused_run_leaves_no_folder_as_long_as_it_has_trained_nothing(tmp_path: Path) -> None:
    assert not refused(make_run_dir(tmp_path, "train", "exp"), "args.yaml", "start.pt", "sparse/wandb/run.wandb")
    run = make_run_dir(tmp_path, "train", "exp")
    assert run.name == "exp", "the name is free again"
    assert refused(run, "args.yaml", "sparse/weights/last.pt")
    assert refused(make_run_dir(tmp_path, "train", "exp"), "args.yaml", resumed=True)


@pytest.mark.parametrize("before", [(), ("args.yaml",), ("notes.txt", "start.pt")])
def test_folder_that_was_there_before_is_left_alone(tmp_path: Path, before: tuple[str, ...]) -> None:
    mine = tmp_path / "train" / "mine"
    mine.mkdir(parents=True)
    for name in before:
        (mine / name).write_text("mine")
    assert refused(make_run_dir(tmp_path, "train", "mine", exist_ok=True), "args.yaml")
    assert {path.name for path in mine.iterdir()} == {"args.yaml", *before}


def test_exception_that_is_no_refusal_leaves_everything(tmp_path: Path) -> None:
    run = make_run_dir(tmp_path, "train", "exp")
    with pytest.raises(KeyboardInterrupt), no_trace_if_refused(run, resumed=False):
        raise KeyboardInterrupt
    assert run.is_dir()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Of two commands two runs each, of which the later one of `train` has ended."""
    for kind, name, ended in (("train", "a", ""), ("train", "b", "report.html"), ("train_prune", "c", "")):
        run = make_run_dir(tmp_path, kind, name)
        TrainConfig().save(run / "args.yaml")
        if ended:
            (run / ended).touch()
    return tmp_path


def test_bare_resume_takes_the_newest_unfinished_run_of_its_own_command(
    runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "thinyolo"):
        assert parse_config(TrainConfig, ["--resume", "--project", str(runs)]).resume == str(runs / "train/a")
    assert f"thinyolo train --resume {runs / 'train/a'}" in caplog.text
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD + "print(flush=True); time.sleep(99)", str(runs / "train/a")],
        stdout=subprocess.PIPE,
    )
    assert held.stdout is not None
    held.stdout.readline()
    with pytest.raises(UserError, match=r"train/a is at work in another process"):
        parse_config(TrainConfig, ["--resume", "--project", str(runs)])
    (runs / "train/d").mkdir()
    shutil.copy(runs / "train/a/args.yaml", runs / "train/d")
    assert parse_config(TrainConfig, ["--resume", "--project", str(runs)]).resume == str(runs / "train/d")
    held.kill()
    held.wait()
    for name in "ad":
        (runs / f"train/{name}/report.html").touch()
    with pytest.raises(UserError, match=r"no unfinished run of thinyolo train .*train/."):
        parse_config(TrainConfig, ["--resume", "--project", str(runs)])


def test_a_run_of_another_command_is_refused_with_the_right_one(runs: Path) -> None:
    with pytest.raises(UserError, match=rf"thinyolo prune --resume {runs / 'train_prune/c'}"):
        parse_config(TrainConfig, ["--resume", str(runs / "train_prune/c")])


def test_what_a_run_stands_for_is_what_its_last_stage_left(runs: Path) -> None:
    run = runs / "train_prune/c"
    with pytest.raises(UserError, match="without a network yet"):
        network_in(run)
    with pytest.raises(UserError) as refused:
        parse_config(TrainConfig, ["--resume", str(runs / "train/a"), "--lr0", "0.5"])
    assert "--weights" not in str(refused.value), "there is nothing to begin with"
    for name in ("baseline/weights/last.pt", "baseline/weights/best.pt", "pruned/pruned.pt", "student/weights/best.pt"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
        assert network_in(run) == run / name
    (runs / "ablate/g/none/seed0/weights").mkdir(parents=True)
    (runs / "ablate/g/none/seed0/weights/best.pt").touch()
    with pytest.raises(UserError, match=r"several networks\n.*none/seed0"):
        network_in(runs / "ablate/g")
    with pytest.raises(UserError, match="no run's"):
        network_in(runs)


def test_a_recipe_is_meant_although_a_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scratch").mkdir()
    assert find_hyp("scratch") == HYP / "scratch.yaml"


@pytest.mark.parametrize("kind, command", [("train_prune", "prune"), ("finetune_kd", "distill"), ("ablate", "ablate")])
def test_after_ctrl_c_the_command_to_go_on_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, command: str
) -> None:
    monkeypatch.setattr("common.rundir.begun", [])
    assert "--resume" not in go_on()
    run = make_run_dir(tmp_path, kind, "exp")
    monkeypatch.setattr("common.rundir.begun", [run])
    assert go_on() == f"Go on with: thinyolo {command} --resume {run}"
    assert PRUNE.after_stop is TRAIN.after_stop is go_on


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("pruned", "pruned.pt"),
        ("sparse", "weights/sparse.pt"),
        ("sparse/weights", "sparse.pt"),
        ("student", "weights/best.pt"),
        ("student/weights", "best.pt"),
        ("round1/cut", "pruned.pt"),
    ],
)
def test_a_stages_folder_stands_for_what_the_stage_left(tmp_path: Path, folder: str, file: str) -> None:
    (tmp_path / folder / file).parent.mkdir(parents=True)
    for name in (file, file.replace("sparse.pt", "last.pt")):
        (tmp_path / folder / name).touch()
    assert network_in(tmp_path / folder) == tmp_path / folder / file


@pytest.mark.parametrize(
    "flags", [["--seed", "9" * 30], ["--threads", "99999"], ["--degrees", "1e308"], ["--scale", "-5"], ["--seed", "²"]]
)
def test_numbers_beyond_reason_are_refused(flags: list[str]) -> None:
    with pytest.raises(UserError, match=f"{flags[0]} {flags[1]} is"):
        parse_config(TrainConfig, flags)


@pytest.mark.parametrize(
    "text, said",
    [
        ("qqqqqqqqqqqqqqqq: 1", "unknown option"),
        ("lr0: 2020-99-99", "not a number"),
        ("batch_size: =", "not a whole number"),
        ("lr0: &a [*a]", "no more than that"),
        ("? [1, 2]\n: 3", "no list or map"),
        ("lr0: !!binary abc", "not a number"),
        ("epochs: !!int ''", "not a whole number"),
        ("epochs: [1, 2]", "one value is wanted"),
        ("lr0: " + "[" * 3000, "is not YAML"),
        (b"\xff\xfe", "is not a text file"),
        ("x" * 5000 + ": 1", "is not YAML|unknown option"),
    ],
)
def test_whatever_yaml_can_say_is_an_option_or_a_sentence(tmp_path: Path, text: str | bytes, said: str) -> None:
    (tmp_path / "h.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said):
        parse_config(TrainConfig, ["--hyp", str(tmp_path / "h.yaml")])


def test_only_hyp_files_that_a_command_knows_are_offered() -> None:
    with pytest.raises(UserError, match=r"one of: (?!.*sparse).*finetune"):
        parse_config(TrainConfig, ["--hyp", "a" * 5000])
    with pytest.raises(UserError, match=r"sparse\.yaml is for a command"):
        parse_config(TrainConfig, ["--hyp", "sparse"])
    for flag in ("--hyp", "--resume"):
        with pytest.raises(UserError, match="5000 characters"):
            parse_config(TrainConfig, [flag, "a" * 5000])


def test_a_run_whose_folder_was_deleted_meanwhile_does_not_end_as_if_nothing_had_happened(tmp_path: Path) -> None:
    run = make_run_dir(tmp_path, "train", "exp")
    hold(run)
    with pytest.raises(UserError, match="was deleted, moved or emptied"), no_trace_if_refused(run, resumed=False):
        shutil.rmtree(run)
    assert not run.exists()
    run = make_run_dir(tmp_path, "train", "exp")
    hold(run)
    with no_trace_if_refused(run, resumed=False):
        assert (run / LOCK).exists()
    assert list(run.iterdir()) == [], "the next process may have it"


def test_an_option_given_twice_is_said_and_the_last_one_counts(caplog: pytest.LogCaptureFixture) -> None:
    assert parse_config(TrainConfig, ["--epochs", "3", "--epochs=5", "--lr0", "0.1", "--lr0", "0.1"]).epochs == 5
    assert caplog.messages == ["--epochs is given more than once: the last one counts"]


def test_a_negative_number_is_no_flag() -> None:
    for word in ("-1e-3", "-.5", "-inf", "-1e400", "-1"):
        with pytest.raises(UserError, match=f"--lr0 {word} is not between 1e-09 and 10"):
            parse_config(TrainConfig, ["--lr0", word])


def test_an_empty_value_is_refused_unless_it_undoes_one(tmp_path: Path) -> None:
    for flag in ("--weights", "--hyp", "--resume", "--data"):
        with pytest.raises(UserError, match=f"{flag} is given an empty value"):
            parse_config(TrainConfig, [flag, ""])
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text("weights: net.pt\n")
    assert parse_config(TrainConfig, ["--hyp", str(hyp), "--weights", ""]).weights == ""


def test_whoever_stops_while_a_run_is_read_is_told_how_to_go_on(runs: Path) -> None:
    parse_config(TrainConfig, ["--resume", str(runs / "train/a")])
    assert go_on() == f"Go on with: thinyolo train --resume {runs / 'train/a'}"


def test_what_was_changed_in_a_saved_file_is_named_with_its_value(tmp_path: Path) -> None:
    args = tmp_path / "args.yaml"
    TrainConfig(epochs=7).save(args)
    text = args.read_text()

    def told(*edits: tuple[str, str]) -> str:
        changed = text
        for old, new in edits:
            assert f"\n{old}\n" in changed
            changed = changed.replace(f"\n{old}\n", f"\n{new}\n")
        args.write_text(changed)
        with pytest.raises(UserError) as caught:
            check_saved(TrainConfig, args, read_yaml(TrainConfig, args))
        return str(caught.value)

    line = text[: text.index("momentum:")].count("\n") + 1
    said = told(("momentum: 0.937", "momentum: .5"))
    assert f"args.yaml:{line}: `momentum: 0.5` (was 0.937) is not what it was" in said
    assert "`epochs: 8` is not what it was when the run began" in told(("epochs: 7", "epochs: 8")), "7 is no default"
    assert "`epochs: 8`, `seed: 3` are not what" in told(("epochs: 7", "epochs: 8"), ("seed: 0", "seed: 3"))
    each = next(line for line in text.splitlines() if line.startswith("# each: "))
    assert "an option in it is not what" in told((each, "# each: 123"), ("epochs: 7", "epochs: 8"))
