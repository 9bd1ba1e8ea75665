"""How sure models are: the judging against closed forms, and that noise is not doubt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from etude.errors import InvalidInput
from etude.models.dynamics_model import Prediction
from etude.models.true_models import true_model
from etude.struct import static, struct
from etude.studies import model_uncertainty as study

KEY = jax.random.key(0)


@struct
class KnowsTheSine:
    """A model that is right about the sine but for the size of its noise, times `factor`.

    Its doubt is 0.01 beside the gap and 0.05 in it.
    """

    factor: float = static(1.0)

    def init(self, key, spec, known):
        return ()

    def fit(self, state, rows, key):
        return state, {}

    def predict(self, state, observation, action, key):
        mean = jnp.concatenate([observation + jnp.sin(observation), observation * 0], -1)
        doubt = jnp.where(jnp.abs(observation) < 1, 0.05, 0.01)
        means = jnp.stack([mean - doubt, mean + doubt])
        variances = jnp.full(means.shape, (self.factor * study.SINE_NOISE) ** 2)
        return Prediction(
            mean, variances[0], jnp.broadcast_to(doubt**2, mean.shape), means, variances
        )


def measures_of(factor):
    keys = jax.random.split(KEY, 2)
    return study.fit_and_judge(keys, KnowsTheSine(factor), "sine", 60)[0]


def test_a_model_that_is_right_has_the_likelihood_of_the_truth_and_covers_what_it_says():
    found = measures_of(1.0)
    np.testing.assert_allclose(found["nll"], 0, atol=2e-3)
    np.testing.assert_allclose(found["coverage"], 0.9, atol=0.02)
    np.testing.assert_allclose(found["crps"], 1, atol=0.01)
    np.testing.assert_allclose(found["epistemic_ratio"], 5, rtol=1e-3)
    np.testing.assert_allclose(found["aleatoric_ratio"], 1, rtol=1e-5)


def test_too_little_noise_costs_the_divergence_of_two_normals():
    """KL(N(0, σ²) ‖ N(0, σ²/4)) = log ½ + 2 − ½, and the interval holds 59 %."""
    found = measures_of(0.5)
    np.testing.assert_allclose(found["nll"], np.log(0.5) + 2 - 0.5, atol=0.12)
    np.testing.assert_allclose(found["coverage"], 0.589, atol=0.03)


@pytest.mark.parametrize("in_gap", [False, True])
def test_steps_of_the_pendulum_are_those_of_the_true_model(in_gap):
    points = study.pendulum_points(KEY, 200, in_gap)
    model = true_model("Pendulum-v1")
    state = model.begin(points.observation[:, None], (), KEY)
    step = model.step(state, points.action[:, None], KEY)
    np.testing.assert_allclose(model.observe(step.state)[:, 0], points.mean, atol=1e-5)
    angle = np.abs(np.arctan2(points.observation[:, 1], points.observation[:, 0]))
    assert (angle < study.GAP_ANGLE / 2).all() if in_gap else (angle > study.GAP_ANGLE).all()


def test_bad_input_is_named():
    with pytest.raises(InvalidInput, match="rows is 10 and seeds 5; give at least 50 rows"):
        study.measure_model_uncertainty(rows=10)


@pytest.mark.system
def test_noise_is_not_doubt(tmp_path):
    """The bars that the page tells, with five seeds."""
    _, measured = study.measure_model_uncertainty(out=tmp_path)
    assert Image.open(tmp_path / "model_uncertainty.png").size == (1440, 840)
    for task, kinds in measured["tasks"].items():
        single = kinds.pop("single network")
        assert single["epistemic_ratio"]["iqm"] == 0 and single["aleatoric_ratio"]["iqm"] < 2
        for name, found in kinds.items():
            # in four dimensions the draws of a mean-field posterior hardly disagree anywhere
            is_weak = (task, name) == ("pendulum", "variational")
            assert abs(found["nll"]["iqm"]) < (0.06 if is_weak else 0.02)
            assert 0.87 < found["coverage"]["iqm"] < 0.93
            assert found["epistemic_ratio"]["iqm"] > (1 if is_weak else 5)
