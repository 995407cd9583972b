"""The report of a run: one HTML page of what its record holds (`reporting.record`); it loads nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.rundir import REPORT
from engine.bootstrap import Matches
from engine.plots import read_results, result_panels
from export.formats import runtime_title
from reporting.charts import accuracy_and_cost, annotated, forest, panel
from reporting.html import embedded, rendered, short, write_page
from reporting.record import AGAIN, RECORD, Record, in_run, read_record, write_record
from reporting.report import COLUMNS, EPOCHS, Row, cells, relative

FEW_CLASSES = 16
"""Classes in the table of the first screen: those whose precision changed most."""


def write_report(run: str | Path, record: Record, matches: Mapping[str, Matches | None] | None = None) -> Path:
    """Leave the record in the run, and make its page."""
    run = Path(run)
    write_record(run, record, matches or {})
    return write_page(run / REPORT, page_of(run, record))


def made_again(run: Path) -> Path:
    """Make a run's page anew from its record.

    Raises:
        UserError: it has none, or it is damaged.
    """
    record = read_record(run)
    try:
        return write_page(run / REPORT, page_of(run, record))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, OSError) as error:
        problem = f"is damaged: {type(error).__name__}: {str(error)[:200]}"
        raise UserError(problem, where=run / RECORD, todo=AGAIN) from error


def page_of(run: Path, record: Record) -> str:
    """The page, `run` being where the files lie that the record names."""
    rows = [Row(**each) for each in record.get("rows", ())]
    by_name = {row.name: row for row in rows}
    base, last = (by_name.get(record.get(name, "")) for name in ("baseline", "last"))  # type: ignore[call-overload]
    points = list(record.get("points", ()))
    verdict, lead = record.get("verdict", ""), record.get("lead", "")
    names = list(record.get("data", {}).get("classes", ()))
    first = base.name if base else ""
    second = last.name if last else ""
    ship = record.get("ship")
    return rendered(
        "report.html.j2",
        title=record.get("title", run.name),
        intro=record.get("intro", ""),
        facts=facts(record),
        lead=lead[:1].upper() + lead[1:],
        tiles=_tiles(record, base, last, points) if base and last and base is not last else [],
        ship=_ship(points[ship]) if ship is not None else None,
        ship_why=record.get("ship_why", ""),
        others=verdict.split("\n")[1:] if lead else [],
        rivals=record.get("rivals", ()),
        verdict=verdict,
        accuracy=accuracy_and_cost(points),
        by_time=all(each["ms"] is not None for each in points),
        timed=record.get("timed", ""),
        split=record.get("split", "val"),
        classes=_classes(record.get("classes", ())),
        headings=[heading for heading, _, _ in COLUMNS],
        rows=[(row.name, list(zip(cells(row), relative(row, base))), row.note) for row in rows],
        notes=any(row.note for row in rows),
        base=first,
        last=second,
        table_caption=_table_caption(record, rows),
        tally=_tally(record.get("tally"), record.get("split", "val"), first, second),
        shots=[
            (annotated(each, names, first, second), embedded(in_run(run, each["file"])))
            for each in record.get("pictures", ())
        ],
        cut=record.get("cut", ()),
        channels=_picture(run, record.get("channels")),
        layers=_layer_table(record.get("layers", ())),
        gammas=_picture(run, record.get("gammas")),
        curves=_curves(run, record.get("results", {})),
        figures=[(caption, source) for caption, name in record.get("figures", ()) if (source := _picture(run, name))],
        settings={stage: _settings(options) for stage, options in record.get("settings", {}).items()},
        lineage=[_one_line(entry) for entry in record.get("lineage", ())],
    )


def facts(record: Record) -> list[tuple[str, str]]:
    """What a reader asks first: which data, on what machine, when."""
    found = []
    if data := record.get("data"):
        counts = ", ".join(f"{count:,} {split}" for split, count in data.get("pictures", {}).items())
        classes = len(data.get("classes", ()))
        found.append(
            ("Data", f"{short(data.get('name', ''), 80)} ({counts} pictures; {classes} class{'es' * (classes != 1)})")
        )
    if size := record.get("size"):
        found.append(("Input", f"{size[1]} x {size[0]}"))
    found += [(name.capitalize(), str(record[name])) for name in ("machine", "made", "asked") if record.get(name)]
    return found


def _tiles(record: Record, base: Row, last: Row, points: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(figure, of what, from -> to): what was gained, and what it cost."""
    found = []
    for name, attribute, form, unit in (
        ("parameters", "parameters", "{:,.0f}", 1),
        ("multiply-adds", "macs", "{:.3f} G", 1e9),
    ):
        before, after = getattr(base, attribute), getattr(last, attribute)
        if before and after is not None:
            change = f"{form.format(before / unit)} → {form.format(after / unit)}"
            found.append((f"{100 * (after / before - 1):+.0f} %", name, change))
    by_name = {each["name"]: each for each in points}
    fat, thin = by_name.get(base.name), by_name.get(last.name)
    if fat and thin and fat["ms"] and thin["ms"]:
        change = f"{fat['ms']:.2f} → {thin['ms']:.2f} ms, {short(runtime_title(thin['runtime']))}"
        found.append(
            (f"{fat['ms'] / thin['ms']:.1f} ×", "as fast" if fat["ms"] >= thin["ms"] else "as fast (slower)", change)
        )
    if base.map50_95 is not None and last.map50_95 is not None:
        interval = record.get("interval") or {}
        change = f"{base.map50_95:.3f} → {last.map50_95:.3f}"
        if interval.get("low") is not None:
            change += f"; 95 %: {interval['low']:+.3f} to {interval['high']:+.3f}"
        found.append(
            (
                f"{round(last.map50_95, 3) - round(base.map50_95, 3):+.3f}",
                "mAP50-95",
                change,
            )
        )
    return found


def _ship(point: Mapping[str, Any]) -> dict[str, str]:
    time = f"{point['ms']:.2f} ms of CPU time a picture in" if point["ms"] is not None else "runs in"
    megabytes = f", {point['megabytes']:.2f} MB" if point["megabytes"] else ""
    score = f", mAP50-95 {point['map50_95']:.3f}" if point["map50_95"] is not None else ""
    words = f"{time} {short(runtime_title(point['runtime']))}{score}{megabytes}."
    return {"file": point["file"] or point["name"], "words": words}


def _classes(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The table of classes: the largest loss first; of many classes those that changed most."""

    def change(row: Mapping[str, Any]) -> float:
        return float((row["against"] or {}).get("difference") or 0.0)

    chosen = sorted(sorted(rows, key=lambda row: -abs(change(row)))[:FEW_CLASSES], key=change)
    shown = []
    for row in chosen:
        against = row["against"] or {}
        said = f"{short(row['name'])}: {row['first']:.3f} → {row['second']:.3f} ({change(row):+.3f}"
        if against.get("low") is not None:
            said += (
                f"; 95 % interval over {against['pictures']} pictures {against['low']:+.3f} to {against['high']:+.3f}"
            )
        elif against:
            said += f"; {against['pictures']} pictures are too few for an interval"
        numbers = f"{row['boxes']:,}", f"{row['first']:.3f}", f"{row['second']:.3f}", f"{change(row):+.4f}"
        shown.append((row["name"], *numbers, f"{said})"))
    return {"rows": shown, "forest": forest(chosen), "left_out": len(rows) - len(chosen)}


def _tally(found: Mapping[str, int] | None, split: str, first: str, second: str) -> str:
    if not found or not found["objects"]:
        return ""
    return (
        f"Of the {found['objects']:,} objects in {split}, both find {found['both']:,}, only {short(first)} "
        f"{found['first']:,}, only {short(second)} {found['second']:,}, neither {found['neither']:,}, at a confidence "
        f"of .25 and an overlap of half or more. Boxes without an object: {short(first)} {found['false_first']:,}, "
        f"{short(second)} {found['false_second']:,}. The pictures show the worst for {short(second)} first."
    )


def _table_caption(record: Record, rows: Sequence[Row]) -> str:
    parts = []
    if "split" in record:
        parts.append(f"mAP on the {record['split']} split")
    if "size" in record:
        height, width = record["size"]
        parts.append(f"MACs and CPU time at {height} x {width} pixels (H x W), one picture")
    parts += filter(None, (record.get("measured_with"), record.get("counted")))
    if any(row.epochs is not None for row in rows):
        parts.append(EPOCHS)
    return "; ".join(parts)


def _picture(run: Path, name: str | None) -> str:
    path = in_run(run, name) if name else None
    return embedded(path) if path is not None and path.is_file() else ""


_FIRST = ("mAP50-95", "mAP50", "total", "quantiles of |gamma|")
"""The curves that a reader looks at first; the others are folded away."""


def _curves(run: Path, results: Mapping[str, str]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The panels of every training that has left its `results.csv`."""
    found = []
    for stage, name in results.items():
        path = in_run(run, name)
        columns = read_results(path) if path.is_file() else {}
        if columns:
            x, panels = result_panels(columns)
            titles = sorted(panels, key=lambda title: _FIRST.index(title) if title in _FIRST else len(_FIRST))
            drawn = [panel(title, x, {line: columns[line] for line in panels[title]}) for title in titles]
            found.append((stage, [each for each in drawn if each]))
    return found


def _layer_table(layers: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    if not layers:
        return [], []
    headings = list(layers[0])
    return headings, [[_shown(row.get(heading)) for heading in headings] for row in layers]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _settings(options: Any) -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat.append((prefix, _shown(value)))

    walk("", options)
    return flat


def _one_line(entry: Any) -> str:
    """An ancestor in words."""
    if isinstance(entry, Mapping) and "sha256" in entry:
        kept = f"{entry.get('layers', 0)} layers kept channels of it"
        return f"{entry.get('kind', 'ancestor')}: sha256 {entry['sha256']} ({kept})"
    return json.dumps(entry, default=str)
