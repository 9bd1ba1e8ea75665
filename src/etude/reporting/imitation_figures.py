"""Figures of the studies of imitation: errors by horizon, returns by the labels of an expert."""

from pathlib import Path
from typing import Any

import numpy as np

from etude.reporting import figures, statistics
from etude.reporting.figures import BLUE, EMBER, FAINT, INK, format_thousands

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
