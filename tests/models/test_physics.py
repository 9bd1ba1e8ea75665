"""Constants of known equations, fitted to steps: against scipy, and as a model to plan on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from PIL import Image

import etude
from etude.algorithms.common.exploration import random_actions
from etude.algorithms.model_based.fit_model import FitModel
from etude.algorithms.model_based.pets import PETS
from etude.environments.classic.pendulum import Pendulum
from etude.errors import InvalidInput
from etude.models.known_functions import KnownFunctions
from etude.models.physics import Physics
from etude.models.structures import built_in_structure
from etude.models.true_models import STATE_FROM_OBSERVATION, SWING_UP, true_model
from etude.spaces import Box, EnvironmentSpec
from etude.struct import replace
from etude.studies import system_identification as study

KEY = jax.random.key(0)
NOTHING = KnownFunctions()


def fitted(environment, count=300, noise=0.0, seed=0, **settings):
    """The kind, its state after a fit to steps of an environment, the steps, and the metrics."""
    structure = built_in_structure(environment)
    guess = study.guessed(structure)
    etude.register_structure("guess", guess.port, guess.constants, guess.state_from_observation)
    kind = Physics(structure="guess", **settings)
    state = kind.init(KEY, study.spec_of(structure, environment), NOTHING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "NOISE", noise)
        rows = study.noisy_rows(structure, jax.random.key(seed), count)
    state, metrics = jax.jit(kind.fit)(state, rows, jax.random.key(seed + 1))
    return kind, state, rows, metrics


def test_constants_of_a_cart_pole_are_found_from_a_wrong_guess():
    """All four, to a thousandth, from 300 steps without noise."""
    _, state, _, metrics = fitted(SWING_UP)
    structure = built_in_structure(SWING_UP)
    np.testing.assert_allclose(np.exp(state.log_constants), structure.guess, rtol=1e-3)
    assert metrics["undetermined"] == 0
    assert metrics["constant_pole_mass"] == pytest.approx(0.1, rel=1e-3)


def test_of_a_pendulum_the_motion_tells_two_products_and_leaves_one_direction():
    """g/l and m l² are found; along (1, -2, 1) log c keeps the guess and its spread."""
    _, state, _, metrics = fitted("Pendulum-v1", guess_spread=0.5)
    gravity, mass, length = np.exp(np.float64(state.log_constants))
    assert gravity / length == pytest.approx(10, rel=1e-3)
    assert mass * length**2 == pytest.approx(1, rel=1e-3)
    assert metrics["undetermined"] == 1
    directions, spreads, _ = np.linalg.svd(np.float64(state.root))
    untold = np.array([1, -2, 1]) / np.sqrt(6)
    assert abs(directions[:, 0] @ untold) == pytest.approx(1, abs=1e-4)
    assert spreads == pytest.approx([0.5, 0, 0], abs=5e-3)
    guess = np.log(study.GUESS_FACTORS[:3]) + np.log([10, 1, 1])
    assert np.log([gravity, mass, length]) @ untold == pytest.approx(guess @ untold, abs=1e-2)


def test_the_optimum_is_the_one_that_scipy_finds():
    """The posterior density of noisy steps, maximized in float64 by scipy from the truth."""
    _, state, rows, _ = fitted("Pendulum-v1", count=60, noise=0.02)
    before, action, after = (
        np.float64(x) for x in (rows.observation, rows.action, rows.next_observation)
    )
    spread = after.std(0)
    guess = np.log(study.GUESS_FACTORS[:3]) + np.log([10, 1, 1])

    def residuals(log_constants):
        g, m, length = np.exp(log_constants)
        angle, rate = np.arctan2(before[:, 1], before[:, 0]), before[:, 2]
        push = 3 * 2 * action[:, 0] / (m * length**2)
        rate = np.clip(rate + 0.05 * (1.5 * g / length * np.sin(angle) + push), -8, 8)
        angle = angle + 0.05 * rate
        return (after - np.stack([np.cos(angle), np.sin(angle), rate], -1)) / spread

    def loss(log_constants):
        variance = (residuals(log_constants) ** 2).mean(0)
        return 30 * np.log(variance).sum() + 0.5 * ((log_constants - guess) ** 2).sum()

    found = scipy.optimize.minimize(loss, np.log([10, 1, 1]), tol=1e-10)
    assert loss(np.float64(state.log_constants)) == pytest.approx(found.fun, abs=1e-3)
    np.testing.assert_allclose(state.log_constants, found.x, atol=2e-3)
    weighted = [
        (residuals(found.x + step) - residuals(found.x - step)) / 2e-5 for step in 1e-5 * np.eye(3)
    ] / np.sqrt((residuals(found.x) ** 2).mean(0))
    precision = np.einsum("crd,erd->ce", weighted, weighted) + np.eye(3)
    np.testing.assert_allclose(state.covariance, np.linalg.inv(precision), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("environment", ["Pendulum-v1", "CartPole-v1", "Acrobot-v1"])
def test_with_the_true_constants_it_steps_as_the_true_model(environment):
    """Two particles of a plan, step by step: states, rewards and ends, of Discrete actions too."""
    structure = built_in_structure(environment)
    spec = study.spec_of(structure, environment)
    kind = Physics(draws=2)
    state = kind.init(KEY, spec, NOTHING)
    state = replace(state, root=jnp.zeros_like(state.root))
    model, truth = kind.planning_model(state, KEY, "ts-infinity"), true_model(environment)
    observation = structure.observe(structure.port.reset(KEY)[0])
    observation = jnp.broadcast_to(observation, (2, 3, *observation.shape))
    ours, theirs = (m.begin(observation, (), KEY) for m in (model, truth))
    key = KEY
    for _ in range(5):
        key, key_action = jax.random.split(key)
        action = random_actions(spec.action, key_action, 6)
        action = action.reshape(2, 3, *action.shape[1:])
        one, other = model.step(ours, action, key), truth.step(theirs, action, key)
        for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(left, right, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(model.observe(one.state), truth.observe(other.state), atol=1e-5)
        ours, theirs = one.state, other.state


def test_what_it_doubts_is_what_its_constants_leave_open():
    """Predictions differ among drawn constants by the first-order spread of the covariance."""
    kind, state, rows, _ = fitted(SWING_UP, count=40, noise=0.01, draws=2_000)
    predicted = kind.predict(state, rows.observation, rows.action, KEY)
    structure = built_in_structure(SWING_UP)

    def mean_of(log_constants):
        return kind.predict_rows(structure, state, log_constants, rows)[0]

    slopes = jax.jacfwd(mean_of)(state.log_constants)
    exact = jnp.einsum("rdc,ce,rde->rd", slopes, state.covariance, slopes)
    np.testing.assert_allclose(
        np.sqrt(predicted.epistemic[:, :-1].mean(0)), np.sqrt(exact.mean(0)), rtol=0.1
    )
    np.testing.assert_allclose(predicted.aleatoric[0], state.noise**2, rtol=1e-4)
    # the noise of the cart's velocity before the step and after it
    std = 0.01 * np.sqrt(2) * rows.observation[:, 1].std()
    assert state.noise[1] == pytest.approx(std, rel=0.25)


def test_pets_plans_on_it_and_fit_model_fits_it(tmp_path):
    """A swing-up plans on constants from its own steps; a run of fit-model is planned on."""
    dataset = etude.record("Pendulum-v1", "random", episodes=2, progress=False)
    common = dict(seeds=1, progress=False, evaluation_episodes=1)
    fit = etude.train(
        FitModel(model=Physics(), ends=False), "Pendulum-v1", dataset=dataset, steps=50,
        out=tmp_path / "fit", **common,
    )  # fmt: skip
    assert fit.summary["evaluation"]["metrics"]["error_20"]["mean"] < 1e-4
    pets = PETS(
        model=Physics(), ends=False, horizon=5, samples=20, rollout_length=20, warmup_steps=20
    )
    planned = etude.train(
        pets, "Pendulum-v1", steps=40, initial={"model": fit}, out=tmp_path / "pets", **common
    )
    assert np.isfinite(planned.summary["evaluation"]["mean"])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: init(Physics(), "LunarLander-v3"), "etude.register_structure"),
        (lambda: init(Physics(structure="CartPole-v1"), "Pendulum-v1"), "observation space"),
        (
            lambda: etude.register_structure("p", Pendulum(), ["weight"]),
            "the constant 'weight' of 'p' is None",
        ),
        (lambda: etude.register_structure("p", Pendulum(mass=-1.0), ["mass"]), "above 0"),
        (lambda: etude.register_structure("p", Pendulum(), []), "has no constants"),
        (lambda: study.measure_system_identification((5,)), "give numbers from 20"),
    ],
)  # fmt: skip
def test_bad_input_is_named(make, message):
    with pytest.raises(InvalidInput, match=message.replace("(", r"\(")):
        make()


def init(kind, environment):
    """The state of a kind of model before its first fit."""
    spec = EnvironmentSpec(Box((3,)), Box((1,), low=-2.0, high=2.0), id=environment)
    return kind.init(KEY, spec, NOTHING)


def test_every_environment_whose_observation_tells_the_state_has_its_equations():
    for environment in STATE_FROM_OBSERVATION:
        structure = built_in_structure(environment)
        state = structure.state_from_observation(structure.observe(structure.port.reset(KEY)[0]))
        assert (structure.guess > 0).all() and state.ndim == 1


@pytest.mark.system
@pytest.mark.parametrize("environment", study.TOLD)
def test_what_the_motion_tells_is_found_within_a_hundredth(environment):
    """500 steps with noise of .1 % of each column's spread: every seed of five, every product."""
    for product, errors in study.constant_errors(environment, 500, 5).items():
        assert (errors < 0.01).all(), (product, errors)


@pytest.mark.system
def test_right_equations_are_ahead_of_a_network_and_that_of_wrong_ones(tmp_path):
    _, measured = study.measure_system_identification((100, 500), seeds=3, out=tmp_path)
    assert Image.open(tmp_path / "system_identification.png").size == (1440, 840)
    right, wrong, network = measured["errors"].values()
    for k in map(str, study.STEPS_AHEAD):
        assert right[k]["iqm"] < network[k]["iqm"] / 5 < wrong[k]["iqm"] / 5
    # a measurement goes on, and is not measured again
    _, again = study.measure_system_identification((100, 500), seeds=3, out=tmp_path)
    assert again == measured
