"""Which mixed precision is chosen, its errors, and the order in which Apex is called.

Apex cannot run without a GPU: packages that look like the three there are stand in, on disk, for the real ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import UserError
from engine.precision import Precision, apex_problem

Install = Callable[[dict[str, str]], None]

AMP = """
import contextlib

calls = []
scale = 8.0
active = True

@contextlib.contextmanager
def disable_casts():  # as Apex's own, which does not clean up after an exception
    global active
    active = False
    yield
    active = True

def initialize(models, optimizer, opt_level, verbosity):
    calls.append(("initialize", len(models), opt_level))
    class Stash: already_patched = False
    optimizer._amp_stash = Stash()

class scale_loss:
    def __init__(self, loss, optimizer, delay_unscale=False):
        self.loss, self.optimizer, self.delay = loss, optimizer, delay_unscale
    def __enter__(self):
        return self.loss * scale
    def __exit__(self, *_):
        calls.append(("scale_loss", self.delay))
        if not self.delay:
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad /= scale

def state_dict():
    return {"loss_scaler0": {"loss_scale": scale, "unskipped": 5}}

def load_state_dict(state):
    calls.append(("load_state_dict", state))
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """install({relative path: text}) puts a package `apex` first on the path."""
    for name in [name for name in sys.modules if name == "apex" or name.startswith("apex.")]:
        monkeypatch.delitem(sys.modules, name)

    def make(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / "apex" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))

    yield make
    for name in [name for name in sys.modules if name == "apex" or name.startswith("apex.")]:
        del sys.modules[name]


NVIDIA = {"__init__.py": "", "optimizers/__init__.py": "", "amp/__init__.py": AMP}
NVIDIA_2026 = {"__init__.py": "", "optimizers/__init__.py": "", "contrib/__init__.py": ""}
UNRELATED = {"__init__.py": "raise RuntimeError('the unrelated package was imported')", "lib/__init__.py": ""}


def test_cpu_trains_in_fp32_unless_told_otherwise(install: Install) -> None:
    install(NVIDIA)
    precision = Precision("auto", "O1", "cpu")
    assert str(precision) == "FP32"
    assert not precision.scales
    with precision.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("units", [False, True])
def test_native_on_a_cpu_is_bf16(
    units: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning where that is slower."""
    monkeypatch.setattr("engine.precision.bf16_units", lambda: units)
    with caplog.at_level("WARNING"), Precision("native", "O1", "cpu").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert ("slower than FP32 on this one" in caplog.text) is not units


@pytest.mark.parametrize("units", [False, True])
def test_auto_tells_a_cpu_with_units_for_bf16(
    units: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engine.precision.bf16_units", lambda: units)
    with caplog.at_level("INFO"):
        Precision("auto", "O1", "cpu")
    assert ("--amp native trains in about two thirds of the time" in caplog.text) is units


@pytest.mark.parametrize(
    "files, said",
    [
        (None, "no Apex is installed"),
        (NVIDIA_2026, "has no amp: NVIDIA removed it in 2025"),
        (UNRELATED, "unrelated one from PyPI"),
        ({**NVIDIA, "amp/__init__.py": "import amp_C_that_is_missing"}, "cannot be imported"),
        ({**NVIDIA, "amp/__init__.py": ""}, "no amp.initialize"),
        (NVIDIA, "needs a CUDA device"),
    ],
    ids=["absent", "without amp", "unrelated", "broken build", "empty amp", "no GPU"],
)
def test_apex_that_cannot_be_used_is_a_clear_error(install: Install, files: dict[str, str] | None, said: str) -> None:
    if files is not None:
        install(files)
    with pytest.raises(UserError, match=said) as caught:
        Precision("apex", "O1", "cpu")
    assert "--amp" in caught.value.todo
    assert "25.05" in caught.value.todo or "GPU" in caught.value.todo


@pytest.mark.parametrize(
    "files, kind", [(NVIDIA, "apex"), (NVIDIA_2026, "native"), (UNRELATED, "native"), (None, "native")]
)
def test_auto_on_a_gpu_takes_apex_only_where_it_works(
    install: Install, monkeypatch: pytest.MonkeyPatch, files: dict[str, str] | None, kind: str
) -> None:
    if files is not None:
        install(files)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    precision = Precision("auto", "O1", "cuda")
    assert precision.kind == kind
    assert kind == "apex" or precision.dtype == torch.bfloat16


def test_gpu_without_bf16_uses_fp16_with_a_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    with pytest.warns(UserWarning, match="GradScaler") if not torch.cuda.is_available() else nullcontext():
        precision = Precision("native", "O1", "cuda")
    assert precision.dtype == torch.float16
    assert precision.scales


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_student_alone_is_initialised_at_its_level(install: Install, level: str) -> None:
    install(NVIDIA)
    precision = Precision("apex", level, "cuda")
    student = nn.Linear(2, 1)
    precision.prepare(student, torch.optim.SGD(student.parameters(), 0.1))
    assert sys.modules["apex.amp"].calls == [("initialize", 1, level)]


def test_casts_of_o1_rest_but_for_a_forward_pass(install: Install) -> None:
    """Else validation, averaged weights, a cut and every later stage of the process would be in half precision too."""
    install(NVIDIA)
    layer = nn.Linear(2, 1)
    for _ in range(2):  # two stages of one process
        precision = Precision("apex", "O1", "cuda")
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        precision.prepare(layer, optimizer)
        amp = sys.modules["apex.amp"]
        assert not amp.active
        for _ in range(2):
            with precision.autocast():
                assert amp.active
            assert not amp.active
        with pytest.raises(ArithmeticError), precision.autocast():
            raise ArithmeticError("a loss that is not finite")
        assert not amp.active
        amp.active = True  # as Apex leaves it behind its own `optimizer.step`
        precision.step(optimizer)
        assert not amp.active


def test_apex_unscales_once_after_the_last_batch_of_a_step(install: Install) -> None:
    install(NVIDIA)
    precision = Precision("apex", "O1", "cuda")
    layer = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    precision.prepare(layer, optimizer)
    before = layer.weight.detach().clone()
    for last in (False, True):
        precision.backward(layer(torch.tensor([[1.0, 2.0]])).sum(), optimizer, last=last)
    precision.unscale(optimizer)
    assert torch.equal(layer.weight.grad, torch.tensor([[2.0, 4.0]]))
    assert precision.step(optimizer)
    torch.testing.assert_close(layer.weight.detach(), before - 0.5 * torch.tensor([[2.0, 4.0]]))
    calls = sys.modules["apex.amp"].calls
    assert calls == [("initialize", 1, "O1"), ("scale_loss", True), ("scale_loss", False)]


def test_step_that_apex_skips_is_reported(install: Install) -> None:
    install(NVIDIA)
    precision = Precision("apex", "O1", "cuda")
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    precision.prepare(layer, optimizer)
    optimizer._amp_stash.already_patched = True
    assert not precision.step(optimizer)


def test_apex_scale_is_saved_and_restored(install: Install) -> None:
    install(NVIDIA)
    precision = Precision("apex", "O1", "cuda")
    state = precision.state_dict()
    precision.load_state_dict(state)
    assert sys.modules["apex.amp"].calls == [("load_state_dict", {"loss_scaler0": {"loss_scale": 8.0, "unskipped": 5}})]


def test_state_of_another_precision_is_not_taken_over(caplog: pytest.LogCaptureFixture) -> None:
    Precision("off").load_state_dict({"kind": "native", "state": {"scale": 4.0}})
    assert "before" in caplog.text


def test_unrelated_apex_is_recognised_without_importing_it(install: Install) -> None:
    install(UNRELATED)
    assert "unrelated" in apex_problem()
    assert "apex" not in sys.modules
