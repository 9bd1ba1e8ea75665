"""Rounds of training that a learner plays in a window, where a person takes over and gives back.

Each round is played step by step, between two updates, with what the person holds as an argument of
the step that is compiled. Where the person stops, the learner plays the round to its end by itself,
without labels, so that what was labelled is learned from and saved.
"""

import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.algorithms.protocol import Algorithm, Outside, outside_arguments
from etude.environments.protocol import Environment
from etude.errors import InvalidInput
from etude.recording.bindings import is_turn_based
from etude.recording.controls import make_controls
from etude.recording.play import (
    IDLE,
    Pace,
    environment_faults,
    frames_per_second,
    handle_event,
    key_legend,
    picture_of,
)
from etude.recording.session import Interventions
from etude.recording.window import Panel, Window, check_screen
from etude.rollout import EpisodeSums, bind_policy, rollout
from etude.runs.interrupt import InterruptHandler
from etude.runs.options import PERSON
from etude.runs.settings import Settings
from etude.spaces import from_environment_action
from etude.struct import replace
from etude.training import TrainState, accumulate, run_compiled, split_run_key
from etude.types import Array


def check_interventions(settings: Settings) -> None:
    """Raise InvalidInput where a person cannot be the expert of a run with these settings."""
    if not settings.algorithm.takes_interventions:
        raise InvalidInput(
            f"expert is {PERSON}, who acts and labels only now and then, and {settings.name} asks "
            "its expert at every step; record the person with `etude record` instead"
        )
    for name, most in (("seeds", 1), ("num_envs", 1), ("workers", 0)):
        if (value := getattr(settings, name)) > most:
            raise InvalidInput(
                f"{name} is {value}, and the expert is a person, who plays in one environment; "
                f"give {most}"
            )
    if settings.backend != "gymnasium":
        raise InvalidInput(
            f"backend is {settings.backend!r}, and the expert is a person, who needs pictures, "
            "which Gymnasium draws; leave it out, or give an environment of Gymnasium"
        )
    make_controls(settings.outline().spec, settings.keys, 1.0)  # the keys fit
    settings.source.check_pictures("rgb_array")
    check_screen("a person needs one to play; take another expert here")


class PersonRollout:
    """Plays rollouts in a window.

    The person has control as the first round begins, for the learner knows nothing yet, and the
    learner as each later round does. Tab changes that at any time.
    """

    def __init__(self, settings: Settings, environment: Environment, interrupt: InterruptHandler):
        self.settings, self.environment, self.interrupt = settings, environment, interrupt
        vector_env: Any = environment.vector_env  # type: ignore[attr-defined]
        self.env = vector_env.envs[0]
        self.window = Window()
        self.session = Interventions(step_per_key=is_turn_based(environment.spec.id))
        frames = frames_per_second(self.env)
        self.pace = Pace(settings.speed * frames)
        self.controls = make_controls(environment.spec, settings.keys, frames)
        self.round_steps: int = settings.algorithm.rollout_length
        self.play_step: Any = None  # compiled before the first round begins

    def make_chunk(
        self,
        algorithm: Algorithm,
        environment: Environment,
        train_state: TrainState,
        key: Array,
        row_every: int,
        outside: Outside,
    ) -> Callable[..., TrainState]:
        """In place of `etude.training.compile_chunk`: rounds that are played, between updates."""

        @partial(jax.jit, donate_argnums=0)
        def learn(train_state, rollout_state, experience, episodes, key, is_row_start, outside):
            algorithm_state, metrics = algorithm.update(
                train_state.algorithm_state, experience, key, *outside_arguments(algorithm, outside)
            )
            metric_sums = jax.tree.map(
                lambda x: jnp.where(is_row_start, jnp.zeros_like(x), x), train_state.metric_sums
            )
            metric_sums = accumulate(metric_sums, episodes, metrics)
            return TrainState(algorithm_state, rollout_state, metric_sums)

        def run(train_state, key, start, stop, outside):
            for index in range(start, stop):
                iterations = split_run_key(key).iterations
                key_rollout, key_update = jax.random.split(jax.random.fold_in(iterations, index))
                played = self.play_round(index, train_state, key_rollout, outside)
                is_row_start = index == start and start % row_every == 0
                train_state = learn(train_state, *played, key_update, is_row_start, outside)
            return train_state

        return run

    def play_round(
        self, rounds: int, train_state: TrainState, key: Array, outside: Outside
    ) -> tuple[Any, Any, EpisodeSums]:
        """The next round, after `rounds` others.

        Returns the rollout state, transitions [time, 1, ...] and the sums over its episodes.
        """
        state, rollout_state = train_state.algorithm_state, train_state.rollout_state
        if self.play_step is None:
            step = jax.jit(partial(take_step, self.settings.algorithm, self.environment))
            self.play_step = step.lower(state, rollout_state, key, self._held(outside)).compile()
        session = self.session
        session.begin_round()
        session.has_control = rounds == 0 and session.phase != "stopped"
        self.controls.release_all()
        steps, totals = [], []
        for time in range(self.round_steps):
            self._wait(rounds, _return_of(rollout_state))
            held = self._held(outside)
            rollout_state, transition, sums = run_compiled(
                self.play_step, state, rollout_state, jax.random.fold_in(key, time), held
            )
            session.add_step()
            self.pace.advance()
            steps.append(jax.device_get(transition))
            totals.append(jax.device_get(sums))
        if session.phase != "stopped":
            self._show(rounds, _return_of(rollout_state), learning=True)
        experience = jax.tree.map(lambda *rows: np.concatenate(rows), *steps)
        return rollout_state, experience, jax.tree.map(lambda *x: np.sum(x, 0), *totals)

    def close(self) -> None:
        """Close the window."""
        self.window.close()

    def _wait(self, rounds: int, episode_return: float) -> None:
        """Show the window, and do what the person asks for, until the next step is due."""
        session = self.session
        while session.phase != "stopped":
            if self.interrupt.signal is not None:
                session.command("stop")
                break
            self._show(rounds, episode_return)
            left = self.pace.seconds_left()
            for event in self.window.events(min(IDLE, left) if session.is_step_due else IDLE):
                handle_event(event, self.controls, session)
            if session.is_step_due and (session.single_steps or not self.pace.seconds_left()):
                return
        if self.interrupt.signal is None:
            self.interrupt.signal = signal.SIGINT
        self.window.close()

    def _held(self, outside: Outside) -> Outside:
        """What reaches the step from outside: the person's action, zeros without control."""
        space, expert = self.environment.spec.action, outside.expert
        assert expert is not None  # as a run that a person plays has
        action = np.asarray(from_environment_action(space, np.asarray(self.controls.action())))
        has_control = np.array([self.session.has_control])
        state = np.where(has_control, action, 0).astype(expert.state.dtype)
        state = state.reshape(expert.state.shape)
        return replace(outside, expert=replace(expert, state=state, has_control=has_control))

    def _show(self, rounds: int, episode_return: float, learning: bool = False) -> None:
        session, of_all = self.session, f"of {self.round_steps:,}"
        plays = "you play" if session.has_control else "the learner plays"
        status = {"ready": f"press a key: {plays}", "playing": plays, "paused": f"paused: {plays}"}
        tone = "playing" if session.has_control else "learner"
        panel = Panel(
            "learning" if learning else status[session.phase],
            "paused" if session.phase == "paused" or learning else tone,
            f"return {episode_return:.1f}",
            f"round {rounds + 1} of {self.settings.iterations}     step {session.steps:,} {of_all}"
            f"     {session.labels:,} labels",
            key_legend(self.controls),
            ("Tab  take over, or give back", "Space  pause", ".  one step", "Esc  stop and save"),
        )
        title = f"{self.settings.title} – round {rounds + 1}"
        with environment_faults(f"step {session.steps} of round {rounds + 1}, at its picture"):
            picture = picture_of(self.env)
        self.window.show(picture, panel, title)


def _return_of(rollout_state: Any) -> float:
    """The return of the running episode."""
    return float(np.asarray(rollout_state.episode_return)[0])


def take_step(
    algorithm: Any,
    environment: Environment,
    state: Any,
    rollout_state: Any,
    key: Array,
    outside: Outside,
) -> tuple[Any, Any, EpisodeSums]:
    """A rollout of one step, with what reaches the policy from outside."""
    policy = bind_policy(algorithm, state, environment, explore=True, outside=outside)
    return rollout(environment, policy, rollout_state, key, length=1)
