"""Evaluation of the agents of a run: over whole episodes, or on a dataset if they do not act."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import jax
import numpy as np

from etude.algorithms.protocol import Outside
from etude.data.dataset import Dataset
from etude.errors import InvalidInput
from etude.reporting import statistics
from etude.rollout import bind_policy, copies_for, evaluate
from etude.runs.interrupt import InterruptHandler
from etude.runs.settings import Settings
from etude.training import run_compiled
from etude.types import Array


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

    with closing(environment):
        returns = [row.tolist() for row in _of_each_seed(returns_of, states, seed)]
    return {
        "environment": source.evaluated_on,
        "episodes": episodes,
        "deterministic": not explore,
        **statistics.summarize_returns(returns),
    }


def evaluate_on_dataset(
    settings: Settings, states: list[Any], dataset: Dataset, path: str, seed: int
) -> dict[str, Any]:
    """What `Run.evaluate` returns, of the metrics of each state [seed] on a dataset."""

    def metrics_of(state, key, outside):
        return settings.algorithm.evaluate(state, outside, key)

    metrics = _of_each_seed(metrics_of, states, seed, Outside(dataset=dataset))
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
) -> list[Any]:
    """The results of function(state, key, *arguments) for each seed's state, on the host."""
    compiled, key = jax.jit(function), jax.random.key(seed)

    def result(i: int, key: Array) -> Any:
        return run_compiled(compiled, states[i], jax.random.fold_in(key, i), *arguments)

    return [jax.tree.map(np.asarray, result(i, key)) for i in range(len(states))]
