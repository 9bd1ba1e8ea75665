"""How right a model is where its plans lead: before it was fitted there, and after."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from etude.algorithms.model_based.pets import PETS
from etude.data.replay import ring_buffer
from etude.data.transition import zeros_like_spec
from etude.environments import make
from etude.errors import InvalidInput
from etude.models.dynamics_model import Prediction
from etude.struct import replace, struct
from etude.studies import calibration as study


@struct
class Records:
    """A model that says where the rows that it was fitted to end, and is right on the others."""

    def init(self, key, spec, known):
        return jnp.int32(0)

    def fit(self, state, rows, key):
        return jnp.where(rows.is_valid, rows.number + 1, 0).max(), {}

    def predict(self, state, observation, action, key):
        count = len(observation)
        mean = jnp.concatenate([observation, jnp.full((count, 1), 1.0 * state)], -1)
        members = mean[None], jnp.ones((1, count, mean.shape[1]))
        return Prediction(mean, members[1][0], mean, *members)


def test_it_is_judged_on_the_episode_after_the_steps_it_was_fitted_to(monkeypatch):
    """Rows whose reward is the number of their episode's first step, as the model predicts."""
    monkeypatch.setattr(study, "MODEL", Records())
    spec = make(study.NAME, 1, "jax").spec
    state = PETS(**study.PLANNING).init(jax.random.key(0), spec)
    number = jnp.arange(600.0)[:, None]
    blank = jax.tree.map(lambda x: jnp.zeros((600, 1, *x.shape), x.dtype), zeros_like_spec(spec))
    played = replace(blank, reward=number // study.EPISODE * study.EPISODE)
    for episode in jnp.arange(3):
        of_it = jax.tree.map(lambda x: x.reshape(3, 200, *x.shape[1:])[episode], played)  # noqa: B023
        state = replace(state, steps=ring_buffer.insert(state.steps, of_it))
    states = jax.tree.map(lambda x: x[None], state)
    keys = jax.random.split(jax.random.key(3), 1)
    for fitted in (200, 400):
        shares, _ = study.judge_fits.__wrapped__(states, keys, jnp.int32(fitted))
        # every outcome is the mean that was predicted, so that it is within every interval
        np.testing.assert_array_equal(shares, 1.0)


def test_bad_input_is_named():
    with pytest.raises(InvalidInput, match="fits is 1 and seeds 5; give 2 to 9 fits"):
        study.measure_calibration(fits=1)


@pytest.mark.system
def test_a_model_is_too_sure_where_it_was_not_fitted(tmp_path):
    _, measured = study.measure_calibration(fits=4, seeds=5, out=tmp_path)
    assert Image.open(tmp_path / "calibration.png").size == (1440, 840)
    before, after = measured["error"].values()
    assert after["iqm"] < before["iqm"]
