"""How far a model is from what happened, k steps ahead: the error by which it is judged.

    error(k) = √ mean [ (ŝ_{t+k} − s_{t+k})² / var(s) ]

The prediction follows the recorded actions from a recorded state, k steps without another look.
The mean is over starts and over the elements of the observation, each in units of its spread.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.data import dataset_sampling
from etude.data.dataset import Dataset
from etude.models.model_rows import ModelRows, observation_vector, rows_of_dataset
from etude.models.standardization import standardization_of
from etude.planning.protocol import Model
from etude.types import Array

NUM_STARTS = 1_000


def prediction_errors(
    model: Model, dataset: Dataset, key: Array, steps: tuple[int, ...]
) -> dict[str, Array]:
    """`error_k` for each number of steps k ahead, [], from random starts of the dataset.

    A model that draws members and noise gives each start other ones. Where no episode has k more
    steps, the error is NaN.
    """
    key_starts, key_begin, key_steps = jax.random.split(key, 3)
    rows = rows_of_dataset(dataset)
    every_episode = jnp.ones(dataset.num_episodes, bool)
    starts = dataset_sampling.random_steps(key_starts, dataset, every_episode, NUM_STARTS)
    left = dataset_sampling.steps_to_end(dataset, starts)
    errors = squared_errors(model, dataset, rows, starts, max(steps), key_begin, key_steps)
    return {f"error_{k}": jnp.sqrt(jnp.mean(errors[k - 1], where=left >= k)) for k in steps}


def squared_errors(
    model: Model,
    dataset: Dataset,
    rows: ModelRows,
    starts: Array,
    horizon: int,
    key_begin: Array,
    key_steps: Array,
) -> Array:
    """The squared error of 1, ..., horizon steps from each start, [horizon, start].

    After the end of an episode they mean nothing.
    """
    space = dataset.spec.observation
    spread = standardization_of(rows.next_observation, rows.is_valid).std

    def observed(name: str, row: Array) -> Any:
        return jax.tree.map(lambda x: x[row][:, None], getattr(dataset.transitions, name))

    def step(state, inputs):
        ahead, key = inputs
        row = jnp.minimum(starts + ahead, dataset.num_steps - 1)
        state = model.step(state, observed("action", row), key).state
        predicted = observation_vector(space, model.observe(state))[:, 0]
        return state, (((predicted - rows.next_observation[row]) / spread) ** 2).mean(-1)

    state = model.begin(observed("observation", starts), (), key_begin)
    keys = jax.random.split(key_steps, horizon)
    return jax.lax.scan(step, state, (jnp.arange(horizon), keys))[1]
