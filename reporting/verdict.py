"""What a run says in the end: one network against another, in words that the measurements allow."""

from __future__ import annotations

from engine.bootstrap import Interval
from reporting.report import Row

NOTHING = 5e-4
"""A mAP below it shows as 0.000."""
CHECK_INPUT = "if it should: is --imgsz what it was trained for, are the data set's classes its own, in its order?"


def verdict(
    before: Row, after: Row, split: str = "", *, interval: Interval | None = None, speed: str = "", more: str = ""
) -> str:
    """One true sentence on what was gained and what it cost, and one on how well the second network detects.

    What was not measured on both sides is not mentioned.

    Args:
        interval: of the difference in mAP50-95; without it, or inside it, nobody is called better or worse.
        speed: see `reporting.speed.Speeds.compared`.
        more: further sentences.
    """
    gains = [
        _share("parameters", before.parameters, after.parameters, "{:,.0f}", 1),
        _share("megabytes", before.megabytes, after.megabytes, "{:.2f}", 1),
        _share("multiply-adds", before.macs, after.macs, "{:.3f} G", 1e9),
        speed,
    ]
    said = [gain for gain in gains if gain]
    head = f"{after.name} against {before.name}: " + (", ".join(said) if said else "costs were not measured")
    return " ".join(filter(None, [f"{head}.", quality(before, after, split, interval), more]))


def short_verdict(before: Row, after: Row, split: str = "", interval: Interval | None = None) -> str:
    """Only how well the second network detects."""
    found = quality(before, after, split, interval)
    return f"{after.name} against {before.name}: {found[0].lower()}{found[1:]}" if found else ""


def unhelped(began: str, start: float, best: float) -> str:
    """A warning where a network is, on val, at least as good before its fine-tuning as at the best epoch of it.

    Args:
        began: what it is called before the first step.
        start, best: its mAP50-95 on val before the first step, and at its best epoch.
    """
    if start < NOTHING or start < best:
        return ""
    return (
        f"Fine-tuning did not help: {began} scored mAP50-95 {start:.4f} on val before the first step, the best epoch "
        f"scored {best:.4f}. Use {began} as it is; or fine-tune again with a smaller learning rate (a tenth) or more "
        "epochs"
    )


def same_network(before: str, after: str) -> str:
    """What is to be said of two networks with one fingerprint."""
    return f"{before} and {after} are the same network: every weight is equal."


def unlearnt(came: Row, baseline: Row, split: str, interval: Interval | None) -> str:
    """A warning where training the network that came in made it worse: the baseline then is no measure of the rest."""
    if interval is None or interval.low is None or interval.sign >= 0:
        return ""
    change = _change(f"mAP50-95 on {split}", came.map50_95, baseline.map50_95)
    return (
        f"{baseline.name} against {came.name}: {change}. The network that came in detects better than the "
        f"{baseline.name} that was trained from it, so compare with it: a smaller --lr0 (a tenth) or more epochs keep "
        "what it knows; --stages auto takes it as it is"
    )


def quality(before: Row, after: Row, split: str = "", interval: Interval | None = None) -> str:
    """How well the second network detects beside the first; "better" or "worse" only outside the interval."""
    where = f" on {split}" if split else ""
    mean = _change(f"mAP50-95{where}", before.map50_95, after.map50_95)
    if mean and interval is not None:
        mean = f"{mean[:-1]}; {interval})"
    changes = [mean, _change(f"mAP50{where}", before.map50, after.map50)]
    numbers = "; ".join(change for change in changes if change)
    return f"{_word(before, after, interval)}: {numbers}." if numbers else ""


def _word(before: Row, after: Row, interval: Interval | None) -> str:
    scores = [score for row in (before, after) for score in (row.map50_95, row.map50) if score is not None]
    if max(scores) < NOTHING:
        return f"Neither detects anything yet, so nothing is shown about the quality ({CHECK_INPUT})"
    if max(before.map50 or 0.0, before.map50_95 or 0.0) < NOTHING:
        return f"{before.name} detects nothing here, so it says nothing that {after.name} detects more ({CHECK_INPUT})"
    if interval is None:
        return "Whether that is more than chance was not measured"
    if interval.low is None:
        return "Too few pictures to show a difference"
    return {0: "No difference shown", 1: "It detects better", -1: "It detects worse"}[interval.sign]


def _share(what: str, before: float | None, after: float | None, form: str, unit: float) -> str:
    if not before or after is None:
        return ""
    share = (before - after) / before
    shown = f"{form.format(before / unit)} -> {form.format(after / unit)}"
    if before == after:
        return f"as many {what} ({shown})"
    return f"{abs(share):.1%} {'fewer' if share > 0 else 'more'} {what} ({shown})".replace("%", " %")


def _change(what: str, before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    return f"{what} {before:.3f} -> {after:.3f} ({round(after, 3) - round(before, 3):+.3f})"
