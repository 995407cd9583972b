"""What is installed from a wheel, not editable, runs from any folder: all packages, cfgs and templates are in it."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.data.made import many

ROOT = Path(__file__).parents[1]


def said(*command: object, cwd: Path, **environment: str) -> str:
    """What a command prints; it has to end well."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment that holds this project's wheel and sees what is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    # A build leaves build/ and *.egg-info in its source: it gets a copy of what git would ship.
    source = folder / "source"
    ignored = shutil.ignore_patterns(".venv", ".git", "runs", "wandb", "build", "*.egg-info", "__pycache__", "*.pt")
    shutil.copytree(ROOT, source, ignore=ignored)
    build = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", folder, source)
    said(sys.executable, *build, cwd=folder)
    (wheel,) = folder.glob("thinyolo-*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    said(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel, cwd=folder)
    # Only the path: the .pth files in it, and so an editable installation of this project, do not count.
    theirs = said(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=folder).strip()
    here = {sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")} | set(site.getsitepackages())
    (Path(theirs) / "dependencies.pth").write_text("\n".join(sorted(here)))
    return python.parent


def test_the_command_has_its_help(installed: Path, tmp_path: Path) -> None:
    text = said(installed / "thinyolo", "--help", cwd=tmp_path)
    assert "check" in text
    assert "predict" in text


def test_a_data_set_is_checked(installed: Path, tmp_path: Path) -> None:
    data = many(tmp_path / "set", 4)
    assert "no errors" in said(installed / "thinyolo", "check", "--data", data, cwd=tmp_path)


def test_cfgs_are_found_by_name_and_the_code_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    code = "import models; print(models.__file__, len(models.load('yolov5n').layers))"
    file, layers = said(installed / "python", "-c", code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(installed.parent)
    assert int(layers) > 50
