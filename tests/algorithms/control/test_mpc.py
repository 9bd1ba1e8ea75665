"""Planning as a policy: its model is the environment itself, and it swings the pendulum up."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etude
from etude.algorithms.common import planning_policy
from etude.algorithms.control.mpc import MPC
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.classic import PORTS
from etude.errors import InvalidInput
from etude.models import true_models
from etude.models.true_models import STATE_FROM_OBSERVATION, port_of, true_model
from etude.planning.planners import (
    CEM,
    DDP,
    ICEM,
    ILQR,
    Collocation,
    GradientShooting,
    MultipleShooting,
    RandomShooting,
)
from etude.planning.plans import return_of_plans
from etude.planning.protocol import ModelStep
from etude.rollout import bind_policy, evaluate
from etude.spaces import Box, Discrete, EnvironmentSpec, to_environment_action
from etude.struct import validate

KEY = jax.random.key(0)
PENDULUM = JaxEnvs(PORTS["Pendulum-v1"](), 2)
reset = jax.jit(lambda key: PENDULUM.reset(key)[1])


@pytest.mark.parametrize("name", STATE_FROM_OBSERVATION)
def test_the_model_is_the_port_seen_through_an_observation(name):
    """Along a play of random actions, the model steps from each observation to the next, with the
    same reward and end."""
    port, model = port_of(name), true_model(name)
    space = port.action_space

    def step(carry, key):
        state, observation = carry
        action = (
            jax.random.uniform(key, space.shape, minval=-1.2, maxval=1.2)
            if isinstance(space, Box)
            else jax.random.randint(key, (), 0, space.n)
        )
        state, outcome = port.step(state, to_environment_action(space, action), key)
        begun = model.begin(observation[None, None], (), key)
        planned = model.step(begun, jnp.asarray(action)[None, None], key)
        seen = model.observe(planned.state)
        return (state, outcome.next_observation), (
            (outcome.next_observation, outcome.reward, outcome.terminated),
            jax.tree.map(lambda x: x[0, 0], (seen, planned.reward, planned.continues == 0)),
        )

    truth, planned = jax.jit(partial(jax.lax.scan, step))(
        port.reset(KEY), jax.random.split(KEY, 100)
    )[1]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), planned, truth)
    assert np.ptp(np.asarray(truth[0]), 0).min() > 0  # it moved


def policy_of(algorithm):
    return bind_policy(algorithm, algorithm.init(KEY, PENDULUM.spec), PENDULUM)


@pytest.mark.system
def test_cross_entropy_swings_the_pendulum_up():
    """About −165 is the mean over all starts of a search of this size, −150 that of the optimum,
    −1200 of actions at random."""
    policy = policy_of(MPC(model="Pendulum-v1"))
    returns, _ = jax.jit(lambda key: evaluate(PENDULUM, policy, key, 2))(KEY)
    assert returns.mean() > -220


SIZES = dict(horizon=4, samples=6, iterations=2)
OPTIMIZERS = [ILQR(), DDP(), MultipleShooting(), GradientShooting()]


@pytest.mark.slow
@pytest.mark.parametrize("planner", [ICEM(elites=3), ILQR()], ids=["icem", "ilqr"])
def test_copies_are_planned_for_alone_and_the_key_decides(planner):
    """Actions are in the box; an episode begins with zeros; what a planner of plans by chance does
    is up to the key, and one with derivatives takes none."""
    policy = policy_of(MPC(model="Pendulum-v1", planner=planner, **SIZES))
    angle = np.float32([0.2, -0.1])
    observation = np.stack([np.cos(angle), np.sin(angle), np.zeros(2, np.float32)], 1)
    memory = jax.device_get(jax.jit(policy.initial_memory)(KEY))
    assert not any(x.any() for x in jax.tree.leaves((memory.start, memory.actions)))
    act = jax.jit(policy.act)
    action, noted = jax.device_get(act(observation, memory, KEY))
    assert action.shape == (2, 1) and (np.abs(action) <= 1).all() and action[0] != action[1]
    assert jax.tree.map(jnp.shape, noted) == jax.tree.map(jnp.shape, memory)
    jax.tree.map(np.testing.assert_array_equal, act(observation, memory, KEY), (action, noted))
    swapped, _ = act(np.ascontiguousarray(observation[::-1]), memory, KEY)
    other, _ = act(observation, memory, jax.random.key(1))
    assert (np.asarray(other) == action).all() == isinstance(planner, ILQR)
    if isinstance(planner, ILQR):
        np.testing.assert_allclose(swapped[::-1], action, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("planner", OPTIMIZERS, ids=lambda planner: type(planner).__name__)
def test_an_optimizer_plans_on_the_model(planner):
    """Its plan returns more on the model than none, and is where the next search starts."""
    algorithm = MPC(model="Pendulum-v1", planner=planner, horizon=8, iterations=20, discount=0.9)
    model, observation = true_model("Pendulum-v1"), jnp.float32([np.cos(0.3), np.sin(0.3), 0.0])

    @jax.jit
    def planned(key):
        memory = planning_policy.empty_plans(algorithm, PENDULUM.spec)
        action, memory = planning_policy.follow_plan(
            algorithm, model, jnp.stack([observation] * 2), memory, key, PENDULUM.spec.action
        )
        start = memory.start[0]
        plan = jnp.concatenate([action[:1], start[:-1]])
        state = model.begin(observation[None, None], (), key)
        score = return_of_plans(model, state, key, discount=0.9)
        return start, score(jnp.stack([plan, jnp.zeros((8, 1))]))

    start, (found, idle) = planned(KEY)
    assert found > idle + 1e-3
    np.testing.assert_array_equal(start[-1], start[-2])


@pytest.mark.system
def test_ilqr_swings_the_pendulum_up():
    policy = policy_of(MPC(model="Pendulum-v1", planner=ILQR(), iterations=10))
    returns, _ = jax.jit(lambda key: evaluate(PENDULUM, policy, key, 2))(KEY)
    assert returns.mean() > -220


def test_shooting_draws_all_its_plans_at_once():
    seen = []  # how many at once, of each call that is traced

    def score(plans):
        seen.append(len(plans))
        return -(plans**2).sum((1, 2))

    planner = RandomShooting()
    search = partial(planner.plan, score, planner.init(jnp.ones((4, 1))))
    jax.jit(partial(search, samples=6, iterations=2))(KEY)
    assert set(seen) == {12}


def test_derivatives_are_needed_of_a_vector_and_of_episodes_that_do_not_end(monkeypatch):
    monkeypatch.setattr(true_models, "USER_MODELS", {})
    car = PORTS["MountainCarContinuous-v0"]()
    spec = EnvironmentSpec(car.observation_space, car.action_space, 1, "MountainCarContinuous-v0")
    with pytest.raises(InvalidInput, match="ilqr needs derivatives, and an episode .* can end"):
        MPC(planner=ILQR()).init(KEY, spec)
    assert MPC(planner=ILQR()).assumes.smooth and not MPC().assumes.smooth

    def register(step, ends):
        etude.register_model("mine/Car-v0", step, ends=ends)
        return EnvironmentSpec(Box((2,)), Box((1,), low=-1.0, high=1.0), 1, "mine/Car-v0")

    def sure(state, action, key):
        return ModelStep(state + action, -(state**2).sum(), jnp.float32(1))

    jax.eval_shape(partial(MPC(planner=ILQR()).init, spec=register(sure, ends=False)), KEY)
    with pytest.raises(InvalidInput, match="ddp needs derivatives, and an episode"):
        MPC(planner=DDP()).init(KEY, register(sure, ends=True))
    whole = EnvironmentSpec(Discrete(3), Box((1,), low=-1.0, high=1.0), 1, "mine/Table-v0")
    etude.register_model("mine/Table-v0", lambda state, action, key: ModelStep(state, 0.0, 1.0))
    with pytest.raises(InvalidInput, match=r"gradient-shooting needs .* vector of floats, .*int32"):
        MPC(planner=GradientShooting()).init(KEY, whole)


def test_what_it_cannot_plan_on_is_refused():
    with pytest.raises(
        InvalidInput,
        match=r"of 'Walker2d-v5' is not at hand; it is of CartPole-v1, Pendulum-v1.*register_model",
    ):
        MPC(model="Walker2d-v5").init(KEY, PENDULUM.spec)
    with pytest.raises(
        InvalidInput, match="model is 'MountainCarContinuous-v0', whose spaces are not those"
    ):
        MPC(model="MountainCarContinuous-v0").init(KEY, PENDULUM.spec)
    with pytest.raises(InvalidInput, match="elites is 20; of 10 samples"):
        validate(MPC(planner=CEM(elites=20), samples=10))
    with pytest.raises(InvalidInput, match="horizon is 0; it must be at least 1"):
        validate(MPC(horizon=0))
    with pytest.raises(
        InvalidInput, match=r"planner is Collocation\(.*; it must be RandomShooting"
    ):
        validate(MPC(planner=Collocation()))
