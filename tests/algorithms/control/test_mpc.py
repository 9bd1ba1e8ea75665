"""Planning as a policy: its model is the environment itself, and it swings the pendulum up."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.algorithms.control.mpc import MPC, PlannerMemory
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.classic import PORTS
from etude.errors import InvalidInput
from etude.models.true_models import STATE_FROM_OBSERVATION, true_model
from etude.planning.plans import return_of_plans, shift_plan
from etude.rollout import bind_policy, evaluate
from etude.spaces import Box, to_environment_action
from etude.struct import validate

KEY = jax.random.key(0)
PENDULUM = JaxEnvs(PORTS["Pendulum-v1"](), 2)
reset = jax.jit(lambda key: PENDULUM.reset(key)[1])


@pytest.mark.parametrize("name", STATE_FROM_OBSERVATION)
def test_the_model_is_the_port_seen_through_an_observation(name):
    """Along a play of random actions, the model steps from each observation to the next, with the
    same reward and end."""
    port, model = PORTS[name]().environment, true_model(name)
    space = port.action_space

    def step(carry, key):
        state, observation = carry
        action = (
            jax.random.uniform(key, space.shape, minval=-1.2, maxval=1.2)
            if isinstance(space, Box)
            else jax.random.randint(key, (), 0, space.n)
        )
        state, outcome = port.step(state, to_environment_action(space, action), key)
        planned = model.step(model.state_from_observation(observation), action, key)
        seen = port.observe(planned.state) if hasattr(port, "observe") else planned.state
        return (state, outcome.next_observation), (
            (outcome.next_observation, outcome.reward, outcome.terminated),
            (seen, planned.reward, planned.terminated),
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


@pytest.mark.slow
@pytest.mark.parametrize("planner", ["icem", "random_shooting", "cem", "mppi"])
def test_every_planner_notes_what_is_left_of_its_plan(planner):
    """Its actions are in the box; a new episode's memory is zeros; the key decides, and one copy's
    plan is no other's."""
    algorithm = MPC(
        model="Pendulum-v1", planner=planner, horizon=4, samples=6, iterations=2, elites=3
    )
    validate(algorithm)
    observation = np.asarray(reset(KEY))
    policy = policy_of(algorithm)
    memory = jax.device_get(jax.jit(policy.initial_memory)(KEY))
    assert memory.mean.shape == (2, 4, 1) and not any(x.any() for x in jax.tree.leaves(memory))
    act = jax.jit(policy.act)
    action, noted = jax.device_get(act(observation, memory, KEY))
    assert action.shape == (2, 1) and (np.abs(action) <= 1).all() and action[0] != action[1]
    assert isinstance(noted, PlannerMemory)
    assert jax.tree.map(jnp.shape, noted) == jax.tree.map(jnp.shape, memory)
    for plans in (noted.mean, *noted.reused_plans.swapaxes(0, 1)):
        np.testing.assert_array_equal(plans[:, -1], plans[:, -2])  # the last action again
        assert (np.abs(plans) <= 1).all()
    jax.tree.map(np.testing.assert_array_equal, act(observation, memory, KEY), (action, noted))
    again = np.asarray(act(observation, noted, KEY)[0])
    # the others begin where they were
    assert (again == action).all() == (planner == "random_shooting")
    assert (np.asarray(act(observation, memory, jax.random.key(1))[0]) != action).all()

    model, alone = true_model("Pendulum-v1"), jax.tree.map(lambda x: x[0], memory)
    key_search, key_model = jax.random.split(jax.random.split(KEY, 2)[0])

    @jax.jit
    def searched(start):
        score = return_of_plans(model, model.state_from_observation(observation[0]), key_model)
        plan, found = algorithm.search(score, start, key_search)
        return plan, shift_plan(found.mean)

    plan, mean = jax.device_get(searched(alone))
    np.testing.assert_allclose(action[0], plan[0], rtol=1e-4)  # done is the first action
    np.testing.assert_allclose(noted.mean[0], mean, rtol=1e-4)


@pytest.mark.parametrize("planner", ["cem", "icem"])
def test_icem_judges_again_what_it_kept(planner):
    algorithm = MPC(
        model="Pendulum-v1", planner=planner, horizon=4, samples=6, iterations=2, elites=3
    )
    start = PlannerMemory(np.zeros((4, 1), np.float32), jnp.full((1, 4, 1), 0.75))
    search = jax.jit(
        lambda key: algorithm.search(lambda plans: -((plans - 0.75) ** 2).sum((1, 2)), start, key)[
            0
        ]
    )
    assert (search(KEY) == 0.75).all() == (planner == "icem")


@pytest.mark.parametrize("planner, judged", [("random_shooting", 12), ("mppi", 6)])
def test_shooting_draws_all_its_plans_at_once_and_mppi_follows_its_mean(planner, judged):
    algorithm = MPC(model="Pendulum-v1", planner=planner, horizon=4, samples=6, iterations=2)
    seen = []  # how many at once, of each call that is traced

    def score(plans):
        seen.append(len(plans))
        return -(plans**2).sum((1, 2))

    plan, found = jax.jit(
        lambda key: algorithm.search(
            score, PlannerMemory(jnp.ones((4, 1)), jnp.zeros((0, 4, 1))), key
        )
    )(KEY)
    assert set(seen) == {judged}
    np.testing.assert_array_equal(plan, found.mean)


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
        validate(MPC(model="Pendulum-v1", samples=10, elites=20))
