"""``python -m tests.hostile [--kind ONNX] [--entry val]``: every hostile file through every entry; the table of it."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from common.log import log
from tests.hostile.cases import Case, cases, make_material
from thinyolo.main import main as thinyolo

SECONDS, GROWTH, PATIENCE = 2.0, 2**30, 60
"""Of CPU time, of memory, and of waiting, that a case may take."""
RUNS = ("os.system", "os.exec", "os.posix_spawn", "pickle.find_class", "code.__new__")
"""Events of Python's audit that something in a file was run, or would have been."""
STRANGERS = "root:x:0"
"""What is in /etc/passwd, which some of the files name."""
OURS = ("pipeline.train_prune", "pipeline.finetune_report", "pipeline.ablate", "pipeline.exporting")
OURS += ("reporting.predict", "reporting.data_page", "export.opening", "export.latency")
OURS += ("export.to_openvino", "export.to_ncnn")
seen: list[str] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event in RUNS:
        seen.append(f"{event} {arguments!r}"[:200])


def _run(words: Iterable[str]) -> tuple[int | None, str]:
    """A command's status (None: it raised) and what it said."""
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            status: int | None = thinyolo(list(words))
    except BaseException:
        status = None
        said.write(traceback.format_exc())
    finally:
        log.handlers.clear()
    return status, said.getvalue()


def run_case(case: Case, sound: Path, folder: Path) -> str:
    """What is wrong with how a case ended, in a process of its own; "" where nothing is."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        with os.fdopen(writing, "w") as answer:
            try:
                answer.write(_judged(case, folder))
            except BaseException as error:
                answer.write(f"the harness: {error!r}")
        os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], PATIENCE)
    with os.fdopen(reading) as answer:
        if not ready:
            os.kill(child, signal.SIGKILL)
        said = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not ready:
        return f"no end after {PATIENCE} s"
    return said if not status else f"the process ended with status {status}"


def _judged(case: Case, folder: Path) -> str:
    os.chdir(folder)
    marker = folder / "ran"
    case.make(folder, marker)
    marker.unlink(missing_ok=True)
    seen.clear()
    before, begun = _largest(), time.process_time()
    status, said = _run(case.words)
    seconds, grown = time.process_time() - begun, _largest() - before
    if marker.exists() or seen:
        return f"RAN {seen[:3]}"
    if status is None or "Traceback" in said:
        return f"raised {said.strip().splitlines()[-1][:300]}"
    if seconds > SECONDS:
        return f"took {seconds:.1f} s"
    if grown > GROWTH:
        return f"grew by {grown / 2**30:.1f} GiB"
    if STRANGERS in said or any(STRANGERS in path.read_text("latin-1") for path in folder.rglob("*") if _is_text(path)):
        return "told what is in another file"
    if status == 0 and case.may_end_well:
        return ""
    if status != 2:
        return f"status {status}: {said.strip()[-200:]!r}"
    return "" if said.rpartition("error: ")[2].strip() else "no words"


def _is_text(path: Path) -> bool:
    return path.suffix in (".txt", ".yaml", ".html", ".json", ".csv", ".names") and path.is_file()


def _largest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_all(chosen: list[Case], place: Path, aloud: bool = True) -> tuple[Counter[str], list[str]]:
    """How many cases of each kind there were, and what is wrong."""
    os.environ |= {"THINYOLO_CACHE": str(place / "cache"), "HOME": str(place), "WANDB_MODE": "disabled"}
    logging.disable(logging.INFO)
    sound, folder = place / "sound", place / "case"
    sound.mkdir(parents=True)
    os.chdir(sound)
    make_material(sound, lambda words: _run(words)[0] or 0)
    for module in ("timm", "onnx", "onnxruntime", "openvino", "ncnn", "scipy.io", "torch.export", *OURS):
        with suppress(ImportError):  # what an entry imports at first is not the case's
            importlib.import_module(module)
    sys.addaudithook(_audit)
    counts: Counter[str] = Counter()
    findings = []
    for case in chosen:
        wrong = run_case(case, sound, folder)
        counts[case.kind] += 1
        if wrong:
            findings.append(f"{case}: {wrong}")
            if aloud:
                print(findings[-1], flush=True)
    return counts, findings


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--kind", help="only these files")
    parser.add_argument("--entry", help="only these entries")
    parser.add_argument("--what", help="only these")
    options = parser.parse_args()
    chosen = [
        case
        for case in cases()
        if (options.kind or "") in case.kind
        and (options.entry or "") in case.entry
        and (options.what or "") in case.what
    ]
    with tempfile.TemporaryDirectory(prefix="thinyolo-hostile-") as folder:
        counts, findings = run_all(chosen, Path(folder).resolve())
        os.chdir("/")
    for kind, count in counts.items():
        wrong = sum(finding.startswith(f"{kind}: ") for finding in findings)
        files = len({case.what for case in chosen if case.kind == kind})
        print(f"{kind:<24} {files:>4} files {count:>5} cases {wrong:>4} wrong")
    print(f"{counts.total()} cases, {len(findings)} findings")
    return bool(findings)


if __name__ == "__main__":
    raise SystemExit(main())
