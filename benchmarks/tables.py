"""The figures of run.py as tables and as a page, and what pages of sides at the same work share."""

import statistics
from typing import Any

import report
from works import WORKS, Bar

START = ["from the command line", "seconds (min–max)", "bar", "met"]
MET = {True: "yes", False: "no", None: "–"}
NOTES = """# Speed

Environment steps a second, learning included, compiling and warm-up not: the median of the rounds. The README of the
folder above says how they are measured, and speed.json has every figure.
"""


def whole(sections: dict[str, Any]) -> str:
    """speed.md"""
    return NOTES + "".join(
        page(name, sections[name]) for name in [*WORKS, "start-up"] if name in sections
    )


def page(name: str, section: dict[str, Any]) -> str:
    lines = []
    if "settings" in section:
        hyperparameters = section["settings"]["hyperparameters"]
        lines = [
            "* settings: " + ", ".join(f"{key} {value}" for key, value in hyperparameters.items())
        ]
    return written(*table(name, section), section, "steps", lines)


def written(
    title: str,
    headings: list[str],
    rows: list[list[str]],
    section: dict[str, Any],
    unit: str,
    more: list[str],
) -> str:
    """A section: its table, when and on what it was measured, its sides, `more` lines, and what
    failed."""
    machine = section["machine"]
    lines = [
        f"Measured {section['measured']} on {machine['processor']}, {machine['cores']} cores, "
        "load beforehand "
        f"{section['load_before']}; rounds: {section['rounds']}.",
        "",
        *sides_of(section.get("sides", {}), unit),
        *more,
    ]
    lines += [f"* {label} failed: {error}" for label, error in errors_of(section).items()]
    return f"\n## {title}\n\n{report.markdown(headings, rows)}\n" + "".join(
        f"{line}\n" for line in lines
    )


def sides_of(sides: dict[str, Any], unit: str) -> list[str]:
    """A line on each peer: its variant, the seconds it compiled, its versions; and one on etude."""
    lines = {}
    for label, found in sides.items():
        seconds = column(found["measurements"], "compile_seconds")
        tried = ", ".join(
            f"{variant}: {rate:,.0f} {unit}/s" for variant, rate in found["tried"].items()
        )
        variant = f", {found['variant']} (tried {tried})" if tried else ""
        compiled = f", compiled in {middle(seconds)} s" if tried and seconds else ""
        if "versions" in found:
            lines.setdefault(f"{variant}{compiled}: {report.listed(found['versions'])}", []).append(
                label
            )
    return [f"* {', '.join(labels)}{text}" for text, labels in lines.items()]


def table(name: str, section: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """(title, headings, rows) of a section."""
    judged = not section["quick"]
    if name == "start-up":
        return (
            "Start-up",
            START,
            [start_row(label, start, judged) for label, start in section["starts"].items()],
        )
    return compared(
        WORKS[name].title, WORKS[name].bars, section["sides"], judged, "etude on", "steps"
    )


def compared(
    title: str, bars: list[Bar], sides: dict[str, Any], judged: bool, ours: str, unit: str
) -> tuple[str, list[str], list[list[str]]]:
    """(title, headings, rows) of sides at the same work."""
    rate = f"{unit}/s (min–max)"
    headings = [ours, rate, "compile s", "beside", rate, "ratio", "bar", "met"]
    return title, headings, [speed_row(bar, sides, judged) for bar in bars]


def speed_row(bar: Bar, sides: dict[str, Any], judged: bool) -> list[str]:
    ours, peer = (sides.get(label, {}).get("measurements", []) for label in (bar.ours, bar.peer))
    least = "–" if bar.least is None else f"≥ {bar.least:g}"
    cells = [
        bar.ours,
        spread(column(ours, "rate"), ",.0f"),
        middle(column(ours, "compile_seconds")),
        bar.peer,
        spread(column(peer, "rate"), ",.0f"),
    ]
    if not (ours and peer):
        return [
            *cells,
            "–",
            least,
            "not installed" if "absent" in sides.get(bar.peer, {}) else "not measured",
        ]
    ratio = statistics.median(column(ours, "rate")) / statistics.median(column(peer, "rate"))
    return [
        *cells,
        f"{ratio:.2f}",
        least,
        MET[None if bar.least is None or not judged else ratio >= bar.least],
    ]


def start_row(label: str, start: dict[str, Any], judged: bool) -> list[str]:
    seconds = [float(value) for value in start["seconds"]]
    met = statistics.median(seconds) <= start["bar"] if judged else None
    return [label, spread(seconds, ".1f"), f"≤ {start['bar']}", MET[met]]


def errors_of(section: dict[str, Any]) -> dict[str, str]:
    """What failed, and why."""
    stopped = {
        label: "it ended before its first line of progress"
        for label, start in section.get("starts", {}).items()
        if "nan" in map(str, start["seconds"])
    }
    return stopped | {
        label: found["error"]
        for label, found in section.get("sides", {}).items()
        if "error" in found
    }


def column(measurements: list[dict[str, Any]], name: str) -> list[float]:
    return [measurement[name] for measurement in measurements if name in measurement]


def spread(values: list[float], form: str) -> str:
    """Median, least and most."""
    return (
        f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"
        if values
        else "–"
    )


def middle(values: list[float]) -> str:
    return f"{statistics.median(values):.1f}" if values else "–"
