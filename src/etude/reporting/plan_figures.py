"""Figures of plans: a trajectory with controls and costs, a video of the motion, a search tree."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from etude.reporting.figures import (
    BLUE,
    DPI,
    EMBER,
    FAINT,
    GRID,
    INK,
    draw_caption,
    format_thousands,
    save_figure,
    style_axes,
)

LABELS = {  # axis labels of states and controls
    "double-integrator": (["position (m)", "velocity (m/s)"], ["force (N)"]),
    "pendulum": (["angle (rad)", "rate (rad/s)"], ["torque (N m)"]),
    "cart-pole": (["position (m)", "velocity (m/s)", "angle (rad)", "rate (rad/s)"], ["force (N)"]),
    "acrobot": (
        ["first angle (rad)", "second angle (rad)", "first rate (rad/s)", "second rate (rad/s)"],
        ["torque (N m)"],
    ),
    "quadrotor": (
        ["across (m)", "up (m)", "tilt (rad)", "across (m/s)", "up (m/s)", "turning (rad/s)"],
        ["right thrust (N)", "left thrust (N)"],
    ),
    "car": (
        ["x (m)", "y (m)", "heading (rad)", "speed (m/s)"],
        ["acceleration (m/s²)", "steering (rad)"],
    ),
}
COLORS = (BLUE, EMBER, "#4b8b6f", "#8a63a8", "#b8862b", "#6b7785")
MAX_TREE_NODES = 60  # nodes of a search tree that are drawn
GHOST_ALPHAS = 0.12, 0.3  # opacity of the first and the last earlier plan in a video
FINAL_PAUSE = 1.0  # seconds for which a video shows the last state


def draw_path(
    file: Path,
    labels: tuple[list[str], list[str]],
    problem: Any,
    plan: Any,
    title: str,
    subtitle: str,
) -> None:
    """Draw states and controls over time, and the cost by iteration, as a PNG.

    `plan` has states [T + 1, n], controls [T, m] and costs [iteration]. The image has 1800 x 1080
    pixels.
    """
    from matplotlib.figure import Figure  # half a second to import, so only where it is needed

    figure = Figure(figsize=(9.0, 5.4), dpi=DPI, facecolor="white")
    grid = figure.add_gridspec(
        2,
        2,
        left=0.08,
        right=0.97,
        bottom=0.09,
        top=0.82,
        hspace=0.42,
        wspace=0.2,
        width_ratios=(2, 1),
    )
    axes = (
        figure.add_subplot(grid[0, 0]),
        figure.add_subplot(grid[1, 0]),
        figure.add_subplot(grid[:, 1]),
    )
    times = problem.time_step * np.arange(len(plan.states))
    for series, names, subplot in (
        (plan.states, labels[0], axes[0]),
        (plan.controls, labels[1], axes[1]),
    ):
        for curve, name, color in zip(np.asarray(series).T, names, COLORS, strict=False):
            values = np.append(curve, curve[-1]) if len(curve) < len(times) else curve
            style = "default" if values is curve else "steps-post"
            subplot.plot(times, values, color=color, linewidth=1.7, label=name, drawstyle=style)
        subplot.legend(
            loc="lower left",
            bbox_to_anchor=(0, 0.99),
            ncols=len(names) if len(names) < 5 else 3,
            frameon=False,
            fontsize=7.5,
            labelcolor=INK,
            handlelength=1.2,
            columnspacing=1.2,
            borderpad=0,
        )
        subplot.set_xlim(0, times[-1])
    style_axes(axes[0], "state")
    style_axes(axes[1], "control")
    axes[0].set_xlabel("")
    axes[1].set_xlabel("seconds")
    costs = np.asarray(plan.costs, float)
    axes[2].plot(
        np.arange(len(costs)),
        costs,
        color=BLUE,
        linewidth=2,
        marker="o" if len(costs) < 30 else None,
        markersize=3.5,
    )
    if costs.min() > 0 and costs.max() > 20 * costs.min():
        axes[2].set_yscale("log", subs=(2, 5))
        axes[2].yaxis.set_minor_formatter(lambda value, _: format_thousands(value))
    style_axes(axes[2], "")
    axes[2].yaxis.set_major_formatter(lambda value, _: format_thousands(value))
    axes[2].tick_params(axis="y", which="minor", length=0, labelsize=8.5, labelcolor=INK, pad=6)
    axes[2].set_title("cost", loc="left", fontsize=9, color=INK)
    axes[2].set_xlabel("iteration")
    figure.text(0.08, 0.94, title, fontsize=12.5, fontweight="bold", color=INK)
    figure.text(0.08, 0.90, subtitle, fontsize=9, color=FAINT)
    save_figure(figure, file)


def write_motion(file: Path, name: str, problem: Any, plan: Any, earlier: dict[int, Any]) -> None:
    """Write a video of the plan in real time, an MP4 of 640 x 480 pixels.

    `earlier` are states [T + 1, n] by iteration, of plans on the way to this one: they move beside
    it, the fainter the earlier.
    """
    import imageio.v2 as imageio
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), dpi=100, facecolor="white")
    canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0.02, 0.02, 0.96, 0.96))
    states = np.asarray(plan.states)
    x_limits, y_limits = plot_limits(name, problem, states)
    ghosts = [np.asarray(path) for path in earlier.values()]
    legend = "faint: after iteration " + ", ".join(map(str, earlier)) if earlier else ""
    frames_per_second = round(1 / problem.time_step)
    # the encoder is another program, started without a fork of this process
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    writer: Any = imageio.get_writer(file, fps=frames_per_second, macro_block_size=2)
    with writer:
        for i in [*range(len(states)), *[len(states) - 1] * round(FINAL_PAUSE * frames_per_second)]:
            axes.clear()
            axes.set(xlim=x_limits, ylim=y_limits, aspect="equal")
            axes.axis("off")
            axes.axhline(0, color=GRID, linewidth=1, zorder=0)
            for x, y, radius in getattr(problem, "obstacles", ()):
                draw_disc(axes, x, y, radius, GRID)
            for path, alpha in zip(ghosts, np.linspace(*GHOST_ALPHAS, len(ghosts)), strict=True):
                draw_state(axes, name, problem, path[i], alpha)
            draw_state(axes, name, problem, states[i])
            axes.text(0.02, 0.02, legend, transform=axes.transAxes, fontsize=9, color=FAINT)
            canvas.draw()
            writer.append_data(np.asarray(canvas.buffer_rgba())[..., :3])


def plot_limits(
    name: str, problem: Any, states: np.ndarray
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the limits of the x and the y axis in meters, in the proportion of the image."""
    height = {"pendulum": 1.3, "cart-pole": 1.3, "acrobot": 2.3}.get(name, 1.0)
    if name in ("quadrotor", "car"):
        height += np.abs(states[:, 1]).max()
    x_min, x_max = (
        (0.0, 0.0)
        if name in ("pendulum", "acrobot")
        else (min(states[:, 0].min(), 0), max(states[:, 0].max(), 0))
    )
    center, half_width = (x_min + x_max) / 2, max((x_max - x_min) / 2 + 1, 4 / 3 * height)
    return (center - half_width, center + half_width), (-0.75 * half_width, 0.75 * half_width)


def draw_state(axes: Any, name: str, problem: Any, state: np.ndarray, alpha: float = 1.0) -> None:
    """Draw the system in a state, with this opacity; angles are clockwise from upright."""
    x, y = state[0], state[1]
    rod = partial(draw_rod, axes, alpha=alpha)
    line = partial(draw_line, axes, alpha=alpha)
    disc = partial(draw_disc, axes, alpha=alpha)
    match name:
        case "double-integrator":
            line((x - 0.15, x + 0.15), (0.15, 0.15), BLUE, 26)
        case "pendulum":
            rod(0, 0, state[0], problem.length)
            disc(0, 0, 0.05, INK)
        case "cart-pole":
            line((x - 0.2, x + 0.2), (0, 0), INK, 18)
            rod(x, 0, state[2], 2 * problem.half_length)
        case "acrobot":
            elbow = rod(0, 0, state[0], problem.length)
            rod(*elbow, state[0] + state[1], problem.length)
            disc(0, 0, 0.06, INK)
        case "quadrotor":
            wing = problem.arm * np.array([np.cos(state[2]), np.sin(state[2])])
            line((x - wing[0], x + wing[0]), (y - wing[1], y + wing[1]), BLUE, 5)
            for side in (-1, 1):
                disc(x + side * wing[0], y + side * wing[1], 0.06, EMBER)
            disc(0, 0, 0.05, FAINT)
        case "car":
            length = problem.wheelbase
            line((x, x + length * np.cos(state[2])), (y, y + length * np.sin(state[2])), BLUE, 12)
            disc(0, 0, 0.05, FAINT)


def draw_rod(
    axes: Any, x: float, y: float, angle: float, length: float, alpha: float = 1.0
) -> tuple[float, float]:
    """Draw a rod from a joint at (x, y) and return its end."""
    end = x + length * np.sin(angle), y + length * np.cos(angle)
    draw_line(axes, (x, end[0]), (y, end[1]), BLUE, 7, alpha)
    draw_disc(axes, *end, 0.05, EMBER, alpha)
    return end


def draw_line(axes: Any, xs: Any, ys: Any, color: str, width: float, alpha: float = 1.0) -> None:
    """Draw a line with round ends; the width is in points."""
    axes.plot(xs, ys, color=color, linewidth=width, solid_capstyle="round", alpha=alpha, zorder=2)


def draw_disc(axes: Any, x: float, y: float, radius: float, color: str, alpha: float = 1.0) -> None:
    """Draw a filled circle."""
    from matplotlib.patches import Circle

    axes.add_patch(Circle((x, y), radius, color=color, alpha=alpha, zorder=3))


def draw_tree(
    file: Path, nodes: dict[int, tuple[int, int, int, float]], title: str, subtitle: str
) -> None:
    """Draw a search tree with root 0, as a PNG of 1800 x 1080 pixels.

    nodes    node: (parent, action, visits, mean return for the player to move), parents before
             children

    The width of a branch grows with its visits, and its label is the action. The color of a node
    goes from blue, good for the player who moved there, to ember.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.4), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0.03, 0.03, 0.94, 0.78))
    axes.axis("off")
    positions, max_visits = (
        layout_tree(nodes),
        max((visits for _, _, visits, _ in nodes.values()), default=1),
    )
    color_map = LinearSegmentedColormap.from_list("worth", (BLUE, "#dfe3e8", EMBER))
    for node, (parent, action, visits, value) in nodes.items():
        (x0, y0), (x1, y1) = positions[parent], positions[node]
        axes.plot(
            (x0, x1),
            (y0, y1),
            color=FAINT,
            alpha=0.55,
            linewidth=0.4 + 6 * visits / max_visits,
            zorder=1,
        )
        axes.scatter(
            [x1],
            [y1],
            s=36,
            color=[color_map((value + 1) / 2)],
            edgecolors=FAINT,
            linewidths=0.5,
            zorder=2,
        )
        axes.annotate(
            str(action),
            (x1, y1),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=6.5,
            color=INK,
        )
    axes.scatter([positions[0][0]], [positions[0][1]], s=70, color=INK, zorder=2)
    draw_caption(axes, title, subtitle)
    save_figure(figure, file)


def layout_tree(nodes: dict[int, tuple[int, int, int, float]]) -> dict[int, tuple[float, float]]:
    """Return the position of each node: children below their parent, leaves side by side."""
    children: dict[int, list[int]] = {}
    for node, (parent, *_) in nodes.items():
        children.setdefault(parent, []).append(node)
    positions: dict[int, tuple[float, float]] = {}
    leaf_count = 0.0

    def place(node, depth):
        nonlocal leaf_count
        node_children = sorted(children.get(node, []), key=lambda child: nodes[child][1])
        for child in node_children:
            place(child, depth + 1)
        if not node_children:
            leaf_count += 1
        x = (
            float(np.mean([positions[child][0] for child in node_children]))
            if node_children
            else leaf_count
        )
        positions[node] = x, float(-depth)

    place(0, 0)
    return positions
