"""Figures of a run, drawn without a display and without matplotlib's global state."""

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
_POINTS = 200  # of a curve at most; more than the eye can part
_ASIDE = 1.03  # where the evaluation stands, in widths of the axes


def draw_learning_curve(
    path: Path, steps, returns, evaluation: dict | None = None, title: str = "", subtitle: str = ""
) -> None:
    """Draw the training return by environment step, and the final evaluation at its end, to a PNG
    of 1440 x 840 pixels.

    steps       [row], environment steps
    returns     [seed, row], mean return of the training episodes that ended since the row before;
                NaN where none did
    evaluation  what `statistics.summarize` gives, or None

    Thin lines are seeds, the thick one their interquartile mean, the band its 95 % bootstrap
    interval. Above 200 rows, neighbors are averaged. Between two values a seed's curve is straight,
    after its last one level.
    """
    steps, returns = _thinned(
        np.asarray(steps, float).reshape(-1), np.atleast_2d(np.asarray(returns, float))
    )
    figure, axes = _page(steps, "return per episode (sum of rewards)")
    _draw_seeds(axes, steps, returns)
    if evaluation is not None:
        _draw_evaluation(axes, evaluation)
    _finish(figure, axes, path, title, subtitle)


def draw_overestimation(
    path: Path, steps, curves: dict[str, tuple], title: str = "", subtitle: str = ""
) -> None:
    """Draw what values are said to be beside what they are, by environment step, to a PNG of 1440 x
    840 pixels.

    steps    [point], environment steps
    curves   name: (estimates [seed, point], discounted returns that followed [seed, point])

    A thick line is the mean over seeds of the estimates, the dashed one of the same color that of
    the returns; thin lines are seeds.
    """
    steps = np.asarray(steps, float)
    figure, axes = _page(steps, "value and discounted return of the greedy policy")
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
    _finish(figure, axes, path, title, subtitle)


def draw_bars(
    path: Path, values: dict[str, float], label: str, title: str = "", subtitle: str = ""
) -> None:
    """Draw a bar for each value under its name, with the number at its end, to a PNG of 1440 x 840
    pixels."""
    figure, axes = _page(np.zeros(1), label)
    axes.set_xlim(-0.6, len(values) - 0.4)
    drawn = axes.bar(range(len(values)), list(values.values()), width=0.6, color=BLUE, zorder=2)
    labels = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values.values()]
    axes.bar_label(drawn, labels=labels, padding=3, color=INK, fontsize=9)
    axes.set_xticks(range(len(values)), list(values), color=INK)
    axes.set_xlabel("")
    _finish(figure, axes, path, title, subtitle, numbered=False)


def draw_lines(
    path: Path,
    xs,
    curves: dict[str, Any],
    label: str,
    xlabel: str,
    title: str = "",
    subtitle: str = "",
) -> None:
    """Draw the mean of each curve, [x, run], with its 95 % interval by the normal law, to a PNG of
    1440 x 840 pixels."""
    xs = np.asarray(xs, float)
    figure, axes = _page(xs, label)
    axes.set_xlabel(xlabel)
    for (name, values), color in zip(curves.items(), (EMBER, BLUE, INK), strict=False):
        values = np.asarray(values, float)
        middle, spread = values.mean(1), 1.96 * values.std(1, ddof=1) / math.sqrt(values.shape[1])
        axes.plot(
            xs,
            middle,
            color=color,
            linewidth=2,
            marker="o",
            markersize=4,
            label=name,
            zorder=3,
            clip_on=False,
        )
        axes.fill_between(
            xs, middle - spread, middle + spread, color=color, alpha=0.16, linewidth=0
        )
    axes.set_ylim(bottom=0)
    _finish(figure, axes, path, title, subtitle)


def _page(steps, label):
    """A figure and its axes, from zero to the last step."""
    from matplotlib.figure import Figure  # half a second to import, so only where it is needed
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # title and legend on top
    layout = ConstrainedLayoutEngine(rect=(0.02, 0.02, 0.96, 0.80), w_pad=0, h_pad=0)
    figure = Figure(figsize=_INCHES, dpi=DPI, facecolor="white", layout=layout)
    axes = figure.add_subplot()
    style_axes(axes, label)
    axes.set_xlim(0, steps.max(initial=0.0) or 1.0)
    return figure, axes


def _finish(figure, axes, path, title, subtitle, numbered=True):
    """Caption and save; the axis of steps is `numbered` unless it has names."""
    draw_caption(axes, title, subtitle)
    for axis in (axes.xaxis, axes.yaxis)[not numbered :]:
        _number(axis)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI, metadata={"Software": None})
    files.write_bytes(Path(path), image.getvalue())


def style_axes(axes, label):
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=8.5, length=0, pad=6)
    axes.tick_params(axis="x", length=3, pad=4)
    axes.set_xlabel("environment steps", fontsize=9, color=INK, labelpad=7)
    axes.set_ylabel(label, fontsize=9, color=INK, labelpad=8)


def _thinned(steps, returns):
    """Average neighboring rows until at most `_POINTS` are left; a group stands at its last
    step."""
    size = math.ceil(steps.size / _POINTS)
    if size <= 1:
        return steps, returns
    starts = np.arange(0, steps.size, size)
    known = np.isfinite(returns)
    counts = np.add.reduceat(known, starts, axis=1, dtype=int)
    totals = np.add.reduceat(np.where(known, returns, 0.0), starts, axis=1)
    means = np.divide(totals, counts, out=np.full(totals.shape, math.nan), where=counts > 0)
    return steps[np.minimum(starts + size, steps.size) - 1], means


def _draw_seeds(axes, steps, returns):
    curves = np.array([_filled(steps, curve) for curve in returns]).reshape(
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
    mark = {"marker": "o", "clip_on": False} if points == 1 else {}  # one point makes no line
    middle, low, high = statistics.bootstrap_band(curves)
    many = len(curves) > 1
    axes.plot(
        steps,
        middle,
        color=BLUE,
        linewidth=2.0,
        solid_capstyle="round",
        solid_joinstyle="round",
        zorder=3,
        markersize=5.5,
        label=f"IQM of {len(curves)} seeds" if many else "training",
        **mark,
    )
    if many:
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
                **mark,
            )


def _filled(steps, curve):
    """Straight between the values a seed has, level after its last, NaN before its first."""
    known = np.isfinite(curve)
    if not known.any():
        return np.full(steps.shape, math.nan)
    return np.interp(steps, steps[known], curve[known], left=math.nan)


def _draw_evaluation(axes, evaluation):
    """A point with its interval beside the axes, at the height of the data, with the numbers next
    to it."""
    center, (low, high) = float(evaluation["iqm"]), map(float, evaluation["ci95"])
    if not math.isfinite(center):
        return
    certain = math.isfinite(low) and math.isfinite(high)
    if not certain:
        low = high = center
    style = {"transform": axes.get_yaxis_transform(), "clip_on": False, "color": EMBER}
    if high > low:
        axes.plot(
            [_ASIDE, _ASIDE],
            [low, high],
            linewidth=1.4,
            marker="_",
            markersize=9,
            markeredgewidth=1.4,
            **style,
        )
    axes.plot(
        [_ASIDE],
        [center],
        linestyle="none",
        marker="o",
        markersize=5,
        label="final evaluation, 95 % interval" if certain else "final evaluation",
        **style,
    )
    unit = 10 ** (math.floor(math.log10(max(abs(low), abs(high), 1e-9))) - 3)  # four digits
    numbers = [format_thousands(round(value / unit) * unit) for value in (center, low, high)]
    beside = {
        "xycoords": style["transform"],
        "textcoords": "offset points",
        "va": "center",
        "annotation_clip": False,
    }
    axes.annotate(
        numbers[0],
        (_ASIDE, center),
        xytext=(9, 0),
        fontsize=10,
        fontweight="bold",
        color=EMBER,
        **beside,
    )
    if certain:
        axes.annotate(
            f"{numbers[1]} to\n{numbers[2]}",
            (_ASIDE, center),
            xytext=(9, -19),
            fontsize=7.5,
            color=FAINT,
            **beside,
        )


def draw_caption(axes, title, subtitle):
    """Title, subtitle and legend above the axes, flush with their left edge."""
    above = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "va": "baseline",
        "annotation_clip": False,
        "parse_math": False,
    }
    texts = [
        axes.annotate(
            title, (0, 1), xytext=(0, 38), fontsize=12.5, fontweight="bold", color=INK, **above
        ),
        axes.annotate(subtitle, (0, 1), xytext=(0, 24), fontsize=9, color=FAINT, **above),
    ]
    for text in texts:
        text.set_in_layout(False)
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
            columnspacing=1.8,
            borderpad=0,
            borderaxespad=0,
            handletextpad=0.6,
        )
        legend.set_in_layout(False)


def _number(axis):
    """Few round ticks with as many decimals as they need, thousands parted."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    decimals = max(
        (len(f"{tick:.9f}".rstrip("0").partition(".")[2]) for tick in axis.get_majorticklocs()),
        default=0,
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_thousands(value, decimals)))


def format_thousands(value: float, decimals: int | None = None) -> str:
    """1234567.0 as 1,234,567 and 0.25 as itself, or with a fixed number of decimals; a true minus
    sign."""
    if abs(value) >= 1e12:
        text = f"{value:.4g}"
    elif decimals is not None:
        text = f"{value:,.{decimals}f}"
    else:
        text = f"{value:,.9f}".rstrip("0").rstrip(".")
    return text.replace("-", "\N{MINUS SIGN}") if text.strip("-0.") else text.removeprefix("-")
