"""Evaluation of the agents of a run: over whole episodes, or on a dataset if they do not act."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import jax
import numpy as np

from etude.algorithms.protocol import Outside
from etude.data.dataset import Dataset
from etude.environments.protocol import Environment
from etude.errors import InvalidInput
from etude.reporting import statistics
from etude.rollout import bind_policy, copies_for, evaluate
from etude.runs.interrupt import InterruptHandler
from etude.runs.settings import Settings
from etude.training import run_compiled
from etude.types import Array

SUCCESS_KEYS = ("iqm", "ci95", "per_seed")  # of the summary of success rates


def evaluate_policies(
    settings: Settings,
    states: list[Any],
    episodes: int,
    explore: bool,
    seed: int,
    interrupt: InterruptHandler | None,
) -> dict[str, Any]:
    """What `Run.evaluate` returns, of whole episodes of the policy in each state [seed]."""
    if episodes < 1:
        raise InvalidInput(f"episodes is {episodes}; it must be at least 1")
    source = settings.source
    environment = source.make(copies_for(episodes), source.evaluation_backend)
    if interrupt is not None:
        interrupt.watch(environment, patience=0)

    def returns_of(state, key):
        policy = bind_policy(settings.algorithm, state, environment, explore)
        return evaluate(environment, policy, key, episodes)[0]

    returns, rates = [], []
    with closing(environment):
        for row in _of_each_seed(returns_of, states, seed):
            returns.append(row.tolist())
            rates.append(success_rate(environment, episodes))
    known_rates = [[rate] for rate in rates if rate is not None]
    success = statistics.summarize_returns(known_rates) if len(known_rates) == len(rates) else {}
    return {
        "environment": source.evaluated_on,
        "episodes": episodes,
        "deterministic": not explore,
        **statistics.summarize_returns(returns),
        **({"success": {key: success[key] for key in SUCCESS_KEYS}} if success else {}),
    }


def success_rate(environment: Environment, episodes: int) -> float | None:
    """The share of successes among the episodes just evaluated; None where they do not say."""
    per_environment = episodes // environment.spec.num_envs
    flags = [row[:per_environment] for row in environment.successes()]
    is_known = bool(flags) and all(len(row) == per_environment for row in flags)
    return sum(map(sum, flags)) / episodes if is_known else None


def evaluate_on_dataset(
    settings: Settings, states: list[Any], dataset: Dataset, path: str, seed: int
) -> dict[str, Any]:
    """What `Run.evaluate` returns, of the metrics of each state [seed] on a dataset."""

    def metrics_of(state, key, outside):
        return settings.algorithm.evaluate(state, outside, key)

    metrics = list(_of_each_seed(metrics_of, states, seed, Outside(dataset=dataset)))
    return {
        "dataset": path,
        "steps": dataset.num_steps,
        "metrics": {
            name: statistics.summarize_returns([[row[name]] for row in metrics])
            for name in metrics[0]
        },
    }


def _of_each_seed(
    function: Callable[..., Any], states: list[Any], seed: int, *arguments: Any
) -> Iterator[Any]:
    """Yield the result of function(state, key, *arguments) for each seed's state, on the host."""
    compiled, key = jax.jit(function), jax.random.key(seed)

    def result(i: int, key: Array) -> Any:
        return run_compiled(compiled, states[i], jax.random.fold_in(key, i), *arguments)

    for i in range(len(states)):
        yield jax.tree.map(np.asarray, result(i, key))
