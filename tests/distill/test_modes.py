"""The ``--kd`` syntax."""

from __future__ import annotations

import pytest

from common.errors import UserError
from distill import MODES, KDConfig
from distill.modes import describe_modes


@pytest.mark.parametrize(
    ("text", "modes"),
    [
        ("hinton,bounded", {"hinton": MODES["hinton"].weight, "bounded": MODES["bounded"].weight}),
        ("bounded:2", {"bounded": 2.0}),
        (" hinton : 0.5 , bounded ", {"hinton": 0.5, "bounded": MODES["bounded"].weight}),
        ("none", {}),
        ("hinton:0", {"hinton": 0.0}),
    ],
)
def test_terms_and_weights_are_read(text: str, modes: dict[str, float]) -> None:
    assert KDConfig(kd=text).modes() == modes


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hintn", "hintn"),
        ("hinton:x", "'x'"),
        ("hinton:-1", "'-1'"),
        ("hinton:nan", "nan"),
        ("hinton,hinton:2", "twice"),
    ],
)
def test_mistakes_are_named(text: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        KDConfig(kd=text).modes()


def test_every_option_of_a_mode_is_a_setting() -> None:
    for name, mode in MODES.items():
        assert set(KDConfig().options(name)) == set(mode.options)
        assert name in describe_modes()
