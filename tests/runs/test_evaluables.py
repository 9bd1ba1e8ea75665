"""Runs of an algorithm that has nothing to act with: it is judged on a dataset."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import here, programs_kept

import etude
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.storage.datasets.npz import read_npz

STEPS = 40


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


@etude.algorithm
class LinearModel:
    """Least squares by gradient descent: s' ≈ s + W s."""

    learning_rate: float = 0.1
    plays: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("dataset",)

    def init(self, key: Any, spec: Any, outside: Any) -> Any:
        return 0.1 * jax.random.normal(key, (*spec.observation.shape, *spec.observation.shape))

    def steps_per_update(self, num_envs: int) -> int:
        return 4

    def update(self, state: Any, experience: Any, key: Any, outside: Any) -> Any:
        def fit_step(weights, _):
            loss, gradient = jax.value_and_grad(self.loss)(weights, outside.dataset.transitions)
            return weights - self.learning_rate * gradient, loss

        state, losses = jax.lax.scan(fit_step, state, length=4)
        return state, {"model_loss": losses.mean(), "updates": 4}

    def evaluate(self, state: Any, outside: Any, key: Any) -> dict[str, Any]:
        return {"model_loss": self.loss(state, outside.dataset.transitions)}

    def loss(self, weights: Any, transitions: Transition) -> Any:
        change = transitions.next_observation - transitions.observation
        return ((change - transitions.observation @ weights) ** 2).mean()


def written(path, seed=0):
    """Two episodes of s' = s / 2."""
    rng = np.random.default_rng(seed)
    episode = rng.uniform(-1, 1, (2, 1, 4)) * 0.5 ** np.arange(6)[:, None]
    np.savez(
        path,
        observations=np.float32(episode.reshape(12, 4)),
        actions=rng.integers(2, size=10),
        rewards=np.ones(10, np.float32),
        terminations=np.isin(np.arange(10), (4, 9)),
        truncations=np.zeros(10, bool),
        episode_lengths=np.array([5, 5]),
    )
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    data = written(directory / "data.npz")
    options = dict(steps=STEPS, seeds=2, dataset=data, evaluate_every=STEPS // 2, progress=False)
    run = etude.train(LinearModel(), "CartPole-v1", out=directory / "run", **options)
    return run, data


def loss_of(state, path):
    spec = etude.make("CartPole-v1").spec
    return float(LinearModel().loss(jnp.asarray(state), read_npz(path, spec).transitions))


def test_it_is_evaluated_on_its_dataset_and_on_another(trained, tmp_path):
    run, data = trained
    assert run.summary["unit"] == "gradient steps" and run.summary["steps"] == STEPS
    again = etude.load(run.directory, LinearModel)
    other = written(tmp_path / "other.npz", seed=1)
    for dataset, evaluation in (
        (data, run.summary["evaluation"]),
        (data, again.evaluate()),
        (other, again.evaluate(dataset=other)),
    ):
        assert evaluation["dataset"] == str(dataset) and evaluation["steps"] == 10
        scores = evaluation["metrics"]["model_loss"]["per_seed"]
        np.testing.assert_allclose(
            scores, [loss_of(state, dataset) for state in run.states()], rtol=1e-5
        )
    evaluations = run.metrics["evaluation_model_loss"].reshape(-1, 2)  # [row, seed]
    assert np.isfinite(evaluations).all(1).tolist() == 2 * ([False] * 4 + [True])
    np.testing.assert_allclose(
        evaluations[-1], [loss_of(state, data) for state in run.states()], rtol=1e-5
    )
    assert run.metrics["model_loss"][-1] < run.metrics["model_loss"][0]
    assert (run.directory / "learning_curve.png").exists()


def test_it_is_resumed_bit_for_bit(trained, tmp_path):
    run, data = trained
    options = dict(seeds=2, dataset=data, progress=False, out=tmp_path / "run")
    etude.train(LinearModel(), "CartPole-v1", steps=STEPS // 2, **options)
    longer = etude.resume(tmp_path / "run", STEPS, algorithm=LinearModel, progress=False)
    np.testing.assert_array_equal(longer.states(), run.states())


def test_the_commands_train_and_evaluate_it(tmp_path):
    written(tmp_path / "data.npz")
    name = f"{__name__}:LinearModel"
    flags = ["--dataset", "data.npz", "--steps", "8", "--out", "run"]
    trained = here("train", name, "CartPole-v1", *flags, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "10 steps" in trained.stdout and "model loss, IQM" in trained.stdout
    evaluate = ["evaluate", "run", "--algorithm", name]
    evaluated = here(*evaluate, cwd=tmp_path)
    assert evaluated.returncode == 0 and "model loss, IQM" in evaluated.stdout
    for flags, message in (
        (["--episodes", "3"], "LinearModel has nothing to act with, so it is evaluated on a"),
        (["--video"], "LinearModel has nothing to act with; leave it out"),
    ):
        refused = here(*evaluate, *flags, cwd=tmp_path)
        assert refused.returncode == 2 and message in refused.stderr


def test_what_needs_a_policy_refuses_it(trained, tmp_path):
    run, data = trained
    with pytest.raises(InvalidInput, match="LinearModel has nothing to act with: it is judged on"):
        etude.record("CartPole-v1", expert=run, episodes=1, out=tmp_path / "a.npz")
    for rule in ({"until": 1.0}, {"patience": 2}):
        with pytest.raises(InvalidInput, match="LinearModel has nothing to act with, so it has no"):
            options = dict(steps=STEPS, dataset=data, evaluate_every=8, out=tmp_path / "run")
            etude.train(LinearModel(), "CartPole-v1", **options, **rule)
    with pytest.raises(InvalidInput, match="LinearModel needs a dataset here"):
        etude.train(LinearModel(), "CartPole-v1", steps=STEPS)
    played = etude.load(
        etude.train("random", "CartPole-v1", steps=10, out=tmp_path / "r", progress=False).directory
    )
    with pytest.raises(InvalidInput, match="random is evaluated over whole episodes; leave it out"):
        played.evaluate(dataset=data)
