"""Training: from what a person asks for to the settings of a run, and through its budget."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import gymnasium
import jax

from etude.algorithms import ALGORITHMS, algorithm_factory, registered_name
from etude.algorithms.protocol import Outside, check_algorithm, init_state
from etude.cores import num_cores
from etude.counters import MAX_ROW_LENGTH
from etude.environments.backends.host_goal_reward import HostGoalReward
from etude.environments.goals import check_goal_reward, goal_reward_for
from etude.environments.sources import EnvironmentLike, EnvironmentSource, environment_source
from etude.errors import InvalidInput
from etude.presets import preset
from etude.runs.config import from_json, read_config, start_as_before, to_json, write_config
from etude.runs.defaults import defaults_for
from etude.runs.display import Display, display_for
from etude.runs.experts import ExpertLike, check_expert, expert_name, open_expert, reopen_expert
from etude.runs.initial import start_from
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.runs.interventions import check_interventions
from etude.runs.job import train_job
from etude.runs.job_checkpoints import has_checkpoint, metrics_fault, newest_metadata, restore_job
from etude.runs.job_progress import ProgressEvent
from etude.runs.known_steps import check_known_steps
from etude.runs.options import SOLVED, RecordedOptions, RunOptions, is_person, make_options
from etude.runs.outside import (
    DatasetLike,
    check_next_observations,
    describe,
    open_dataset,
    reopen_dataset,
    use_dataset,
)
from etude.runs.periodic_evaluation import records_in
from etude.runs.processes import train_jobs
from etude.runs.run import Run, create_run, load_beside, remove_if_untrained
from etude.runs.settings import Settings, spaces_text
from etude.runs.stopping import early_stops
from etude.runs.threads import choose_threads, start_with
from etude.runs.torsos import TorsoLike, torso_of, with_torso
from etude.runs.versions import environment_changes
from etude.runs.video import record_video
from etude.storage import files
from etude.storage.metrics_csv import read_metrics
from etude.storage.writer_lock import sole_writer
from etude.struct import replace

ROWS, CHECKPOINTS = 100, 10  # approximate numbers in a run


def train(
    algorithm: Any, environment: EnvironmentLike, *, progress: bool = True, **options: Any
) -> Run:
    """Train an algorithm on an environment, evaluate it and leave a run directory.

    Args:
        algorithm: a registered name, such as "dqn", with the preset for the environment as on the
            command line; or an instance or a class, of etude's or of your own (see
            `etude.algorithm`), with its own settings.
        environment: a Gymnasium id, or module:Name to import the module that registers it; or a
            function (or class) that returns a new `gymnasium.Env` when called without arguments;
            or an environment written in JAX, an object with the protocol
            `etude.environments.protocol.JaxEnvironment`. Policies are evaluated on the Gymnasium
            environment of an id, and on an object itself. A run on an object is resumed from
            Python alone: `etude.resume(path, environment=...)`.
        progress: show the progress.
        options: those of `etude.runs.options.RunOptions`, which are the flags of `etude train`:
            steps, seeds, num_envs and the others.

    Returns:
        The run.

    Raises:
        InvalidInput: for arguments that do not fit.
        EnvironmentFault: where the environment fails.
        Diverged: where a loss or a weight stops being finite.
        Interrupted: after Ctrl-C.
    """
    name, note = None, ""
    if isinstance(algorithm, str):
        name = algorithm
        has_dataset = options.get("dataset") is not None
        algorithm, defaults = defaults_for(name, environment, has_dataset)
        options = defaults | options
    else:
        algorithm = algorithm() if callable(algorithm) else algorithm  # of a class, its defaults
        check_algorithm(algorithm)
        note = preset_note(algorithm, environment)
    return train_new(algorithm, environment, make_options(options), name, progress, note)


def train_new(
    algorithm: Any,
    environment: EnvironmentLike,
    options: RunOptions,
    name: str | None = None,
    progress: bool = True,
    note: str = "",
) -> Run:
    """Make a run directory and train in it, as its only writer; see `resolve_settings`.

    Where training is refused, or fails before a step of it is kept, nothing is left behind. `note`
    is told at the start.
    """
    # before an environment can change the working directory
    out = None if options.out is None else Path(options.out).absolute()
    settings = resolve_settings(algorithm, environment, options, name)
    if options.video:
        check_video(settings)
    existed = out is not None and out.exists()
    run = create_run(settings, out)
    try:
        with sole_writer(run.directory), remove_if_untrained(run):
            display = display_for(run, progress)
            if note:
                display.warn(note)
            return run_training(run, display, options.video)
    finally:
        if not existed:
            with suppress(OSError):  # raised where something is in it
                run.directory.rmdir()


def check_video(settings: Settings) -> None:
    """Raise InvalidInput where there will be nothing to see in a video."""
    if not settings.acts:
        raise InvalidInput(
            f"video is True, and {settings.name} has nothing to act with; leave it out"
        )
    settings.source.check_pictures("rgb_array")


def preset_note(algorithm: Any, environment: EnvironmentLike) -> str:
    """What a user who gives an algorithm with its defaults should know of its preset; else ""."""
    name = registered_name(algorithm)
    if (
        name not in ALGORITHMS
        or algorithm != algorithm_factory(name)()
        or not isinstance(environment, str)
        or preset(name, environment) is None
    ):
        return ""
    return (
        f"{name} runs with its general defaults; there is a preset for {environment}, which "
        f"etude.train({name!r}, {environment!r}) takes"
    )


def resolve_settings(
    algorithm: Any, environment: EnvironmentLike, options: RunOptions, name: str | None = None
) -> Settings:
    """Return the settings of a run, checked as far as possible without training.

    `name` is the registered name of the algorithm; when None, the most specific one that fits.
    """
    check_algorithm(algorithm)
    options.validate_fields()
    name = name or registered_name(algorithm)
    algorithm = with_torso(algorithm, name, options.torso)
    algorithm = use_dataset(algorithm, name, options.dataset)
    check_expert(algorithm, name, options.expert)
    source = environment_source(
        environment,
        options.options,
        options.frame_stack,
        options.action_masks,
        options.environment_timeout,
    )
    recorded = {
        field.name: getattr(options, field.name) for field in dataclasses.fields(RecordedOptions)
    }
    num_envs = options.num_envs or algorithm.default_num_envs
    if not algorithm.plays:
        check_unplayed(name, algorithm, options)
    settings = Settings(
        **recorded
        | {
            "num_envs": num_envs,
            "backend": backend_of_training(source, options) if algorithm.plays else "none",
            "until": reward_threshold(source) if options.until == SOLVED else options.until,
        },
        name=name,
        algorithm=algorithm,
        source=source,
        environment=source.name,
        environment_kind=source.kind,
    )
    settings.validate_fields()
    spec = settings.outline().spec
    threads = choose_threads(
        options.threads, algorithm, spec, settings.backend, settings.seeds, settings.in_one_program
    )
    settings = replace(settings, threads=threads)
    start_with(threads)
    if settings.algorithm.assumes.goals and settings.frame_stack > 1:
        raise InvalidInput(
            f"frame_stack is {settings.frame_stack}, and {name} reaches goals, of which a stack is "
            "none; leave it out"
        )
    if options.dataset is not None:
        dataset, record, notes = open_dataset(options.dataset, spec)
        check_next_observations(algorithm, name, dataset)
        settings = replace(
            settings, dataset=record, dataset_notes=notes, outside=Outside(dataset=dataset)
        )
    if is_person(options.expert):
        check_interventions(settings)
    if options.expert is not None:
        torso = torso_of(algorithm)
        expert, of_expert = open_expert(options.expert, environment, spec, settings.seed, torso)
        settings = replace(
            settings, expert=of_expert, outside=replace(settings.outside, expert=expert)
        )
    settings.algorithm.check_outside(settings.outside)
    settings = replace(settings, spaces=spaces_text(spec))
    if options.initial:
        runs = load_all(options.initial, environment, torso_of(algorithm))
        settings = start_from(settings, runs)
        settings.validate_fields()
    # raises InvalidInput where the algorithm does not take the spaces
    init = partial(init_state, settings.algorithm, spec=spec, name=name)
    jax.eval_shape(init, jax.random.key(0), outside=settings.outside)
    check_budget(settings)
    check_known_steps(settings)
    if settings.algorithm.assumes.goals:
        check_goals(settings)
    row_every = choose_row_every(settings)
    checkpoint_every = settings.iterations / CHECKPOINTS
    if options.checkpoint_interval is not None:
        checkpoint_every = options.checkpoint_interval / settings.steps_per_iteration
    rows_per_checkpoint = max(1, round(checkpoint_every / row_every))
    return replace(settings, row_every=row_every, checkpoint_every=rows_per_checkpoint * row_every)


def backend_of_training(source: EnvironmentSource, options: RunOptions) -> str:
    """The backend of training; a person, who needs pictures, plays on that of evaluation."""
    asked: str = options.backend
    if is_person(options.expert) and asked == "auto":
        asked = source.evaluation_backend
    return source.choose_backend(asked, options.workers)


def choose_row_every(settings: Settings) -> int:
    """Iterations of a row of metrics: about a hundredth of all.

    With evaluations during training, which stand at the ends of rows, a row is up to a half shorter
    where the steps between evaluations are then nearer to those that were asked for.
    """
    row_every = min(max(1, settings.iterations // ROWS), MAX_ROW_LENGTH)
    if settings.evaluate_every is None:
        return row_every
    wanted = settings.evaluate_every / settings.steps_per_iteration
    row_every = max(1, min(row_every, round(wanted)))

    def error(row_every: int) -> float:
        return abs(row_every * max(1, round(wanted / row_every)) - wanted)

    return min(range(row_every, row_every // 2, -1), key=error)


def reward_threshold(source: EnvironmentSource) -> float:
    """The mean return from which Gymnasium calls an environment solved.

    Raises InvalidInput where there is none.
    """
    threshold = None
    if source.kind == "id":
        spec = source.outline(1, source.evaluation_backend).spec
        threshold = gymnasium.spec(spec.id).reward_threshold
    if threshold is None:
        raise InvalidInput(
            f"until is {SOLVED}, and Gymnasium has no reward threshold for {source.name}; give the "
            "mean return that is asked for"
        )
    return float(threshold)


def check_budget(settings: Settings) -> None:
    """Raise InvalidInput for a budget that ends before anything is learned."""
    needed, reason = settings.algorithm.first_update(settings.num_envs)
    if settings.algorithm.learns and settings.trained_steps < needed:
        raise InvalidInput(
            f"steps is {settings.steps:,}, and {settings.name} learns nothing before {needed:,} "
            f"({reason}); give more steps, or a smaller {reason.split()[0]}"
        )


def check_goals(settings: Settings) -> None:
    """Raise InvalidInput where the reward of goals is not known, cannot be had, or is not right."""
    spec, source = settings.outline().spec, settings.source
    reward = goal_reward_for(spec)
    calls_python = isinstance(reward, HostGoalReward)
    if calls_python and settings.in_one_program and settings.seeds > 1:
        why = "are on a JAX environment" if settings.plays else "learn from a dataset"
        raise InvalidInput(
            f"seeds is {settings.seeds}, and all of them train in one program, since they {why}; "
            f"the reward of goals of {source.name} is computed in Python, which such a program "
            "cannot call. Train them one by one, with --seeds 1 and another --seed, or give the "
            "reward in JAX with etude.register_goal_reward"
        )
    backend = settings.backend if settings.plays else source.evaluation_backend
    # that of Gymnasium's environment of an id: the JAX port's may be another
    own = source.outline(1, source.evaluation_backend).spec.goal_reward
    with closing(source.make(1, backend)) as environment:
        check_goal_reward(environment, source.name, own)


def load_all(
    initial: dict[str, Any], environment: EnvironmentLike, torso: TorsoLike | None
) -> dict[str, Run]:
    """The runs to start from; each is a Run or the directory of one on this environment.

    A run that has a torso has this one.

    Raises InvalidInput for what is neither.
    """
    for name, run in initial.items():
        if not isinstance(run, Run | str | Path):
            raise InvalidInput(f"initial {name} is {run!r}; give a Run, or the directory of one")
    return {
        name: run if isinstance(run, Run) else load_beside(Path(run), environment, torso)
        for name, run in initial.items()
    }


def check_unplayed(name: str, algorithm: Any, options: RunOptions) -> None:
    """Raise InvalidInput for options of environments that an algorithm does not play in."""
    defaults = RunOptions(num_envs=algorithm.default_num_envs)
    for option in ("backend", "workers", "num_envs"):
        value = getattr(options, option)
        if value is not None and value != getattr(defaults, option):
            raise InvalidInput(
                f"{option} is {value!r}, and {name} does not play here: it learns from a dataset; "
                "leave it out"
            )


def resume(
    path: str | Path,
    steps: int | None = None,
    *,
    algorithm: Any = None,
    environment: EnvironmentLike | None = None,
    torso: TorsoLike | None = None,
    dataset: DatasetLike | None = None,
    expert: ExpertLike | None = None,
    video: bool = False,
    progress: bool = True,
) -> Run:
    """Resume a run from its newest checkpoint, to its budget or to a larger one of `steps`.

    Args:
        path, algorithm, environment, torso: see `load`.
        steps: a larger budget of steps of each seed.
        dataset: the dataset of the run, if its file is no longer where it was.
        expert: the expert of the run, if it is a function or an object of yours, or a run that is
            no longer where it was.
        video: record a video of an episode at the end.
        progress: show the progress.

    Returns:
        The run.

    Raises:
        InvalidInput: as `load`; for a run that is complete, without a larger budget; and for one
            that another process trains.
    """
    directory = Path(path).absolute()
    read_config(directory)  # a lock is for runs alone
    with sole_writer(directory):
        config = read_config(directory)
        start_as_before(config)
        run = Run(directory, from_json(config, algorithm, environment, torso))
        rules = run.settings.until, run.settings.patience
        run = ready_to_resume(run, steps, environment, dataset, expert, video)
        # nothing is written before all is found to fit
        if steps is not None:
            began = {key: config[key] for key in ("versions", "machine")}
            # the summary first, for it says that the budget in config.json is trained
            (directory / "summary.json").unlink(missing_ok=True)
            write_config(directory, to_json(run.settings) | began)
        display = display_for(run, progress)
        if rules != (run.settings.until, run.settings.patience):
            display.warn(
                f"this run stopped early; it goes on to {run.settings.steps:,} "
                f"{run.settings.unit}, and nothing stops it early again"
            )
        if changes := environment_changes(config):
            display.warn(
                f"this run began elsewhere ({'; '.join(changes)}): it goes on, but not bit "
                "for bit as it would have there"
            )
        elif (cores := config["machine"].get("cores")) != num_cores():
            display.note(
                f"this run began with {cores} cores, and here are {num_cores()}: it goes on bit "
                f"for bit, since XLA computes with as many threads ({run.settings.threads})"
            )
        return run_training(run, display, video)


def ready_to_resume(
    run: Run,
    steps: int | None,
    environment: EnvironmentLike | None,
    dataset: DatasetLike | None,
    expert: ExpertLike | None,
    video: bool,
) -> Run:
    """The run with all that it needs to go on; see `resume`.

    Raises InvalidInput where it cannot go on. Nothing is changed.
    """
    files.refuse_links(run.directory)
    if video:
        check_video(run.settings)
    if steps is not None:
        run = run.with_settings(larger_budget(run, steps))
    elif (run.directory / "summary.json").exists():
        raise InvalidInput(
            f"{run.shown_directory} is complete at {run.summary['steps']:,} {run.settings.unit}; "
            "give --steps to go on further"
        )
    if record := run.settings.dataset:
        opened = reopen_dataset(record, dataset, run.settings.outline().spec)
        check_next_observations(run.settings.algorithm, run.settings.name, opened)
        run = run.with_settings(replace(run.settings, outside=Outside(dataset=opened)))
    elif dataset is not None:
        raise InvalidInput(f"dataset is {describe(dataset)}, and this run reads none; leave it out")
    if of_expert := run.settings.expert:
        there = run.settings.environment if environment is None else environment
        if run.settings.is_played:
            check_interventions(run.settings)
        made = reopen_expert(
            of_expert,
            expert,
            there,
            run.settings.outline().spec,
            run.settings.seed,
            torso_of(run.settings.algorithm),
        )
        outside = replace(run.settings.outside, expert=made)
        run = run.with_settings(replace(run.settings, outside=outside))
    elif expert is not None:
        raise InvalidInput(
            f"expert is {expert_name(expert)}, and this run needs none; leave it out"
        )
    if run.settings.initial and not all(has_checkpoint(job) for job in run.jobs):
        run = run.with_settings(restart_from(run.settings, environment))
    for job in run.jobs:
        _, metadata = restore_job(run.settings, job, run.settings.outline(), lambda text: None)
        metrics_fault(job, metadata)
        if job.metrics_path.exists():  # raises CorruptFile for what are no rows
            read_metrics(job.metrics_path)
    return run


def restart_from(settings: Settings, environment: EnvironmentLike | None) -> Settings:
    """The settings of a run without a checkpoint, with what it starts from.

    Raises InvalidInput where the runs that it starts from are gone, or have trained on since.
    """
    for name, record in settings.initial.items():
        if not (Path(record.run) / "config.json").is_file():
            raise InvalidInput(
                f"this run starts with the {name} of {record.run}, which is not there; put it "
                "back, or start a new run from another"
            )
    there = settings.environment if environment is None else environment
    directories = {name: record.run for name, record in settings.initial.items()}
    runs = load_all(directories, there, torso_of(settings.algorithm))
    started = start_from(replace(settings, initial={}), runs)
    for name, record in settings.initial.items():
        if started.initial[name].sha256 != record.sha256:
            raise InvalidInput(
                f"this run starts with the {name} of {record.run}, which has changed since; start "
                "a new run from it"
            )
    return replace(started, algorithm=settings.algorithm)


def larger_budget(run: Run, steps: int) -> Settings:
    """The settings of the run with a budget of `steps`.

    A run of which every seed stopped early goes on without the rules that ended it. Raises
    InvalidInput for fewer than it has, and for as many where it is complete.
    """
    old_settings = run.settings
    settings = replace(old_settings, steps=steps)
    settings.validate_fields()
    is_complete = (run.directory / "summary.json").exists()
    if (stopped_at := step_of_early_stop(run)) is not None:
        if settings.trained_steps <= stopped_at:
            raise InvalidInput(
                f"steps is {steps}; {run.shown_directory} stopped early, at {stopped_at:,}, so "
                "give more than that"
            )
        # what ended it has come about
        return replace(settings, until=None, patience=None)
    if settings.iterations < old_settings.iterations or (
        is_complete and settings.iterations == old_settings.iterations
    ):
        raise InvalidInput(
            f"steps is {steps}; {run.shown_directory} has a budget of {old_settings.steps:,} "
            "already, so give more than that"
        )
    return settings


def step_of_early_stop(run: Run) -> int | None:
    """The step at which the last of the run's jobs stopped early; None where one of them did not.

    Their checkpoints say so, also before the run has been evaluated.
    """
    steps = []
    for job in run.jobs:
        metadata = newest_metadata(run.settings, job)
        if not metadata or not early_stops(
            run.settings, job.seeds, records_in(metadata, job.seeds)
        ):
            return None
        steps.append(metadata["steps"])
    return max(steps)


def run_training(run: Run, display: Display, video: bool = False) -> Run:
    """Train to the end of the budget, evaluate, and report."""
    start_time, interrupt = time.perf_counter(), InterruptHandler()
    latest_events: dict[tuple[int, ...], ProgressEvent] = {}
    compiled_before, is_complete = 0.0, False
    try:
        with interrupt, display:
            settings = run.settings
            for remark in settings.algorithm.remarks(settings.num_envs, settings.trained_steps):
                display.warn(remark)
            for note in settings.dataset_notes:
                display.warn(f"of the dataset: {note}")
            for event in run_jobs(run, interrupt, display.warn):
                if event.seeds not in latest_events and not event.metrics:  # of a resumed job
                    compiled_before += event.compile_seconds
                latest_events[event.seeds] = event
                display.show(event)
            events = list(latest_events.values())
            run.finish(events, display, interrupt, start_time, compiled_before)
            is_complete = True
            if video:
                display.note("recording a video")
                record_video(run, run.directory / "video")
    except (Interrupted, KeyboardInterrupt) as stopped:
        if is_complete:
            reason = "stopped in the video; the run is complete"
            raise Interrupted(reason, interrupt.signal) from None
        is_trained = len(latest_events) == len(run.jobs) and all(
            event.stops or event.steps >= run.settings.trained_steps
            for event in latest_events.values()
        )
        moment = "in the evaluation; training is complete and saved"
        reason = str(stopped) or f"stopped {moment if is_trained else 'before it began'}"
        raise Interrupted(f"{reason}. Go on with: {run.resume_command}", interrupt.signal) from None
    display.report(run)
    return run


def run_jobs(
    run: Run, interrupt: InterruptHandler, warn: Callable[[str], None]
) -> Iterator[ProgressEvent]:
    """Train all jobs and yield their events: in parallel, or one after another in this process."""
    if run.is_parallel:
        return train_jobs(run.settings, run.jobs, interrupt, warn)
    return chain.from_iterable(train_job(run.settings, job, interrupt, warn) for job in run.jobs)
