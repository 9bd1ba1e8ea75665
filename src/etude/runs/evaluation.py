"""Evaluation of the agents of a run: over whole episodes, or on a dataset if they do not act."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from etude.algorithms.protocol import Outside
from etude.data.dataset import Dataset
from etude.environments.backends.in_process import HostLimits
from etude.environments.protocol import Environment
from etude.errors import InvalidInput
from etude.keys import final_evaluation_key
from etude.reporting import statistics
from etude.rollout import bind_policy, copies_for, play_episodes
from etude.runs.interrupt import InterruptHandler
from etude.runs.settings import Settings
from etude.training import run_compiled
from etude.types import Array

Group = TypeVar("Group", bound=str)
SUCCESS_KEYS = ("iqm", "ci95", "per_seed")  # of the summary of success rates and of measures


class Episodes(NamedTuple):
    """What an evaluation of one policy played."""

    returns: np.ndarray  # [episode]
    lengths: np.ndarray  # [episode]
    cut: int  # the number of episodes that were cut off
    success: float | None  # the share of successes, None where episodes do not say
    measures: dict[str, np.ndarray]  # [episode] each, by name: what the algorithm tells of the end


class PolicyEvaluator:
    """Plays whole episodes of one policy after another, in one environment by one program.

    Episodes are played side by side, and cut off after `max_evaluation_steps`.
    """

    def __init__(self, settings: Settings, episodes: int, explore: bool = False):
        if episodes < 1:
            raise InvalidInput(f"episodes is {episodes}; it must be at least 1")
        self.episodes, self.max_steps = episodes, settings.max_evaluation_steps
        algorithm = settings.algorithm
        source, copies = settings.source, copies_for(episodes)
        self.environment = source.make(
            copies,
            source.evaluation_backend,
            limits=HostLimits(self.max_steps, episodes=episodes // copies),
        )

        def play(state, key):
            policy = bind_policy(algorithm, state, self.environment, explore)
            measure = partial(algorithm.final_measures, state)
            return play_episodes(self.environment, policy, key, episodes, measure)

        self._algorithm, self._play = algorithm, jax.jit(play)
        self._measure_names: tuple[str, ...] | None = None

    def evaluate(self, state: Any, key: Array) -> Episodes:
        """Play whole episodes of the policy in this state."""
        returns, lengths, measures = jax.device_get(run_compiled(self._play, state, key))
        cut = int((lengths >= self.max_steps).sum())
        success = success_rate(self.environment, self.episodes)
        return Episodes(returns, lengths, cut, success, measures)

    def cell_names(self, state: Any) -> tuple[str, ...]:
        """What a row of metrics has of an evaluation."""
        return ("return", "length", "cut", "success", *self.measure_names(state))

    def measure_names(self, state: Any) -> tuple[str, ...]:
        """The names of what the algorithm measures at the end of an episode, in their order."""

        def measure(state, key):
            spec = self.environment.spec
            observation = jax.tree.map(
                lambda x: jnp.broadcast_to(x, (spec.num_envs, *x.shape)), spec.observation.zeros()
            )
            memory = self._algorithm.initial_memory(state, spec, key)
            return self._algorithm.final_measures(state, memory, observation)

        if self._measure_names is None:
            self._measure_names = tuple(jax.eval_shape(measure, state, jax.random.key(0)))
        return self._measure_names

    def cells(self, state: Any, key: Array) -> dict[str, float]:
        """Mean return and length, episodes cut off, the share of successes, NaN if unknown, and the
        means of the measures."""
        episodes = self.evaluate(state, key)
        return {
            "return": float(episodes.returns.mean(dtype=float)),
            "length": float(episodes.lengths.mean()),
            "cut": episodes.cut,
            "success": math.nan if episodes.success is None else episodes.success,
            **{name: float(x.mean(dtype=float)) for name, x in episodes.measures.items()},
        }

    def close(self) -> None:
        self.environment.close()


class DatasetEvaluator:
    """Computes the metrics of one fitted model after another on one dataset."""

    environment: None = None

    def __init__(self, settings: Settings, dataset: Dataset):
        def metrics_of(state, key, outside):
            return settings.algorithm.evaluate(state, outside, key)

        self._metrics_of, self._outside = jax.jit(metrics_of), Outside(dataset=dataset)

    def cell_names(self, state: Any) -> tuple[str, ...]:
        """The names of the metrics of a model."""
        return tuple(jax.eval_shape(self._metrics_of, state, jax.random.key(0), self._outside))

    def cells(self, state: Any, key: Array) -> dict[str, float]:
        """The metrics of the model in this state, by name."""
        metrics = run_compiled(self._metrics_of, state, key, self._outside)
        return {name: float(value) for name, value in metrics.items()}

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def evaluate_policies(
    settings: Settings,
    states_by_name: Mapping[Group, Iterable[Any]],
    episodes: int,
    explore: bool,
    seed: int,
    interrupt: InterruptHandler | None,
) -> Iterator[tuple[Group, dict[str, Any]]]:
    """Yield what `Run.evaluate` returns, of whole episodes of the policies in each group of states.

    A group has a name, and a state of each seed. All groups play the same episodes, by one program.
    """
    with closing(PolicyEvaluator(settings, episodes, explore)) as evaluator:
        if interrupt is not None:
            interrupt.watch(evaluator.environment, cancel_after=0)
        for name, states in states_by_name.items():
            played = [
                evaluator.evaluate(state, final_evaluation_key(seed, i))
                for i, state in enumerate(states)
            ]
            yield name, summarize_evaluation(settings, explore, played)


def summarize_evaluation(
    settings: Settings, explore: bool, played: list[Episodes]
) -> dict[str, Any]:
    """What `Run.evaluate` returns, of the episodes of each seed."""
    action_space = settings.outline().spec.action
    rates = [[episodes.success] for episodes in played if episodes.success is not None]
    success = statistics.summarize_returns(rates) if len(rates) == len(played) else {}
    measures = {
        name: summarize_measure([episodes.measures[name] for episodes in played])
        for name in played[0].measures
    }
    return {
        "environment": settings.source.evaluated_on,
        "episodes": len(played[0].returns),
        "explore": explore,
        "deterministic": not explore and settings.algorithm.is_deterministic(action_space),
        "cut": sum(episodes.cut for episodes in played),
        "max_steps": settings.max_evaluation_steps,
        **statistics.summarize_returns([episodes.returns for episodes in played]),
        **({"success": {key: success[key] for key in SUCCESS_KEYS}} if success else {}),
        **({"measures": measures} if measures else {}),
    }


def summarize_measure(values: list[np.ndarray]) -> dict[str, Any]:
    """Statistics of a measure of the episodes of each seed, [seed][episode]: as those of success,
    and the median of each seed, which a few lost episodes do not move."""
    summary = statistics.summarize_returns(values)
    medians = [float(np.median(of_seed)) for of_seed in values]
    return {**{key: summary[key] for key in SUCCESS_KEYS}, "medians": medians}


def success_rate(environment: Environment, episodes: int) -> float | None:
    """The share of successes among the episodes just evaluated; None where they do not say."""
    per_environment = episodes // environment.spec.num_envs
    flags = [row[:per_environment] for row in environment.successes()]
    is_known = bool(flags) and all(len(row) == per_environment for row in flags)
    return sum(map(sum, flags)) / episodes if is_known else None


def evaluate_on_dataset(
    settings: Settings, states: Iterable[Any], dataset: Dataset, path: str, seed: int
) -> dict[str, Any]:
    """What `Run.evaluate` returns, of the metrics of each state [seed] on a dataset."""
    evaluator = DatasetEvaluator(settings, dataset)
    metrics = [
        evaluator.cells(state, final_evaluation_key(seed, i)) for i, state in enumerate(states)
    ]
    return {
        "dataset": path,
        "steps": dataset.num_steps,
        "metrics": {
            name: statistics.summarize_returns([[row[name]] for row in metrics])
            for name in metrics[0]
        },
    }
