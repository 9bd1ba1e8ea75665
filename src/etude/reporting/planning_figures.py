"""Figures of the studies of planning on models: curves over seeds, states, and paths."""

from pathlib import Path
from typing import Any

import numpy as np

from etude.reporting import figures
from etude.reporting.figures import BLUE, DPI, EMBER, FAINT, GRID, INK

COLORS = (EMBER, BLUE, INK, FAINT)
DASHED = (0, (4, 2))


def draw_summaries(
    file: Path,
    curves: dict[str, dict[str, Any]],
    label: str,
    xlabel: str,
    title: str,
    subtitle: str,
    *,
    logarithmic: str = "",
) -> None:
    """Draw a curve for each name, as a PNG of 1440 x 840 pixels.

    Args:
        curves: at each number on the x-axis, as text, the result of `statistics.summarize_returns`.
        logarithmic: the axes that are so, of "xy".

    A line is the interquartile mean over seeds, the band its 95 % interval.
    """
    ends = np.array([float(x) for curve in curves.values() for x in curve])
    figure, axes = figures.new_figure(ends, label)
    draw_curves(axes, curves)
    axes.set_xlabel(xlabel)
    numbered = "".join(axis for axis in "xy" if axis not in logarithmic)
    if "y" in logarithmic:
        axes.set_yscale("log")
    if "x" in logarithmic:
        axes.set_xscale("log", base=2)
        axes.set_xlim(ends.min() / 1.06, ends.max() * 1.06)
        ticks = np.unique(ends)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    figures.finish_figure(figure, axes, file, title, subtitle, numbered=numbered)


def draw_curves(axes: Any, curves: dict[str, dict[str, Any]]) -> None:
    """Draw the interquartile mean of each curve with its interval; as of `draw_summaries`."""
    for (name, curve), color in zip(curves.items(), COLORS, strict=False):
        xs = sorted(curve, key=float)
        numbers = [float(x) for x in xs]
        low, high = np.array([curve[x]["ci95"] for x in xs]).T
        center = [curve[x]["iqm"] for x in xs]
        axes.plot(numbers, center, color=color, marker="o", markersize=4, label=name, zorder=3)
        axes.fill_between(numbers, low, high, color=color, alpha=0.16, linewidth=0)


def draw_distribution_shift(
    file: Path, measured: dict[str, Any], title: str, subtitle: str
) -> None:
    """Draw the states of a first plan beside the errors of its promises, as a PNG.

    `measured` is what `measure_distribution_shift` returns. On the left are the random data, the
    plan as the first model predicts it, and what happened; on the right is the predicted minus the
    achieved return by fit of the model. The image has 1440 x 840 pixels.
    """
    states, shift = two_panels()
    pictures = measured["states"]
    data = np.array(pictures["data"])
    states.plot(*data.T, color=FAINT, linestyle="none", marker=".", markersize=2, label="data")
    for name, color in (("predicted", BLUE), ("achieved", EMBER)):
        path = np.array(pictures[name])
        states.plot(*path.T, color=color, marker=".", markersize=4, linewidth=1.2, label=name)
    states.set_xlabel("height of the tip (m)")
    states.set_ylabel("rate (rad/s)")
    states.set_xlim(-1.05, 1.05)
    draw_curves(shift, measured["versions"])
    shift.axhline(0, color=GRID, linewidth=1)
    shift.set_xlabel("fits of the model before it")
    shift.set_ylabel("predicted minus achieved return")
    figures.add_legend(shift)
    figures.finish_figure(states.figure, states, file, title, subtitle, numbered="")


def draw_risk(file: Path, measured: dict[str, Any], title: str, subtitle: str) -> None:
    """Draw paths past a field, and their returns by how much a plan minds risk, as a PNG.

    `measured` is what `measure_risk` returns. The image has 1440 x 840 pixels.
    """
    paths, returns = two_panels()
    (left, right), (bottom, top) = measured["field"]
    paths.fill_between([left, right], bottom, top, color=GRID, zorder=1)
    found = measured["risk_aversion"]
    ends = sorted(found, key=float)
    for name, color in ((ends[0], EMBER), (ends[-1], BLUE)):
        for i, path in enumerate(found[name]["paths"]):
            label = "" if i else f"risk aversion {name}"
            x, y = np.array(path).T
            paths.plot(x, y, color=color, linewidth=0.7, alpha=0.6, label=label, zorder=2)
    paths.set(xlim=(-0.1, 1.1), ylim=(-0.35, 0.65), xlabel="x", ylabel="y")
    draw_curves(returns, {"return": found})
    for name in ends:
        seeds = found[name]["per_seed"]
        returns.plot([float(name)] * len(seeds), seeds, color=EMBER, linestyle="none", marker="_")
    returns.set_xlabel("risk aversion")
    returns.set_ylabel("return per episode")
    figures.add_legend(returns)
    figures.finish_figure(paths.figure, paths, file, title, subtitle, numbered="")


def two_panels() -> tuple[Any, Any]:
    """Two axes side by side, under room for a caption."""
    left, right = panels(2)
    return left, right


def panels(count: int, share_y: bool = False) -> list[Any]:
    """Axes side by side, under room for a caption."""
    from matplotlib.figure import Figure  # half a second to import, so only where it is needed

    figure = Figure(figsize=(7.2, 4.2), dpi=DPI, facecolor="white")
    row = list(figure.subplots(1, count, sharey=share_y))
    spacing = 0.12 if share_y else 0.3
    figure.subplots_adjust(left=0.1, right=0.97, bottom=0.13, top=0.78, wspace=spacing)
    for axes in row:
        figures.style_axes(axes, "")
    return row


def draw_model_error(
    file: Path, measured: dict[str, Any], steps_ahead: tuple[int, ...], title: str, subtitle: str
) -> None:
    """Draw the error of models by steps ahead on logarithmic axes, as a PNG.

    `measured` is what `measure_model_error` returns. On the left are linear systems, points as
    simulated and lines as exact; on the right networks on a pendulum, and dashed k times the error
    of one step. The image has 1440 x 840 pixels.
    """
    linear, pendulum = two_panels()
    for (name, exact), color in zip(measured["linear"]["exact"].items(), COLORS, strict=False):
        linear.plot(steps_ahead, exact, color=color, linewidth=1.4)
        simulated = measured["linear"]["simulated"][name]
        linear.plot(
            steps_ahead,
            simulated,
            color=color,
            linestyle="none",
            marker="o",
            markersize=4,
            label=f"L = {name}",
        )
    curves = measured["pendulum"]
    counts = sorted(curves, key=int)
    draw_curves(pendulum, {f"{int(count):,}": curves[count] for count in counts})
    first = curves[counts[-1]]["1"]["iqm"]
    of_line = [first * k for k in steps_ahead]
    pendulum.plot(steps_ahead, of_line, color=FAINT, linewidth=1.2, linestyle=DASHED)
    for axes, label in ((linear, "error"), (pendulum, "error, in units of the spread")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(steps_ahead, [str(k) for k in steps_ahead])
        axes.minorticks_off()
        axes.set_xlabel("steps ahead")
        axes.set_ylabel(label)
    figures.add_legend(pendulum)
    figures.finish_figure(linear.figure, linear, file, title, subtitle, numbered="")


def draw_system_identification(
    file: Path, measured: dict[str, Any], steps_ahead: tuple[int, ...], title: str, subtitle: str
) -> None:
    """Draw the errors of constants by steps fitted, and those of models by steps ahead, as a PNG.

    `measured` is what `measure_system_identification` returns. Dots are of the pendulum, squares of
    the cart-pole. The image has 1440 x 840 pixels.
    """
    constants, models = two_panels()
    counts = set()
    for products, marker in zip(measured["constants"].values(), "os", strict=True):
        for (product, curve), color in zip(products.items(), COLORS, strict=False):
            counts |= {int(count) for count in curve}
            numbers = sorted(int(count) for count in curve)
            errors = [curve[str(count)]["iqm"] for count in numbers]
            constants.plot(numbers, errors, color=color, marker=marker, markersize=5, label=product)
    constants.set_xscale("log")
    constants.set_xticks(sorted(counts), [f"{count:,}" for count in sorted(counts)])
    constants.set_xlabel("environment steps")
    constants.set_ylabel("relative error of a constant")
    draw_curves(models, measured["errors"])
    models.set_xscale("log", base=2)
    models.set_xticks(steps_ahead, [str(k) for k in steps_ahead])
    models.set_xlabel("steps ahead")
    models.set_ylabel("error, in units of the spread")
    for axes in (constants, models):
        axes.set_yscale("log")
        axes.minorticks_off()
    low, high = models.get_ylim()
    models.set_ylim(low, 20 * high)  # room for the legend
    models.legend(loc="upper left", frameon=False, fontsize="small")
    figures.finish_figure(constants.figure, constants, file, title, subtitle, numbered="")


def draw_model_uncertainty(
    file: Path,
    curves: dict[str, dict[str, Any]],
    grid: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    title: str,
    subtitle: str,
) -> None:
    """Draw what each kind of model predicts of y on a grid of x, among data, as a PNG.

    The inner band is the noise that the model expects, the outer one its doubt besides: each two
    standard deviations. The image has 1440 x 840 pixels.
    """
    row = panels(len(curves), share_y=True)
    for axes, (name, curve) in zip(row, curves.items(), strict=True):
        mean, noise, doubt = (np.array(curve[k]) for k in ("mean", "aleatoric", "epistemic"))
        total = np.hypot(noise, doubt)
        axes.fill_between(
            grid, mean - 2 * total, mean + 2 * total, color=EMBER, alpha=0.25, lw=0, label="doubt"
        )
        axes.fill_between(
            grid, mean - 2 * noise, mean + 2 * noise, color=BLUE, alpha=0.3, lw=0, label="noise"
        )
        axes.plot(grid, mean, color=INK, linewidth=1.2, label="mean")
        axes.plot(x, y, color=FAINT, linestyle="none", marker=".", markersize=2, label="data")
        axes.set_xlabel(name)
        axes.set(xlim=(-3, 3), ylim=(-2, 2))
    row[0].set_ylabel("y")
    figures.finish_figure(row[0].figure, row[0], file, title, subtitle, numbered="")
