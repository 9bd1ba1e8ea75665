"""Displays of a run's progress: live on a terminal, plain lines in files and pipes, or nothing."""

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

from etude.reporting.statistics import three_digits
from etude.runs.job_progress import ProgressEvent
from etude.runs.settings import DatasetRecord, Settings
from etude.runs.stopping import EarlyStop

LINE_INTERVAL = 5.0  # seconds between plain lines


class Display(Protocol):
    """The protocol of displays: entered before training, left at the end of the run."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *exception: object) -> None: ...

    def show(self, event: ProgressEvent) -> None:
        """Show a progress event of a job."""

    def note(self, text: str) -> None:
        """Show what the run does now."""

    def warn(self, text: str) -> None:
        """Show a warning."""

    def report(self, run: Any) -> None:
        """Show the result of the run."""


class NullDisplay:
    """A display that prints warnings only."""

    def __enter__(self) -> "NullDisplay":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def show(self, event: ProgressEvent) -> None:
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
    """The progress of all seeds together, from the latest event of each job."""

    def __init__(self, settings: Settings):
        self.settings, self.latest_events, self.latest_metrics = settings, {}, {}
        self.first_events: dict[tuple[int, ...], ProgressEvent] = {}

    def add(self, event: ProgressEvent) -> None:
        self.latest_events[event.seeds] = event
        self.first_events.setdefault(event.seeds, event)
        for name, values in event.metrics.items():
            for seed, value in zip(event.seeds, values, strict=True):
                if not math.isnan(value):
                    self.latest_metrics[name, seed] = value

    @property
    def steps(self) -> int:
        """Steps taken, summed over the seeds."""
        return sum(event.steps * len(event.seeds) for event in self.latest_events.values())

    @property
    def total(self) -> int:
        """Steps to take, summed over the seeds: the budget, without what early stopping saves."""
        budget = self.settings.trained_steps
        saved = sum(
            (budget - event.steps) * len(event.seeds)
            for event in self.latest_events.values()
            if event.stops
        )
        return budget * self.settings.seeds - saved

    @property
    def rate(self) -> float:
        """Steps per second of training, summed over the seeds."""
        rates, is_complete = [], self.steps >= self.total
        for seeds, event in self.latest_events.items():
            has_ended = event.stops or event.steps >= self.settings.trained_steps
            if has_ended and not is_complete:
                continue  # the job is complete
            # the first event of a resumed job has no metrics and counts the steps done before
            first_event = self.first_events[seeds]
            start_event = (
                first_event
                if not first_event.metrics
                else ProgressEvent(seeds, 0, {}, False, 0.0, 0.0)
            )
            if event.seconds > start_event.seconds:
                rates.append(
                    (event.steps - start_event.steps)
                    * len(seeds)
                    / (event.seconds - start_event.seconds)
                )
        return sum(rates)

    @property
    def seconds_left(self) -> float:
        return (self.total - self.steps) / self.rate if self.rate else math.nan

    def mean(self, name: str) -> float:
        """The mean of a metric over the seeds that have one, each with its latest value."""
        values = [value for (metric, _), value in self.latest_metrics.items() if metric == name]
        return sum(values) / len(values) if values else math.nan

    @property
    def status(self) -> str:
        """One line of steps per second, recent return and losses."""
        loss_names = sorted({name for name, _ in self.latest_metrics if name.endswith("loss")})
        episode_return = three_digits(self.mean("episode_return"))
        parts = [
            f"{self.rate:,.0f} steps/s",
            *([f"return {episode_return}"] if self.settings.plays else []),
            *(
                [f"evaluation {three_digits(self.mean('evaluation_return'))}"]
                if self.settings.acts and self.settings.evaluate_every is not None
                else []
            ),
            *(f"{name.replace('_', ' ')} {three_digits(self.mean(name))}" for name in loss_names),
        ]
        return " · ".join(parts)


class PlainDisplay:
    """A display of plain lines, for files and pipes."""

    def __init__(self, settings: Settings, directory: Path):
        self.console = Console(soft_wrap=True, highlight=False, markup=False)
        self.run_progress, self.directory, self.last_line_time = (
            RunProgress(settings),
            directory,
            -math.inf,
        )

    def __enter__(self) -> "PlainDisplay":
        self.note("\n".join(run_headline(self.run_progress.settings, self.directory)))
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def show(self, event: ProgressEvent) -> None:
        run_progress, now = self.run_progress, time.perf_counter()
        run_progress.add(event)
        if (
            event.metrics and now - self.last_line_time >= LINE_INTERVAL
        ) or run_progress.steps >= run_progress.total:
            self.last_line_time = now
            self.note(
                f"{run_progress.steps:,}/{run_progress.total:,} {run_progress.settings.unit} · "
                f"{run_progress.status} · "
                f"{_duration(run_progress.seconds_left)} left"
            )

    def note(self, text: str) -> None:
        self.console.print(text)

    def warn(self, text: str) -> None:
        self.note(f"warning: {text}")

    def report(self, run: Any) -> None:
        self.console.print(result_table(run))
        self.note("\n".join(output_paths(run)))


class LiveDisplay:
    """A live display: a progress bar, steps per second, recent return, losses and time left."""

    def __init__(self, settings: Settings, directory: Path):
        self.console = Console(soft_wrap=True, highlight=False)
        self.run_progress, self.directory, self.phase, self.start_time = (
            RunProgress(settings),
            directory,
            "compiling",
            time.perf_counter(),
        )
        self.bar = ProgressBar(total=self.run_progress.total, width=40)
        self.live = Live(get_renderable=self.render, console=self.console, refresh_per_second=4)

    def render(self) -> Group:
        run_progress = self.run_progress
        self.bar.update(run_progress.steps, total=run_progress.total)
        steps = Text.assemble(
            (f"{self.phase:10} ", "bold"),
            f"{run_progress.steps:,}/{run_progress.total:,} {run_progress.settings.unit}",
        )
        times = (
            f"{_duration(time.perf_counter() - self.start_time)} elapsed · "
            f"{_duration(run_progress.seconds_left)} left"
        )
        return Group(
            steps,
            Columns([self.bar, Text(times, style="dim")]),
            Text(run_progress.status if run_progress.latest_metrics else ""),
        )

    def __enter__(self) -> "LiveDisplay":
        for line in run_headline(self.run_progress.settings, self.directory):
            self.console.print(line, markup=False)
        self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.phase = "stopped" if exception[0] else "done"
        self.live.stop()

    def show(self, event: ProgressEvent) -> None:
        self.phase = "training"
        self.run_progress.add(event)

    def note(self, text: str) -> None:
        self.phase = text

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False)

    def report(self, run: Any) -> None:
        self.console.print(result_table(run))
        for line in output_paths(run):
            self.console.print(line, markup=False)


class StatusLine:
    """How far some work is, in a line: live on a terminal, else printed every few seconds."""

    def __init__(self, visible: bool):
        self.console = Console(soft_wrap=True, highlight=False, markup=False, quiet=not visible)
        self.status, self.last_line_time = self.console.status("compiling"), time.perf_counter()

    def __enter__(self) -> "StatusLine":
        self.status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.status.stop()

    def show(self, text: str) -> None:
        self.status.update(text)
        now = time.perf_counter()
        if not self.console.is_terminal and now - self.last_line_time >= LINE_INTERVAL:
            self.last_line_time = now
            self.console.print(text)


def display_for(run: Any, progress: bool) -> Display:
    """Return the display that fits the output: a terminal, a file or pipe, or none."""
    if not progress:
        return NullDisplay()
    display_class = LiveDisplay if Console().is_terminal else PlainDisplay
    return display_class(run.settings, run.shown_directory)


def run_headline(settings: Settings, directory: Path) -> list[str]:
    """The lines that introduce a run: its settings and its directory."""
    seeds = f"{settings.seeds} seeds" if settings.seeds > 1 else f"seed {settings.seed}"
    environments = f"{settings.num_envs} copies" if settings.num_envs > 1 else "1 copy"
    origin = f"{settings.backend} backend · {environments}" if settings.plays else "does not play"
    threads = "1 thread" if settings.threads == 1 else f"{settings.threads} threads"
    return [
        f"{settings.title} · {origin} · {threads} · {seeds} · "
        f"{settings.steps:,} {settings.unit}{' each' if settings.seeds > 1 else ''}",
        f"run     {directory}",
        *budget_lines(settings),
        *([dataset_line(settings.dataset)] if settings.dataset else []),
        *([f"expert  {settings.expert.name}"] if settings.expert else []),
        *([f"torso   {settings.torso}"] if settings.torso else []),
        *(f"initial {name} of {record.run}" for name, record in settings.initial.items()),
        *(
            [
                f"resume  from Python alone, which holds the {' and the '.join(held)}: "
                f"{settings.resume_command(directory)}"
            ]
            if (held := settings.held_in_python)
            else []
        ),
    ]


def budget_lines(settings: Settings) -> list[str]:
    """The lines that say what becomes of numbers of steps that are no whole iterations or rows."""
    per_iteration, unit = settings.steps_per_iteration, settings.unit
    lines = []
    if settings.trained_steps != settings.steps:
        lines.append(
            f"budget  {settings.trained_steps:,} of {settings.steps:,} {unit} are trained, the "
            f"whole iterations of {per_iteration:,}"
        )
    if settings.evaluate_every is not None:
        steps = settings.iterations_per_evaluation * per_iteration
        asked = settings.evaluate_every
        rounded = f" ({asked:,} were asked for; iterations are whole)" if steps != asked else ""
        how = f", {settings.evaluate_with} episodes" if settings.acts else ""
        lines.append(f"evaluated every {steps:,} {unit}{rounded} and at the end{how}")
    return lines


def dataset_line(record: DatasetRecord) -> str:
    """The line that introduces the dataset of a run."""
    origin = f", recorded in {record.environment}" if record.environment else ""
    return (
        f"dataset {record.path or 'an object'}: {record.episodes:,} episodes, "
        f"{record.steps:,} steps{origin}"
    )


def output_paths(run: Any) -> list[str]:
    """The lines that name the directory, curve and videos of a run."""
    paths = [
        ("run", run.shown_directory),
        ("curve", run.shown_directory / "learning_curve.png"),
        *(
            ("video", run.shown_directory / path.relative_to(run.directory))
            for path in sorted(run.directory.glob("video/*.mp4"))
        ),
    ]
    return [f"{label:7} {path}" for label, path in paths]


def result_table(run: Any) -> Table:
    """The table of results of a complete run."""
    summary = run.summary
    table = Table(title=run.name, title_justify="left", show_header=False)
    rows = evaluation_rows(summary["evaluation"], summary.get("training_return"))
    if best := summary.get("evaluation_best"):
        rows += best_rows(best)
    for stop in summary.get("stopped", []):
        reason = EarlyStop(**stop).text(run.settings)
        rows.append((f"seed {stop['seed']} stopped early", reason))
    for name, record in summary.get("initial", {}).items():
        shared = record["seeds"] == 1 < summary["seeds"]
        note = ", the same for all seeds: the interval is that of training alone" if shared else ""
        rows.append((f"initial {name}", f"that of {record['run']}{note}"))
    rows += [
        (
            f"{summary['unit']} of each seed",
            f"{'at most ' if 'stopped' in summary else ''}{summary['steps']:,}",
        ),
        ("steps a second, all seeds", f"{summary['train_steps_per_second']:,.0f}"),
        (
            "seconds, compiling included",
            f"{summary['wall_seconds']:.1f}, compiling {summary['compile_seconds']:.1f} of them",
        ),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def evaluation_rows(
    evaluation: dict[str, Any], training: dict[str, Any] | None = None
) -> list[tuple[str, str]]:
    """The rows of a table of evaluation results: returns, or the metrics of a model.

    `training` is that of summary.json: the returns of the latest training episodes.
    """
    if "metrics" in evaluation:
        return dataset_rows(evaluation)
    low, high = map(three_digits, evaluation["ci95"])
    seeds = len(evaluation["per_seed"])
    of_best = f", best checkpoint{best_steps(evaluation)}" if evaluation["which"] == "best" else ""
    rows = [
        (
            "evaluation",
            f"{evaluation['episodes']} episodes{' a seed' if seeds > 1 else ''} on "
            f"{evaluation['environment']}, {policy_text(evaluation)}{of_best}",
        ),
        ("return, IQM", f"{three_digits(evaluation['iqm'])}   95 % interval {low} to {high}"),
        (
            "return, mean ± std",
            f"{three_digits(evaluation['mean'])} ± {three_digits(evaluation['std'])}",
        ),
    ]
    rows += cut_off_rows(evaluation["cut"], evaluation["episodes"] * seeds, evaluation["max_steps"])
    if success := evaluation.get("success"):
        low, high = success["ci95"]
        interval = f"   95 % interval {low:.2f} to {high:.2f}" if seeds > 1 else ""
        rows.append(("success, IQM", f"{success['iqm']:.2f}{interval}"))
    rows += [
        measure_row(name, measure, seeds)
        for name, measure in evaluation.get("measures", {}).items()
    ]
    if seeds > 1:
        of_seeds = "  ".join(map(three_digits, evaluation["per_seed"]))
        rows.append(("return of each seed", of_seeds))
    if training is not None and differs_from_training(evaluation, training):
        rows.append(
            (
                "return in training",
                f"{three_digits(training['iqm'])} in the latest {sum(training['episodes'])} "
                "episodes: the policy that explores differs from the evaluated one by more "
                "than the interval (etude evaluate RUN --stochastic plays it)",
            )
        )
    return rows


def policy_text(evaluation: dict[str, Any]) -> str:
    """Which policy was evaluated, in words."""
    if evaluation["explore"]:
        return "stochastic policy"
    if evaluation["deterministic"]:
        return "deterministic policy"
    return "policy without exploration, which draws at random"


def measure_row(name: str, measure: dict[str, Any], seeds: int) -> tuple[str, str]:
    """The row of what the algorithm measures at the end of an episode, such as a distance."""
    low, high = map(three_digits, measure["ci95"])
    interval = f"95 % interval {low} to {high}"
    medians = "  ".join(map(three_digits, measure["medians"]))
    of_seeds = "median of each seed" if seeds > 1 else "median"
    return (
        f"final {name}, IQM",
        f"{three_digits(measure['iqm'])}   {interval}, {of_seeds} {medians}",
    )


def cut_off_rows(cut: int, episodes: int, max_steps: int) -> list[tuple[str, str]]:
    """The row that says how many episodes were cut off, and where; none where none was."""
    verb = "was" if cut == 1 else "were"
    text = f"{cut:,} of {episodes:,} episodes {verb} cut off at {max_steps:,} steps"
    return [("cut off", text)] if cut else []


def differs_from_training(evaluation: dict[str, Any], training: dict[str, Any]) -> bool:
    """Whether the policy that explores returns less, or more, than the deterministic one.

    The difference is larger than the evaluation's interval on that side, and than a twentieth of
    the larger return.
    """
    center, (low, high), explored = evaluation["iqm"], evaluation["ci95"], training["iqm"]
    is_outside = explored < low or explored > high
    return is_outside and abs(explored - center) > 0.05 * max(abs(explored), abs(center))


def best_rows(best: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of the best checkpoints, played on the episodes of the final evaluation."""
    low, high = map(three_digits, best["ci95"])
    return [
        ("best checkpoint", f"by the evaluations during training{best_steps(best)}"),
        ("its return, IQM", f"{three_digits(best['iqm'])}   95 % interval {low} to {high}"),
    ]


def best_steps(evaluation: dict[str, Any]) -> str:
    """The steps of the checkpoints that were evaluated, in brackets."""
    steps = ", ".join(f"{step:,}" for step in evaluation["steps"])
    return f" (step {steps})"


def dataset_rows(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of a table of an evaluation on a dataset: each metric's IQM over the seeds."""
    rows = [
        ("evaluation", f"{evaluation['dataset'] or 'an object'}, {evaluation['steps']:,} steps")
    ]
    for name, metric in evaluation["metrics"].items():
        low, high = map(three_digits, metric["ci95"])
        several = len(metric["per_seed"]) > 1
        interval = f"   95 % interval {low} to {high}" if several else ""
        rows.append((f"{name.replace('_', ' ')}, IQM", three_digits(metric["iqm"]) + interval))
    return rows


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    minutes, seconds_of_minute = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds_of_minute:02}"
