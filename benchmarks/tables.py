"""Results as tables and Markdown pages, for run.py and planning.py."""

import statistics
from typing import Any

import report
from workloads import DATASET, PRODUCTS_ALONE, WORKLOADS, Target, environment_alone

START_UP_HEADINGS = ["from the command line", "seconds (min–max)", "bar", "met"]
MET = {True: "yes", False: "no", None: "–"}
NOTES = """# Speed

Environment steps per second with learning, without compiling and warm-up: the median of the rounds.
A limit is the speed of a program that only steps the environment and computes the products of the
networks, 1 / (1 / environment alone + 1 / products alone), and the share is how much of it etude
reaches. The README of the folder above describes the method; speed.json has every figure.
"""


def speed_page(sections: dict[str, Any]) -> str:
    """The content of speed.md."""
    return NOTES + "".join(
        speed_section(name, sections[name]) for name in [*WORKLOADS, "start-up"] if name in sections
    )


def speed_section(name: str, section: dict[str, Any]) -> str:
    """The section of a workload in speed.md."""
    lines = []
    if "settings" in section:
        hyperparameters = section["settings"]["hyperparameters"]
        lines = [
            *alone_lines(section["sides"]),
            "* settings: " + ", ".join(f"{key} {value}" for key, value in hyperparameters.items()),
        ]
    return markdown_section(*table(name, section), section, "steps", lines)


def markdown_section(
    title: str,
    headings: list[str],
    rows: list[list[str]],
    section: dict[str, Any],
    unit: str,
    extra_lines: list[str],
) -> str:
    """A section of a page: title, table, machine, sides, extra lines and errors."""
    machine = section["machine"]
    lines = [
        f"Measured {section['measured']} on {machine['processor']}, {machine['cores']} cores, "
        f"load beforehand {section['load_before']}; rounds: {section['rounds']}.",
        "",
        *side_lines(section.get("sides", {}), unit),
        *extra_lines,
    ]
    lines += [f"* {label} failed: {error}" for label, error in error_messages(section).items()]
    return f"\n## {title}\n\n{report.markdown(headings, rows)}\n" + "".join(
        f"{line}\n" for line in lines
    )


def side_lines(sides: dict[str, Any], unit: str) -> list[str]:
    """Describe the sides: variant, compile time and versions, one line for equal descriptions."""
    lines = {}
    for label, result in sides.items():
        seconds = column(result["measurements"], "compile_seconds")
        trials = ", ".join(
            f"{variant}: {rate:,.0f} {unit}/s" for variant, rate in result["tried"].items()
        )
        variant = f", {result['variant']} (tried {trials})" if trials else ""
        compile_time = f", compiled in {format_median(seconds)} s" if trials and seconds else ""
        if "versions" in result:
            lines.setdefault(
                f"{variant}{compile_time}: {report.format_versions(result['versions'])}", []
            ).append(label)
    return [f"* {', '.join(labels)}{text}" for text, labels in lines.items()]


def alone_lines(sides: dict[str, Any]) -> list[str]:
    """Tell the speeds that the limits are computed from, if they have been measured."""
    rates = [
        f"{label} {format_range(column(sides[label]['measurements'], 'rate'), ',.0f')}"
        for label in (PRODUCTS_ALONE, *map(environment_alone, sides))
        if label in sides
    ]
    return [f"* steps/s: {'; '.join(rates)}"] if rates else []


def table(name: str, section: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """Return (title, headings, rows) of a section."""
    has_verdict = not section["quick"]
    if name == "start-up":
        return (
            "Start-up",
            START_UP_HEADINGS,
            [start_row(label, start, has_verdict) for label, start in section["starts"].items()],
        )
    return comparison_table(
        WORKLOADS[name].title,
        WORKLOADS[name].targets,
        section["sides"],
        has_verdict,
        "etude on",
        "steps",
        with_limits=True,
    )


def comparison_table(
    title: str,
    targets: list[Target],
    sides: dict[str, Any],
    has_verdict: bool,
    etude_heading: str,
    unit: str,
    with_limits: bool = False,
) -> tuple[str, list[str], list[list[str]]]:
    """Return (title, headings, rows) of a comparison of sides."""
    rate = f"{unit}/s (min–max)"
    limit = ["limit", "share"] if with_limits else []
    headings = [etude_heading, rate, "compile s", *limit, "beside", rate, "ratio", "bar", "met"]
    return (
        title,
        headings,
        [speed_row(target, sides, has_verdict, with_limits) for target in targets],
    )


def speed_row(
    target: Target, sides: dict[str, Any], has_verdict: bool, with_limits: bool
) -> list[str]:
    etude, peer = (
        sides.get(label, {}).get("measurements", []) for label in (target.etude, target.peer)
    )
    target_text = "–" if target.min_ratio is None else f"≥ {target.min_ratio:g}"
    cells = [
        target.etude,
        format_range(column(etude, "rate"), ",.0f"),
        format_median(column(etude, "compile_seconds")),
        *(limit_cells(target.etude, sides) if with_limits else []),
        target.peer,
        format_range(column(peer, "rate"), ",.0f"),
    ]
    if not (etude and peer):
        return [
            *cells,
            "–",
            target_text,
            "not installed" if "absent" in sides.get(target.peer, {}) else "not measured",
        ]
    ratio = statistics.median(column(etude, "rate")) / statistics.median(column(peer, "rate"))
    return [
        *cells,
        f"{ratio:.2f}",
        target_text,
        MET[None if target.min_ratio is None or not has_verdict else ratio >= target.min_ratio],
    ]


def limit_cells(label: str, sides: dict[str, Any]) -> list[str]:
    """The limit of a side of etude, and the share of it that etude reaches."""
    parts = [PRODUCTS_ALONE] if label == DATASET else [environment_alone(label), PRODUCTS_ALONE]
    etude, *alone = (
        column(sides.get(name, {}).get("measurements", []), "rate") for name in (label, *parts)
    )
    if not (etude and all(alone)):
        return ["–", "–"]
    limit = 1 / sum(1 / statistics.median(rates) for rates in alone)
    return [f"{limit:,.0f}", f"{statistics.median(etude) / limit:.2f}"]


def start_row(label: str, start: dict[str, Any], has_verdict: bool) -> list[str]:
    seconds = [float(value) for value in start["seconds"]]
    met = statistics.median(seconds) <= start["bar"] if has_verdict else None
    return [label, format_range(seconds, ".1f"), f"≤ {start['bar']}", MET[met]]


def error_messages(section: dict[str, Any]) -> dict[str, str]:
    """Return the error messages of a section by label."""
    start_errors = {
        label: "it ended before its first line of progress"
        for label, start in section.get("starts", {}).items()
        if "nan" in map(str, start["seconds"])
    }
    return start_errors | {
        label: result["error"]
        for label, result in section.get("sides", {}).items()
        if "error" in result
    }


def column(measurements: list[dict[str, Any]], name: str) -> list[float]:
    """Return the values of one name from the measurements that have it."""
    return [measurement[name] for measurement in measurements if name in measurement]


def format_range(values: list[float], form: str) -> str:
    """Format the median with the least and the greatest value."""
    return (
        f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"
        if values
        else "–"
    )


def format_median(values: list[float]) -> str:
    """Format the median, or a dash without values."""
    return f"{statistics.median(values):.1f}" if values else "–"
