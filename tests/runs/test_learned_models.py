"""Runs on learned models: starting from a fitted one, and what is refused before training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etude
from etude.algorithms.common.tree_policy import TreePlanner
from etude.algorithms.model_based.fit_model import FitModel
from etude.algorithms.model_based.pets import PETS
from etude.errors import InvalidInput
from etude.models import known_functions as module
from etude.models.ensemble import Ensemble
from etude.planning.planners import CEM, ILQR
from etude.runs.alarms import MetricAlarms
from etude.runs.options import RunOptions
from etude.runs.train import resolve_settings
from etude.struct import replace, validate

MODEL = Ensemble(members=2, elites=2, hidden=(4,), batch_size=8, gradient_steps=3)
SMALL = PETS(
    model=MODEL,
    planner=CEM(elites=2),
    particles=2,
    horizon=3,
    samples=4,
    iterations=1,
    rollout_length=10,
    warmup_steps=20,
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Nothing is registered before a test, nor after it."""
    monkeypatch.setattr(module, "USER_FUNCTIONS", {})


def settings_of(algorithm, environment="Pendulum-v1", **options):
    return resolve_settings(algorithm, environment, RunOptions(**{"steps": 100, **options}))


@pytest.mark.system
def test_a_fitted_model_is_planned_on_from_the_first_step(tmp_path):
    """Without random steps; another environment and other settings are refused."""
    data = etude.record("Pendulum-v1", expert="random", episodes=2, out=tmp_path / "data.npz")
    options = {"progress": False, "seeds": 1}
    fitted = etude.train(
        FitModel(model=MODEL), "Pendulum-v1", dataset=data, steps=3, out=tmp_path / "fit", **options
    )
    started = settings_of(SMALL, initial={"model": fitted.directory})
    spec = started.outline().spec
    model = jax.tree.map(lambda x: x[0], started.initial_components["model"])
    assert model.is_fitted
    state = replace(SMALL.init(jax.random.key(0), spec), model=model)
    memory = SMALL.initial_memory(state, spec, jax.random.key(0))
    observation = np.zeros((spec.num_envs, 3), np.float32)
    act = jax.jit(lambda state: SMALL.act(state, observation, memory, jax.random.key(0), True))
    blank = SMALL.init(jax.random.key(0), spec)
    assert (act(state)[1].age == 1).all()  # the first step of a plan
    assert (act(blank)[1].age == memory.age).all()  # a random one, without a plan
    etude.train(
        SMALL, "Pendulum-v1", steps=40, initial={"model": fitted}, out=tmp_path / "pets", **options
    )
    with pytest.raises(InvalidInput, match="initial model .* on Pendulum-v1, .* CartPole-v1"):
        settings_of(SMALL, "CartPole-v1", initial={"model": fitted.directory})
    other = replace(SMALL, model=replace(MODEL, hidden=(5,)))
    with pytest.raises(InvalidInput, match="other settings: model .*--model.hidden 4"):
        settings_of(other, initial={"model": fitted.directory})


def test_a_model_of_another_run_is_not_fitted_to_fewer_steps_than_it_was_there(monkeypatch):
    """Twenty rows: due for a model of twenty, and for none that knows more; once, without refit."""
    spec = settings_of(SMALL).outline().spec
    state = jax.eval_shape(lambda: SMALL.init(jax.random.key(0), spec))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
    steps = replace(zeros.steps, inserted=jnp.int32(20))
    fitted = lambda self, model, rows, key: (replace(model, num_rows=jnp.int32(-1)), {})
    monkeypatch.setattr(Ensemble, "fit", fitted)
    for algorithm, known, is_due in (
        (SMALL, 0, True),
        (SMALL, 20, True),
        (SMALL, 21, False),
        (replace(SMALL, refit=False), 20, False),
        (replace(SMALL, warmup_steps=21), 0, False),
    ):
        model = replace(zeros.model, num_rows=jnp.int32(known))
        after, _ = algorithm.fit_if_due(model, steps, spec, jax.random.key(0))
        assert (after.num_rows == -1) == is_due
    with pytest.raises(InvalidInput, match="warmup_steps is 40, more than the 30 steps"):
        replace(SMALL, warmup_steps=40, capacity=35).init(jax.random.key(0), spec)


def test_a_registered_reward_that_is_not_the_environment_s_is_refused_at_the_start():
    known = replace(SMALL, reward="known")
    assert settings_of(known).algorithm == known
    etude.register_reward("Pendulum-v1", lambda state, action, following: -following[2])
    with pytest.raises(InvalidInput, match="known reward of step 0 of Pendulum-v1 is .*own was"):
        settings_of(known)
    settings_of(SMALL)  # learns it


@pytest.mark.parametrize(
    "changes, environment, message",
    [
        ({"horizon": 0}, "Pendulum-v1", "horizon"),
        ({"model": replace(MODEL, elites=3)}, "Pendulum-v1", "elites is 3, more than the 2 mem"),
        ({"particles": 3}, "Pendulum-v1", "particles is 3, .* 2 members .* multiple"),
        ({"planner": ILQR()}, "Pendulum-v1", "ilqr needs derivatives.*--no-ends"),
        ({"replan_interval": 4}, "Pendulum-v1", "replan_interval is 4, more than the 3"),
        ({"warmup_steps": 101}, "Pendulum-v1", "steps is 100, and pets learns nothing before 101"),
        ({"reward": "known"}, "LunarLander-v3", "LunarLander-v3' are not known"),
        ({"tree_search": TreePlanner()}, "Pendulum-v1", "Discrete"),
        (
            {"tree_search": TreePlanner(), "replan_interval": 2},
            "CartPole-v1",
            "a tree search finds one action",
        ),
    ],
)
def test_bad_settings_are_refused_by_name(changes, environment, message):
    with pytest.raises(InvalidInput, match=message):
        validate(algorithm := replace(SMALL, **changes))
        settings_of(algorithm, environment)


def test_a_model_that_diverges_is_warned_of_once_by_its_metric():
    alarms = MetricAlarms()
    assert alarms.check({"diverged_fits": [0.0], "diverged_plans": [0.5]}, 1) == []
    texts = alarms.check({"diverged_fits": [0.0, 0.2], "diverged_plans": [0.9, 0.0]}, 20)
    assert "diverged_fits is 0.2 at step 20" in texts[0] and "--model.learning-rate" in texts[0]
    assert "diverged_plans is 0.9 at step 20" in texts[1] and "--horizon" in texts[1]
    assert alarms.check({"diverged_fits": [1.0], "diverged_plans": [1.0]}, 30) == []
