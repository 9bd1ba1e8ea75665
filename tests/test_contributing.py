"""The code of CONTRIBUTING.md does what the page says."""

from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest

import etude
from etude.algorithms.protocol import check_algorithm
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.tabular import Tabular
from etude.rollout import bind_policy, init_rollout_state, rollout
from etude.tabular import dynamic_programming, mdp
from etude.training import pure_train

PAGE = Path(etude.__file__).parents[2] / "CONTRIBUTING.md"
KEY = jax.random.key(0)


def code_of(heading):
    """What the block of code below a heading defines."""
    block = PAGE.read_text().split(f"## {heading}\n")[1].split("```python\n")[1].split("```")[0]
    names = {"__name__": "contributed"}
    exec(compile(block, f"{PAGE.name}: {heading}", "exec"), names)
    return names


@pytest.mark.slow
def test_the_new_algorithm_finds_the_best_actions():
    """Those of value iteration on a lake that is not slippery."""
    names = code_of("A new algorithm")
    algorithm = names["DoubleQLearning"](epsilon=1.0, learning_rate=0.5)
    check_algorithm(algorithm)
    assert names["ALGORITHMS"]["double-q"][0] is names["DoubleQLearning"]
    lake = mdp.from_gymnasium("FrozenLake-v1", is_slippery=False)
    environment = JaxEnvs(Tabular(lake), 2)
    values, _ = dynamic_programming.value_iteration(lake, discount=0.99)
    state = jax.jit(lambda key: pure_train(algorithm, environment, key, 20_000)[0])(KEY)
    q = np.asarray(state.algorithm_state.q)
    start = 0
    np.testing.assert_allclose(q.max(-1)[:, start], values[start], rtol=0.05)


def test_the_new_planner_plans_as_the_others_do():
    """Its best plan never gets worse, and reaches a maximum in the box and on its boundary."""
    planner = code_of("A new planner")["EvolutionStrategy"]()
    target = np.float32([[0.5, -0.2], [1.5, 0.0]])
    result = jax.jit(
        lambda key: planner.plan(
            lambda plans: -((plans - target) ** 2).sum((1, 2)),
            planner.init(np.zeros((2, 2), np.float32)),
            key,
            samples=50,
            iterations=40,
            candidates=np.float32([[[0.5, -0.2], [0.9, 0.1]]]),
        )
    )(KEY)
    assert (np.diff(result.history.values) >= 0).all()
    np.testing.assert_allclose(result.plan, np.clip(target, -1, 1), atol=0.1)
    np.testing.assert_array_equal(result.start.mean, result.plan)
    shifted = planner.shift(result.start)
    assert isinstance(planner.init(shifted.mean), type(shifted))
    np.testing.assert_array_equal(shifted.mean[0], result.plan[1])


def test_the_new_backend_steps_restarts_and_tells_the_true_successor():
    environment = code_of("A new backend")["Sums"](3)
    policy = bind_policy(etude.Random(), etude.Random().init(KEY, environment.spec), environment)

    @jax.jit
    def play(key):
        state = init_rollout_state(environment, policy, key)
        return rollout(environment, policy, state, key, 60)[1]

    experience = jax.device_get(play(KEY))
    step = 2 * experience.action - 1
    np.testing.assert_array_equal(
        experience.next_observation[..., 0], experience.observation[..., 0] + step
    )
    np.testing.assert_array_equal(experience.terminated, np.abs(experience.reward) >= 5)
    assert experience.terminated.any()
    next_start = np.where(experience.terminated, 0, experience.next_observation[..., 0])
    np.testing.assert_array_equal(experience.observation[1:, :, 0], next_start[:-1])


def test_the_port_is_the_environment_of_gymnasium_step_by_step():
    port, env = code_of("An environment port")["CliffWalking"](), gymnasium.make("CliffWalking-v1")
    assert port.observation_space.n == env.observation_space.n
    assert port.action_space.n == env.action_space.n
    step = jax.jit(jax.vmap(port.step, (0, 0, None)))
    states, actions = (x.ravel() for x in np.meshgrid(np.arange(48), np.arange(4), indexing="ij"))
    after, result = jax.device_get(step(np.int32(states), np.int32(actions), KEY))
    for state, action, *found in zip(
        states, actions, after, result.reward, result.terminated, strict=True
    ):
        ((_, successor, reward, terminated),) = env.unwrapped.P[state][action]
        if state == 47:
            continue  # the goal, where no action is taken
        assert tuple(found) == (successor, reward, terminated)
    assert port.reset(KEY)[0] == env.reset()[0] == 36
