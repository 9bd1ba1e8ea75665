"""Figures of runs and studies as PNG files, drawn without matplotlib's global state."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from etude.reporting import statistics
from etude.storage import files

INK, FAINT, GRID = "#1f2933", "#6b7785", "#e6e9ed"
BLUE, EMBER = "#2563a8", "#c8553d"
_INCHES, DPI = (7.2, 4.2), 200
_MAX_POINTS = 200  # points of a curve
_EVALUATION_X = 1.03  # position of the evaluation, in widths of the axes


def draw_learning_curve(
    path: Path,
    steps,
    curves,
    evaluation: dict | None = None,
    title: str = "",
    subtitle: str = "",
    loss: str = "",
    evaluations: tuple | None = None,
) -> None:
    """Draw the training return by environment step and the evaluations, as a PNG.

    Of an algorithm that does not play it is the loss called `loss` by gradient step, beside which
    the evaluation stands in words.

    steps       [row], environment steps, or gradient steps with `loss`
    curves      [seed, row], mean return of the training episodes that ended since the previous row,
                NaN where none ended; or the loss
    evaluation  the result of `statistics.summarize_returns`, or None; with "deterministic", whether
                the policy was, the figure says so
    evaluations of those during training, steps [row] and mean returns [seed, row], NaN where there
                was none; or None. With `loss` they have an axis of their own, on the right

    Thin lines are seeds, the thick line is their interquartile mean, the band its 95 % bootstrap
    interval. Above 200 rows, neighbors are averaged. The curve of a seed is linear between its
    values and constant after the last one. The image has 1440 x 840 pixels.
    """
    steps, curves = _downsample(
        np.asarray(steps, float).reshape(-1), np.atleast_2d(np.asarray(curves, float))
    )
    figure, axes = new_figure(steps, loss or "return per episode (sum of rewards)")
    _draw_seeds(axes, steps, curves)
    if evaluations is not None:
        _draw_evaluations(axes, bool(loss), *evaluations)
    policy = "" if evaluation is None else _policy_word(evaluation)
    if loss:
        axes.set_xlabel("gradient steps")
        if evaluation is not None:
            low, high = evaluation["ci95"]
            iqm, low, high = map(statistics.three_digits, (evaluation["iqm"], low, high))
            subtitle += f"; {policy}return {iqm} (95 % {low} to {high})"
    elif evaluation is not None:
        # a short name beside the others of the legend
        subtitle += f"; {policy}evaluation" if policy else ""
        _draw_evaluation(axes, evaluation, "final evaluation" if evaluations is None else "final")
    finish_figure(figure, axes, path, title, subtitle)


def draw_overestimation(
    path: Path, steps, curves: dict[str, tuple], title: str = "", subtitle: str = ""
) -> None:
    """Draw value estimates and true discounted returns by environment step, as a PNG.

    steps    [point], environment steps
    curves   name: (estimates [seed, point], discounted returns [seed, point])

    A thick line is the mean estimate over seeds, the dashed line of the same color the mean return;
    thin lines are seeds. The image has 1440 x 840 pixels.
    """
    steps = np.asarray(steps, float)
    figure, axes = new_figure(steps, "value and discounted return of the greedy policy")
    for (name, (estimates, returns)), color in zip(curves.items(), (EMBER, BLUE), strict=False):
        for curve in estimates if len(estimates) > 1 else ():
            axes.plot(steps, curve, color=color, alpha=0.32, linewidth=0.7)
        axes.plot(
            steps,
            np.mean(estimates, 0),
            color=color,
            linewidth=2.0,
            label=f"{name}: estimate",
            zorder=3,
        )
        axes.plot(
            steps,
            np.mean(returns, 0),
            color=color,
            linewidth=1.6,
            linestyle=(0, (4, 2)),
            label="true return",
            zorder=3,
        )
    finish_figure(figure, axes, path, title, subtitle)


def draw_bars(
    path: Path, values: dict[str, float], label: str, title: str = "", subtitle: str = ""
) -> None:
    """Draw a labeled bar for each named value, as a PNG of 1440 x 840 pixels."""
    figure, axes = new_figure(np.zeros(1), label)
    axes.set_xlim(-0.6, len(values) - 0.4)
    bars = axes.bar(range(len(values)), list(values.values()), width=0.6, color=BLUE, zorder=2)
    labels = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values.values()]
    axes.bar_label(bars, labels=labels, padding=3, color=INK, fontsize=9)
    axes.set_xticks(range(len(values)), list(values), color=INK)
    axes.set_xlabel("")
    finish_figure(figure, axes, path, title, subtitle, numbered="y")


def draw_lines(
    path: Path,
    xs,
    curves: dict[str, Any],
    label: str,
    xlabel: str,
    title: str = "",
    subtitle: str = "",
) -> None:
    """Draw the mean of each curve [x, run] with its normal 95 % interval, as a PNG.

    The image has 1440 x 840 pixels.
    """
    xs = np.asarray(xs, float)
    figure, axes = new_figure(xs, label)
    axes.set_xlabel(xlabel)
    for (name, values), color in zip(curves.items(), (EMBER, BLUE, INK), strict=False):
        values = np.asarray(values, float)
        mean, half_width = values.mean(1), 1.96 * values.std(1, ddof=1) / math.sqrt(values.shape[1])
        axes.plot(
            xs,
            mean,
            color=color,
            linewidth=2,
            marker="o",
            markersize=4,
            label=name,
            zorder=3,
            clip_on=False,
        )
        axes.fill_between(
            xs, mean - half_width, mean + half_width, color=color, alpha=0.16, linewidth=0
        )
    axes.set_ylim(bottom=0)
    finish_figure(figure, axes, path, title, subtitle)


def new_figure(steps, label):
    """Return a figure and its axes, which span zero to the last step."""
    from matplotlib.figure import Figure  # half a second to import, so only where it is needed
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # title and legend on top
    layout = ConstrainedLayoutEngine(rect=(0.02, 0.02, 0.96, 0.80), w_pad=0, h_pad=0)
    figure = Figure(figsize=_INCHES, dpi=DPI, facecolor="white", layout=layout)
    axes = figure.add_subplot()
    style_axes(axes, label)
    axes.set_xlim(0, steps.max(initial=0.0) or 1.0)
    return figure, axes


def finish_figure(figure, axes, path, title, subtitle, numbered="xy"):
    """Caption and save the figure, with round ticks on the axes in `numbered`."""
    draw_caption(axes, title, subtitle)
    for name in numbered:
        _number(getattr(axes, f"{name}axis"))
    save_figure(figure, path)


def save_figure(figure: Any, file: Path | str) -> None:
    """Write the figure as a PNG, atomically."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI, metadata={"Software": None})
    files.write_bytes(Path(file), image.getvalue())


def style_axes(axes, label):
    """Set the spines, grid, ticks and labels of a figure's axes."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=8.5, length=0, pad=6)
    axes.tick_params(axis="x", length=3, pad=4)
    axes.set_xlabel("environment steps", fontsize=9, color=INK, labelpad=7)
    axes.set_ylabel(label, fontsize=9, color=INK, labelpad=8)


def _downsample(steps, returns):
    """Average groups of neighboring rows so that at most `_MAX_POINTS` are left.

    A group is drawn at its last step.
    """
    group_size = math.ceil(steps.size / _MAX_POINTS)
    if group_size <= 1:
        return steps, returns
    starts = np.arange(0, steps.size, group_size)
    is_known = np.isfinite(returns)
    counts = np.add.reduceat(is_known, starts, axis=1, dtype=int)
    totals = np.add.reduceat(np.where(is_known, returns, 0.0), starts, axis=1)
    means = np.divide(totals, counts, out=np.full(totals.shape, math.nan), where=counts > 0)
    return steps[np.minimum(starts + group_size, steps.size) - 1], means


def _draw_seeds(axes, steps, returns):
    curves = np.array([_interpolate(steps, curve) for curve in returns]).reshape(
        len(returns), steps.size
    )
    points = np.isfinite(curves).any(0).sum()
    if not points:
        axes.text(
            0.5,
            0.5,
            "no episode ended in training",
            transform=axes.transAxes,
            ha="center",
            va="center",
            fontsize=9,
            color=FAINT,
        )
        return
    marker = {"marker": "o", "clip_on": False} if points == 1 else {}  # a single point has no line
    center, low, high = statistics.bootstrap_band(curves)
    has_several = len(curves) > 1
    axes.plot(
        steps,
        center,
        color=BLUE,
        linewidth=2.0,
        solid_capstyle="round",
        solid_joinstyle="round",
        zorder=3,
        markersize=5.5,
        label=f"IQM of {len(curves)} seeds" if has_several else "training",
        **marker,
    )
    if has_several:
        axes.fill_between(
            steps, low, high, color=BLUE, alpha=0.18, linewidth=0, label="its 95 % interval"
        )
        for i, curve in enumerate(curves):
            axes.plot(
                steps,
                curve,
                color=BLUE,
                alpha=0.32,
                linewidth=0.7,
                markersize=3,
                label="" if i else "one seed",
                **marker,
            )


def _interpolate(steps, curve):
    """Interpolate linearly between known values; constant after the last, NaN before the first."""
    is_known = np.isfinite(curve)
    if not is_known.any():
        return np.full(steps.shape, math.nan)
    return np.interp(steps, steps[is_known], curve[is_known], left=math.nan)


def on_common_steps(curves: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """Bring the curves of seeds, (steps [row], values [row]) each, to the steps of all of them.

    Returns the steps [row] and the values [seed, row], NaN at a step that a seed does not have.
    """
    steps = np.unique(np.concatenate([of_seed for of_seed, _ in curves]))
    common = np.full((len(curves), steps.size), math.nan)
    for row, (of_seed, values) in zip(common, curves, strict=True):
        row[np.searchsorted(steps, of_seed)] = values
    return steps, common


def _policy_word(evaluation):
    """The word for the policy that was evaluated, and a space; "" where it is not known."""
    words = {True: "deterministic ", False: "stochastic "}
    return words.get(evaluation.get("deterministic"), "")


def _draw_evaluations(axes, own_axis, steps, returns):
    """Draw the interquartile mean over the seeds of the evaluations at each step that has some.

    A seed that has ended keeps its last value.
    """
    is_known = np.isfinite(returns).any(0)
    held = np.array([_interpolate(steps, curve) for curve in returns])
    center, _, _ = statistics.bootstrap_band(held)
    style = {"color": EMBER, "linewidth": 0.9, "marker": "o", "markersize": 3.5, "zorder": 4}
    label = "evaluations"
    if own_axis:
        axes.plot([], [], label=label, **style)  # the legend is that of the left axis
        axes = axes.twinx()
        style_axes(axes, "return per episode of the evaluations")
        axes.grid(visible=False)
        _number(axes.yaxis)
    axes.plot(steps[is_known], center[is_known], label=label, clip_on=False, **style)


def _draw_evaluation(axes, evaluation, name):
    """Draw a point with its interval and its numbers to the right of the axes."""
    center, (low, high) = float(evaluation["iqm"]), map(float, evaluation["ci95"])
    if not math.isfinite(center):
        return
    has_interval = math.isfinite(low) and math.isfinite(high)
    if not has_interval:
        low = high = center
    style = {"transform": axes.get_yaxis_transform(), "clip_on": False, "color": EMBER}
    if high > low:
        axes.plot(
            [_EVALUATION_X, _EVALUATION_X],
            [low, high],
            linewidth=1.4,
            marker="_",
            markersize=9,
            markeredgewidth=1.4,
            **style,
        )
    axes.plot(
        [_EVALUATION_X],
        [center],
        linestyle="none",
        marker="o",
        markersize=5,
        label=name + (", 95 % interval" if has_interval else ""),
        **style,
    )
    rounding = 10 ** (math.floor(math.log10(max(abs(low), abs(high), 1e-9))) - 3)  # four digits
    numbers = [
        format_thousands(round(value / rounding) * rounding) for value in (center, low, high)
    ]
    placement = {
        "xycoords": style["transform"],
        "textcoords": "offset points",
        "va": "center",
        "annotation_clip": False,
    }
    axes.annotate(
        numbers[0],
        (_EVALUATION_X, center),
        xytext=(9, 0),
        fontsize=10,
        fontweight="bold",
        color=EMBER,
        **placement,
    )
    if has_interval:
        axes.annotate(
            f"{numbers[1]} to\n{numbers[2]}",
            (_EVALUATION_X, center),
            xytext=(9, -19),
            fontsize=7.5,
            color=FAINT,
            **placement,
        )


def draw_caption(axes, title, subtitle):
    """Draw title, subtitle and legend above the axes, aligned with their left edge."""
    placement = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "va": "baseline",
        "annotation_clip": False,
        "parse_math": False,
    }
    texts = [
        axes.annotate(
            title, (0, 1), xytext=(0, 38), fontsize=12.5, fontweight="bold", color=INK, **placement
        ),
        axes.annotate(subtitle, (0, 1), xytext=(0, 24), fontsize=9, color=FAINT, **placement),
    ]
    for text in texts:
        text.set_in_layout(False)
    add_legend(axes)


def add_legend(axes: Any) -> None:
    """Name what is labelled in a row above the axes, if anything is."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        legend = axes.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0, 1.025),
            ncols=len(handles),
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
            handlelength=1.5,
            columnspacing=1.8 if len(handles) < 5 else 1.2,
            borderpad=0,
            borderaxespad=0,
            handletextpad=0.6,
        )
        legend.set_in_layout(False)


def _number(axis):
    """Set a few round ticks, with the decimals they need and separators of thousands."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    decimals = max(
        (len(f"{tick:.9f}".rstrip("0").partition(".")[2]) for tick in axis.get_majorticklocs()),
        default=0,
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_thousands(value, decimals)))


def format_thousands(value: float, decimals: int | None = None) -> str:
    """Format 1234567.0 as 1,234,567, with fixed or minimal decimals and a true minus sign."""
    if abs(value) >= 1e12:
        text = f"{value:.4g}"
    elif decimals is not None:
        text = f"{value:,.{decimals}f}"
    else:
        text = f"{value:,.9f}".rstrip("0").rstrip(".")
    return text.replace("-", "\N{MINUS SIGN}") if text.strip("-0.") else text.removeprefix("-")
