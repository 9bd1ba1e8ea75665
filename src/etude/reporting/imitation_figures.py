"""Figures of the studies of imitation: errors by horizon, returns by labels, modes by head."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from etude.reporting import figures, statistics
from etude.reporting.figures import BLUE, DPI, EMBER, FAINT, GRID, INK, format_thousands

COLORS = {"cloning": EMBER, "dagger": BLUE}
NAMES = {"cloning": "cloning", "dagger": "DAgger"}


def draw_error_growth(file: Path, growth: dict[str, Any], title: str, subtitle: str) -> None:
    """Draw the costs of cloning and of DAgger by horizon on logarithmic axes, as a PNG.

    `growth` is what `etude.studies.error_growth.measure_error_growth` returns. Points are simulated
    costs with their 95 % intervals, lines the exact ones, and the dashed line is the bound. The
    image has 1440 x 840 pixels.
    """
    horizons = np.array(growth["horizons"], float)
    figure, axes = figures.new_figure(horizons, "expected cost of T steps")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("T, the horizon in steps")
    axes.plot(horizons, growth["bound"], color=FAINT, linestyle=(0, (4, 2)), label="bound ε T²")
    for name, color in COLORS.items():
        curve = growth[name]
        axes.plot(
            horizons,
            curve["cost"],
            color=color,
            linestyle="none",
            marker="o",
            markersize=4.5,
            label=f"{NAMES[name]}: slope {curve['slope']:.2f}",
            zorder=3,
        )
        axes.errorbar(
            horizons,
            curve["cost"],
            yerr=1.96 * np.array(curve["standard_error"]),
            color=color,
            linestyle="none",
            elinewidth=1.2,
        )
        exact_label = f"exact: {curve['exact_slope']:.2f}"
        axes.plot(horizons, curve["exact"], color=color, linewidth=1.4, label=exact_label)
    axes.set_xlim(horizons[0] / 1.06, horizons[-1] * 1.06)
    axes.set_xticks([10, 20, 50, 100], ["10", "20", "50", "100"])
    axes.minorticks_off()
    figures.finish_figure(figure, axes, file, title, subtitle, numbered="")


def draw_returns_by_labels(file: Path, measured: dict[str, Any], title: str, subtitle: str) -> None:
    """Draw the return of cloning and of DAgger by the number of the expert's labels, as a PNG.

    `measured` is what `measure_demonstrations_needed` returns. The line is the interquartile
    mean over seeds, the band its 95 % bootstrap interval, a thin mark a seed; the dashed line is
    the expert. The axis of labels is logarithmic. The image has 1440 x 840 pixels.
    """
    labels = np.array(measured["labels"], float)
    figure, axes = figures.new_figure(labels, "return per episode")
    axes.set_xscale("log")
    axes.set_xlabel("labels: states in which the expert said what to do")
    axes.axhline(
        measured["expert_mean"], color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label="the expert"
    )
    for name, color in COLORS.items():
        returns = np.array([measured[name][str(count)]["per_seed"] for count in measured["labels"]])
        center, low, high = statistics.bootstrap_band(returns.T)
        axes.plot(
            labels, center, color=color, marker="o", markersize=4.5, label=NAMES[name], zorder=3
        )
        axes.fill_between(labels, low, high, color=color, alpha=0.16, linewidth=0)
        for of_seed in returns.T:
            axes.plot(labels, of_seed, color=color, linestyle="none", marker="_", alpha=0.5)
    axes.set_xlim(labels[0] / 1.06, labels[-1] * 1.06)
    axes.set_xticks(labels, [format_thousands(count) for count in labels])
    axes.minorticks_off()
    figures.finish_figure(figure, axes, file, title, subtitle, numbered="y")


def draw_modes_by_head(file: Path, measured: dict[str, Any], title: str, subtitle: str) -> None:
    """Draw success and modes of each head as a table of dots, a PNG of 1440 x 840 pixels.

    `measured` is what `measure_modes_by_head` returns. A dot is the interquartile mean over seeds,
    a bar its 95 % bootstrap interval, a thin mark a seed. The second column is the share of the
    successes on the left, where there are two modes, else the entropy of the modes.
    """
    from matplotlib.figure import Figure  # half a second to import, so only where it is needed

    found = measured["heads"]
    second = "left" if "left" in found["expert"] else "entropy"
    columns = {
        "success": "share of episodes that succeed",
        second: "share of these on the left" if second == "left" else "entropy of their ways",
    }
    figure = Figure(figsize=(7.2, 4.2), dpi=DPI, facecolor="white")
    all_axes = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.16, right=0.97, bottom=0.13, top=0.80, wspace=0.16)
    for axes, (column, label) in zip(all_axes, columns.items(), strict=True):
        style_rows(axes, list(found), label)
        for row, (name, of_head) in enumerate(found.items()):
            draw_row(axes, row, of_head[column], INK if name == "expert" else BLUE)
    figures.draw_caption(all_axes[0], title, subtitle)
    figures.save_figure(figure, file)


def style_rows(axes: Any, names: list[str], label: str) -> None:
    """Set up axes from 0 to 1 with a row for each name, from the top down."""
    figures.style_axes(axes, "")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_xlabel(label)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def draw_row(axes: Any, row: int, of_head: dict[str, Any], color: str) -> None:
    """Draw the summary of a number over seeds in a row, or that no seed has one."""
    if of_head["iqm"] is None:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        axes.text(
            0.5, row, "no success", color=FAINT, fontsize=8, ha="center", va="center", bbox=box
        )
        return
    axes.plot(of_head["ci95"], [row, row], color=color, linewidth=2.4, alpha=0.35, zorder=2)
    seeds = [value for value in of_head["per_seed"] if value is not None]
    axes.plot(seeds, [row] * len(seeds), color=color, linestyle="none", marker="|", alpha=0.6)
    axes.plot(of_head["iqm"], row, color=color, marker="o", markersize=5.5, zorder=3)


def draw_ways_by_head(
    file: Path, measured: dict[str, Any], task: Any, title: str, subtitle: str
) -> None:
    """Draw the ways of episodes from above, a panel for each head, as a PNG.

    `measured` is what `measure_modes_by_head` returns; of the `task`, a `TaskWithModes`, the discs
    in the way and the limits of x and y are drawn. Forward is to the right, and left is up. The
    image is 1440 pixels wide.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    columns = 4
    found = measured["heads"]
    rows = math.ceil(len(found) / columns)
    (left, right), (bottom, top) = task.limits
    width = 7.2
    panel = 0.94 * width / columns * (top - bottom) / (right - left)
    height = 0.8 + rows * (panel + 0.28)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    all_axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.02, right=0.98, bottom=0.1 / height, top=1 - 0.8 / height, wspace=0.05, hspace=0.2
    )
    for axes, (name, of_head) in zip(all_axes.flat, found.items(), strict=False):
        for center, radius in task.discs:
            axes.add_patch(Circle(center, radius, color=GRID, zorder=1))
        for way in of_head["ways"]:
            x, y = np.array(way["positions"]).T
            color = BLUE if way["is_success"] else EMBER
            axes.plot(x, y, color=color, linewidth=0.7, alpha=0.5, zorder=2)
        axes.set_title(name, loc="left", fontsize=9, color=INK, pad=4)
    for axes in all_axes.flat:
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_color(GRID)
    for axes in all_axes.flat[len(found) :]:
        axes.axis("off")
    figures.draw_caption(all_axes[0, 0], title, subtitle)
    figures.save_figure(figure, file)


def draw_success_by_chunk(file: Path, measured: dict[str, Any], title: str, subtitle: str) -> None:
    """Draw the share of successes of each head by the length of its chunks, as a PNG.

    `measured` is what `measure_chunk_lengths` returns. The line is the interquartile mean over
    seeds, the band its 95 % bootstrap interval, a thin mark a seed; the dashed line is the expert.
    The axis of lengths is logarithmic. The image has 1440 x 840 pixels.
    """
    lengths = np.array(measured["chunks"], float)
    figure, axes = figures.new_figure(lengths, "share of episodes that succeed")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("actions of a chunk, half of which are executed")
    axes.axhline(
        measured["expert"]["success"]["iqm"],
        color=INK,
        linewidth=1.2,
        linestyle=(0, (4, 2)),
        label="the expert",
    )
    for (name, by_length), color in zip(measured["heads"].items(), (EMBER, BLUE), strict=False):
        success = np.array(
            [by_length[str(chunk)]["success"]["per_seed"] for chunk in measured["chunks"]]
        )
        center, low, high = statistics.bootstrap_band(success.T)
        axes.plot(lengths, center, color=color, marker="o", markersize=4.5, label=name, zorder=3)
        axes.fill_between(lengths, low, high, color=color, alpha=0.16, linewidth=0)
        for of_seed in success.T:
            axes.plot(lengths, of_seed, color=color, linestyle="none", marker="_", alpha=0.5)
    axes.set_xlim(lengths[0] / 1.06, lengths[-1] * 1.06)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xticks(lengths, [f"{chunk:.0f}" for chunk in lengths])
    axes.minorticks_off()
    figures.finish_figure(figure, axes, file, title, subtitle, numbered="y")
