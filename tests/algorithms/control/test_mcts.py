"""Tree search as a policy, on the environment's model or on one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.algorithms.control.mcts import MCTS
from etude.algorithms.control.mpc import MPC
from etude.environments import make
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.classic import PORTS
from etude.errors import InvalidInput
from etude.models import true_models
from etude.models.true_models import model_for, register_model, true_model
from etude.planning.protocol import ModelStep
from etude.planning.tree.evaluation import Rollout
from etude.planning.tree.mcts import search
from etude.planning.tree.rules import PUCT, UCT
from etude.planning.tree.tree import SearchSettings
from etude.rollout import bind_policy, evaluate
from etude.runs.options import RunOptions
from etude.runs.train import resolve_settings
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec, MultiBinary

KEY = jax.random.key(0)
CARTPOLE = JaxEnvs(PORTS["CartPole-v1"](), 2)
# a point in the plane that goes left, stays or goes right
POINT = EnvironmentSpec(Box((2,)), Discrete(3), 1)


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(true_models, "USER_MODELS", {})


def drift(state, action, key):
    after = state + jnp.float32([1, 0]) * (action - 1)
    return ModelStep(after, -jnp.abs(after[0]), jnp.ones(()))


@pytest.mark.system
def test_it_balances_the_pole():
    """Actions at random keep it for 22 steps on average."""
    algorithm = MCTS("CartPole-v1", simulations=40, horizon=20, rule=UCT(5.0))
    state = algorithm.init(KEY, CARTPOLE.spec)
    policy = bind_policy(algorithm, state, CARTPOLE)
    returns, _ = jax.jit(lambda key: evaluate(CARTPOLE, policy, key, 2))(KEY)
    assert returns.min() > 100


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", [pytest.param(UCT(5.0), marks=pytest.mark.system), PUCT(2.0)], ids=["uct", "puct"]
)
def test_the_visits_of_several_trees_add_up(rule):
    algorithm = MCTS("CartPole-v1", rule, simulations=9, horizon=5, trees=3, discount=0.9)
    observation = CARTPOLE.reset(KEY)[1]
    state = algorithm.init(KEY, CARTPOLE.spec)
    action, memory = jax.jit(lambda key: algorithm.act(state, observation, (), key, True))(KEY)
    assert memory == () and action.shape == (2,)
    settings, model = SearchSettings(9, horizon=5, discount=0.9), true_model("CartPole-v1")

    @jax.jit
    def one(start, key):
        evaluate, legal = Rollout(model, settings), jnp.ones(2, bool)
        return search(model, start[None, None], legal, evaluate, rule, rule, key, settings).visits

    for i, key in enumerate(jax.random.split(KEY, 2)):
        visits = sum(one(observation[i], key) for key in jax.random.split(key, 3))
        assert visits.sum() == 27 and action[i] == visits.argmax()


@pytest.mark.slow
def test_a_model_of_ones_own_is_planned_on(own):
    register_model("mine/Point-v0", drift)
    algorithm = MCTS("mine/Point-v0", simulations=30, horizon=3, rule=UCT(3.0))
    state = algorithm.init(KEY, POINT)
    act = jax.jit(lambda observation: algorithm.act(state, observation, (), KEY, False)[0])
    np.testing.assert_array_equal(act(np.float32([[2, 0]])), [0])
    np.testing.assert_array_equal(act(np.float32([[-2, 0]])), [2])
    register_model("CartPole-v1", drift)  # before etude's own
    assert true_model("CartPole-v1").step_one is drift


def test_a_planner_plans_on_what_it_acts_in():
    for algorithm, name in ((MCTS(), "CartPole-v1"), (MPC(), "Pendulum-v1")):
        for backend in ("jax", "gymnasium"):
            spec = make(name, backend=backend).spec
            assert spec.id == name and algorithm.init(KEY, spec).model == true_model(name)
    with pytest.raises(
        InvalidInput, match="model is 'Acrobot-v1', whose spaces are not those of the environment"
    ):
        resolve_settings(MCTS("Acrobot-v1"), "CartPole-v1", RunOptions(steps=10))
    with pytest.raises(InvalidInput, match="the true model of 'FrozenLake-v1' is not at hand"):
        resolve_settings(MCTS(), "FrozenLake-v1", RunOptions(steps=10))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda state, action, key: drift(state, action, key).state,
        lambda state, action, key: ModelStep(state[:1], state[0], state[0]),
    ],
)
def test_a_model_that_leads_elsewhere_is_refused(own, wrong):
    register_model("mine/Point-v0", wrong)
    with pytest.raises(
        InvalidInput,
        match="registered for 'mine/Point-v0' steps from a state of .*; make it a ModelStep",
    ):
        model_for("mine/Point-v0", POINT)


# the same, and where it may go
SEEN = Composite((MultiBinary((3,)), Box((2,))), ("action_mask", "place"))
FENCED = EnvironmentSpec(SEEN, Discrete(3), 1, "mine/Point-v0")


@pytest.mark.system
def test_what_the_observation_forbids_is_never_done(own):
    """Though the model allows it, and it would be best."""
    everywhere = lambda state: jnp.ones(3, bool)
    register_model("mine/Point-v0", drift, lambda seen: seen["place"], legal=everywhere)
    algorithm = MCTS(simulations=30, horizon=3, rule=UCT(3.0))
    state = algorithm.init(KEY, FENCED)
    act = jax.jit(lambda observation: algorithm.act(state, observation, (), KEY, False)[0])
    for mask, chosen in (([1, 1, 1], 0), ([0, 1, 1], 1), ([0, 0, 1], 2)):
        seen = {"action_mask": np.int8([mask]), "place": np.float32([[2, 0]])}
        np.testing.assert_array_equal(act(seen), [chosen])


def test_a_model_has_to_say_what_is_legal_where_observations_do(own):
    register_model("mine/Point-v0", drift, lambda seen: seen["place"])
    with pytest.raises(InvalidInput, match="does not say which actions are legal.*`legal`"):
        MCTS().init(KEY, FENCED)
