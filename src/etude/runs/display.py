"""How a run shows itself: a live display on a terminal, plain lines elsewhere, or nothing; at the
end a table."""

import math
import time
from pathlib import Path
from typing import Any, Protocol

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from etude.runs.job import ProgressEvent
from etude.runs.settings import Settings

LINE_SECONDS = 5.0  # between plain lines


class Display(Protocol):
    """What a run is shown by; entered before training, left when all is done."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *exception: object) -> None: ...

    def show(self, update: ProgressEvent) -> None:
        """Take news of a part."""

    def note(self, text: str) -> None:
        """Say what is being done now."""

    def warn(self, text: str) -> None:
        """Say what the user should know."""

    def report(self, run: Any) -> None:
        """Show what came of it."""


class NullDisplay:
    """Shows nothing but warnings."""

    def __enter__(self) -> "NullDisplay":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def show(self, update: ProgressEvent) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        Console(stderr=True).print(
            f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )

    def report(self, run: Any) -> None:
        pass


class RunProgress:
    """Where all seeds stand together, from the latest news of each part."""

    def __init__(self, settings: Settings):
        self.settings, self.latest, self.known = settings, {}, {}
        self.first: dict[tuple[int, ...], ProgressEvent] = {}

    def add(self, update: ProgressEvent) -> None:
        self.latest[update.seeds] = update
        self.first.setdefault(update.seeds, update)
        for name, values in update.metrics.items():
            for seed, value in zip(update.seeds, values, strict=True):
                if not math.isnan(value):
                    self.known[name, seed] = value

    @property
    def steps(self) -> int:
        """Of all seeds."""
        return sum(update.steps * len(update.seeds) for update in self.latest.values())

    @property
    def total(self) -> int:
        return self.settings.trained_steps * self.settings.seeds

    @property
    def rate(self) -> float:
        """Environment steps a second of training, all seeds together."""
        rates, done = [], self.steps >= self.total
        for seeds, update in self.latest.items():
            if update.steps >= self.settings.trained_steps and not done:
                continue  # it trains no more
            begun = self.first[seeds]  # a resumed part begins with news of nothing
            origin = begun if not begun.metrics else ProgressEvent(seeds, 0, {}, False, 0.0, 0.0)
            if update.seconds > origin.seconds:
                rates.append(
                    (update.steps - origin.steps) * len(seeds) / (update.seconds - origin.seconds)
                )
        return sum(rates)

    @property
    def seconds_left(self) -> float:
        return (self.total - self.steps) / self.rate if self.rate else math.nan

    def mean(self, name: str) -> float:
        """Over the seeds that have one, of their latest value."""
        values = [value for (known, _), value in self.known.items() if known == name]
        return sum(values) / len(values) if values else math.nan

    @property
    def facts(self) -> str:
        losses = sorted({name for name, _ in self.known if name.endswith("loss")})
        parts = [
            f"{self.rate:,.0f} steps/s",
            f"return {_number(self.mean('episode_return'))}",
            *(f"{name.replace('_', ' ')} {_number(self.mean(name))}" for name in losses),
        ]
        return " · ".join(parts)


class PlainDisplay:
    """A plain line now and then, for files and pipes."""

    def __init__(self, settings: Settings, directory: Path):
        self.console = Console(soft_wrap=True, highlight=False, markup=False)
        self.run_progress, self.directory, self.last = RunProgress(settings), directory, -math.inf

    def __enter__(self) -> "PlainDisplay":
        self.note("\n".join(run_headline(self.run_progress.settings, self.directory)))
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def show(self, update: ProgressEvent) -> None:
        standing, now = self.run_progress, time.perf_counter()
        standing.add(update)
        if (update.metrics and now - self.last >= LINE_SECONDS) or standing.steps >= standing.total:
            self.last = now
            self.note(
                f"{standing.steps:,}/{standing.total:,} steps · {standing.facts} · "
                f"{_duration(standing.seconds_left)} left"
            )

    def note(self, text: str) -> None:
        self.console.print(text)

    def warn(self, text: str) -> None:
        self.note(f"warning: {text}")

    def report(self, run: Any) -> None:
        self.console.print(result_table(run))
        self.note("\n".join(output_paths(run)))


class LiveDisplay:
    """A live bar: steps of budget, steps a second, recent return, losses, time left."""

    def __init__(self, settings: Settings, directory: Path):
        self.console = Console(soft_wrap=True, highlight=False)
        self.run_progress, self.directory, self.doing, self.began = (
            RunProgress(settings),
            directory,
            "compiling",
            time.perf_counter(),
        )
        self.bar = ProgressBar(total=self.run_progress.total, width=40)
        self.live = Live(get_renderable=self.picture, console=self.console, refresh_per_second=4)

    def picture(self) -> Group:
        standing = self.run_progress
        self.bar.update(standing.steps)
        steps = Text.assemble(
            (f"{self.doing:10} ", "bold"), f"{standing.steps:,}/{standing.total:,} steps"
        )
        gone = f"{_duration(time.perf_counter() - self.began)} gone · {_duration(standing.seconds_left)} left"
        return Group(
            steps,
            Columns([self.bar, Text(gone, style="dim")]),
            Text(standing.facts if standing.known else ""),
        )

    def __enter__(self) -> "LiveDisplay":
        for line in run_headline(self.run_progress.settings, self.directory):
            self.console.print(line, markup=False)
        self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.doing = "stopped" if exception[0] else "done"
        self.live.stop()

    def show(self, update: ProgressEvent) -> None:
        self.doing = "training"
        self.run_progress.add(update)

    def note(self, text: str) -> None:
        self.doing = text

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False)

    def report(self, run: Any) -> None:
        self.console.print(result_table(run))
        for line in output_paths(run):
            self.console.print(line, markup=False)


def display_for(run: Any, progress: bool) -> Display:
    """The display that fits where the output goes."""
    if not progress:
        return NullDisplay()
    kind = LiveDisplay if Console().is_terminal else PlainDisplay
    return kind(run.settings, run.directory)


def run_headline(settings: Settings, directory: Path) -> list[str]:
    """What is about to happen."""
    seeds = f"{settings.seeds} seeds" if settings.seeds > 1 else f"seed {settings.seed}"
    copies = f"{settings.num_envs} copies" if settings.num_envs > 1 else "1 copy"
    return [
        f"{settings.name} on {settings.environment} · {settings.backend} backend · {copies} · "
        f"{seeds} · "
        f"{settings.steps:,} steps{' each' if settings.seeds > 1 else ''}",
        f"run     {directory}",
    ]


def output_paths(run: Any) -> list[str]:
    """Where what came of a run lies."""
    found = [
        ("run", run.directory),
        ("curve", run.directory / "learning_curve.png"),
        *(("video", path) for path in sorted(run.directory.glob("video/*.mp4"))),
    ]
    return [f"{what:7} {path}" for what, path in found]


def result_table(run: Any) -> Table:
    """The result of a complete run."""
    summary = run.summary
    table = Table(title=run.name, title_justify="left", show_header=False)
    rows = evaluation_rows(summary["evaluation"])
    rows += [
        ("steps of each seed", f"{summary['steps']:,}"),
        ("steps a second, all seeds", f"{summary['train_steps_per_second']:,.0f}"),
        (
            "seconds, all / compiling",
            f"{summary['wall_seconds']:.1f} / {summary['compile_seconds']:.1f}",
        ),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def evaluation_rows(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines of an evaluation."""
    low, high = evaluation["ci95"]
    seeds = len(evaluation["per_seed"])
    how = "deterministic" if evaluation["deterministic"] else "stochastic"
    rows = [
        (
            "evaluation",
            f"{evaluation['episodes']} episodes{' a seed' if seeds > 1 else ''} on "
            f"Gymnasium, {how} policy",
        ),
        ("return, IQM", f"{evaluation['iqm']:.1f}   95 % interval {low:.1f} to {high:.1f}"),
        ("return, mean ± std", f"{evaluation['mean']:.1f} ± {evaluation['std']:.1f}"),
    ]
    return rows + (
        [("return of each seed", "  ".join(f"{value:.1f}" for value in evaluation["per_seed"]))]
        if seeds > 1
        else []
    )


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
