"""Evaluation of the agents of a run: over whole episodes, or on a dataset if they do not act."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from etude.algorithms.protocol import Outside
from etude.data.dataset import Dataset
from etude.environments.backends.in_process import HostLimits
from etude.environments.protocol import Environment
from etude.errors import InvalidInput
from etude.keys import FINAL_EVALUATION
from etude.reporting import statistics
from etude.rollout import bind_policy, copies_for, evaluate
from etude.runs.interrupt import InterruptHandler
from etude.runs.settings import Settings
from etude.training import run_compiled
from etude.types import Array

Group = TypeVar("Group", bound=str)
SUCCESS_KEYS = ("iqm", "ci95", "per_seed")  # of the summary of success rates


class Episodes(NamedTuple):
    """What an evaluation of one policy played."""

    returns: np.ndarray  # [episode]
    lengths: np.ndarray  # [episode]
    cut: int  # the number of episodes that were cut off
    success: float | None  # the share of successes, None where episodes do not say


class PolicyEvaluator:
    """Plays whole episodes of one policy after another, in one environment by one program.

    Episodes are played side by side, and cut off after `max_evaluation_steps`.
    """

    def __init__(self, settings: Settings, episodes: int, explore: bool = False):
        if episodes < 1:
            raise InvalidInput(f"episodes is {episodes}; it must be at least 1")
        self.episodes, self.max_steps = episodes, settings.max_evaluation_steps
        source, copies = settings.source, copies_for(episodes)
        self.environment = source.make(
            copies,
            source.evaluation_backend,
            limits=HostLimits(self.max_steps, episodes=episodes // copies),
        )

        def play(state, key):
            policy = bind_policy(settings.algorithm, state, self.environment, explore)
            return evaluate(self.environment, policy, key, episodes)

        self._play = jax.jit(play)

    def evaluate(self, state: Any, key: Array) -> Episodes:
        """Play whole episodes of the policy in this state."""
        returns, lengths = map(np.asarray, run_compiled(self._play, state, key))
        cut = int((lengths >= self.max_steps).sum())
        return Episodes(returns, lengths, cut, success_rate(self.environment, self.episodes))

    def cell_names(self, state: Any) -> tuple[str, ...]:
        """What a row of metrics has of an evaluation."""
        return ("return", "length", "cut", "success")

    def cells(self, state: Any, key: Array) -> dict[str, float]:
        """Mean return and length, episodes cut off and the share of successes, NaN if unknown."""
        episodes = self.evaluate(state, key)
        return {
            "return": float(episodes.returns.mean(dtype=float)),
            "length": float(episodes.lengths.mean()),
            "cut": episodes.cut,
            "success": math.nan if episodes.success is None else episodes.success,
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
    rates = [[episodes.success] for episodes in played if episodes.success is not None]
    success = statistics.summarize_returns(rates) if len(rates) == len(played) else {}
    return {
        "environment": settings.source.evaluated_on,
        "episodes": len(played[0].returns),
        "deterministic": not explore,
        "cut": sum(episodes.cut for episodes in played),
        "max_steps": settings.max_evaluation_steps,
        **statistics.summarize_returns([episodes.returns for episodes in played]),
        **({"success": {key: success[key] for key in SUCCESS_KEYS}} if success else {}),
    }


def final_evaluation_key(seed: int, number: int) -> Array:
    """The key of the episodes of the policy `number` in an evaluation with this seed."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), FINAL_EVALUATION), number)


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
