"""Plans on a learned model: their values where they are known, and predictions that diverge."""

import itertools
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_members import SPEC, linear_model

from etude.algorithms.common.planning_policy import PlanningFields, empty_plans, follow_plan
from etude.algorithms.common.tree_policy import TreePlanner, visits_of_tree
from etude.algorithms.model_based.pets import PETS, PETSState
from etude.errors import InvalidInput
from etude.models.ensemble import Ensemble
from etude.models.known_functions import KnownFunctions
from etude.models.model_rows import ModelRows
from etude.models.variational import Variational
from etude.planning.planners import CEM, CMAES, ICEM, MPPI, RandomShooting
from etude.planning.plans import return_of_plans
from etude.planning.tree.rules import UCT
from etude.planning.tree.tree import SearchSettings
from etude.spaces import Discrete
from etude.struct import replace

KEY = jax.random.key(0)
FACTORS = (0.5, 0.9, 1.1)
START = jnp.ones((1, 1, 1))
HORIZON = 5


@partial(jax.jit, static_argnames="particles")
def values_of(model, plans, particles, risk_aversion=0.0):
    score = return_of_plans(model, START, KEY, particles=particles, risk_aversion=risk_aversion)
    return score(plans)


@jax.jit
def step(model, state, action, key=KEY):
    return model.step(state, action, key)


def test_with_a_member_for_the_whole_plan_the_value_is_the_mean_of_closed_forms():
    """Σₜ aᵗ for each member, however the particles are multiplied."""
    closed = np.mean([sum(a**t for t in range(HORIZON)) for a in FACTORS])
    plans = jnp.zeros((1, HORIZON, 1))
    for particles in (3, 6):
        value = values_of(linear_model(FACTORS, "ts-infinity"), plans, particles)
        np.testing.assert_allclose(value, closed, rtol=1e-5)


def test_with_another_member_at_each_step_the_value_is_that_of_mean_factors():
    """Each member has the same share of particles at each step. What a particle meets at one step
    tells nothing of the next, so E Σₜ Πaᵢ = Σₜ āᵗ, and the second moment is that of a²."""
    particles = 30_000
    model = linear_model(FACTORS, "ts1")
    (value,) = values_of(model, jnp.zeros((1, HORIZON, 1)), particles)
    mean, square = np.mean(FACTORS), np.mean(np.square(FACTORS))
    np.testing.assert_allclose(value, sum(mean**t for t in range(HORIZON)), rtol=0.01)
    # the last state of two steps
    first = step(model, jnp.ones((particles, 1, 1)), jnp.zeros((particles, 1, 1))).state
    second = step(model, first, jnp.zeros((particles, 1, 1)), jax.random.key(1)).state
    np.testing.assert_allclose(first.mean(), mean, rtol=1e-5)
    np.testing.assert_allclose((second**2).mean(), square**2, rtol=0.02)


def test_the_mean_of_members_steps_by_the_mean_factor():
    value = values_of(linear_model(FACTORS, "mean"), jnp.zeros((1, HORIZON, 1)), 1)
    np.testing.assert_allclose(value, sum(np.mean(FACTORS) ** t for t in range(HORIZON)), rtol=1e-5)


@pytest.mark.parametrize("propagation", ["ts-infinity", "ts1"])
def test_what_a_plan_is_worth_does_not_depend_on_the_plans_beside_it(propagation):
    """All meet the same members and the same noise, in whatever order and number."""
    model = linear_model(FACTORS, propagation, noise=0.3, push=0.5)
    plans = jax.random.uniform(KEY, (4, HORIZON, 1), minval=-1)
    values = values_of(model, plans, 6)
    order = jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(values_of(model, plans[order], 6), values[order], rtol=1e-5)
    same = values_of(model, jnp.broadcast_to(plans[:1], plans.shape), 6)
    np.testing.assert_allclose(same, values[0], rtol=1e-5)


def test_disagreement_of_members_is_the_risk_of_a_plan():
    """mean − c·std over members, by their closed forms."""
    returns = [sum(a**t for t in range(HORIZON)) for a in FACTORS]
    model = linear_model(FACTORS, "ts-infinity")
    value = values_of(model, jnp.zeros((1, HORIZON, 1)), 3, risk_aversion=2.0)
    np.testing.assert_allclose(value, np.mean(returns) - 2 * np.std(returns), rtol=1e-4)


def test_particles_that_members_cannot_share_evenly_are_refused():
    for propagation in ("ts-infinity", "ts1"):
        with pytest.raises(InvalidInput, match="4 particles .* 3 members .* multiple of 3"):
            values_of(linear_model(FACTORS, propagation), jnp.zeros((1, 2, 1)), 4)


def test_a_known_reward_pays_for_the_states_of_the_learned_model():
    known = KnownFunctions(lambda state, action, following: 10 * following[0] + action[0])
    model = replace(linear_model((0.5,), "ts-infinity"), known=known)
    value = values_of(model, jnp.full((1, 3, 1), 0.25), 1)
    np.testing.assert_allclose(value, 10 * (0.5 + 0.25 + 0.125) + 3 * 0.25, rtol=1e-5)


class Cliff(PlanningFields):
    """Acts by a plan of two steps."""


@pytest.mark.parametrize(
    "planner",
    [
        CEM(elites=2),
        *(
            pytest.param(planner, marks=pytest.mark.system)
            for planner in (ICEM(elites=2, follow="mean"), MPPI(), CMAES(), RandomShooting())
        ),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_a_plan_that_diverges_is_never_followed_though_all_returns_are_negative(planner):
    """Where u > 0 the state explodes; elsewhere a step costs 1 to 2, and the best plan is the
    edge. Where every plan explodes, the middle of the box is taken and said to be so."""
    reward = KnownFunctions(lambda state, action, following: -1.0 + action[0])
    model = replace(linear_model((1.0,), "ts-infinity"), known=reward)
    fields = Cliff(planner=planner, horizon=2, samples=16, iterations=3)
    spec = replace(SPEC, num_envs=2)

    class Explodes:
        ends = False

        def __init__(self, above):
            self.above = above

        def __getattr__(self, name):
            return getattr(model, name)

        def step(self, state, action, key):
            blown = jnp.where(action > self.above, jnp.inf, 0.0)
            outcome = model.step(state + blown, action, key)
            return replace(outcome, state=state)

    @jax.jit
    def act(above):
        memory = empty_plans(fields, spec)
        return follow_plan(fields, Explodes(above), jnp.ones((2, 1)), memory, KEY, spec.action)

    action, memory = act(0.0)
    assert (action <= 0).all() and not memory.has_diverged.any()
    action, memory = act(-2.0)
    np.testing.assert_array_equal(action, 0)
    assert memory.has_diverged.all()
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(memory.start))


def test_a_prediction_far_from_all_data_counts_as_diverged():
    model = linear_model((3.0,), "ts-infinity")
    far, near = jnp.full((1, 1, 1), 40.0), jnp.full((1, 1, 1), 30.0)
    action = jnp.zeros((1, 1, 1))
    assert step(model, far, action).reward == -jnp.inf
    assert step(model, near, action).reward == 30
    # a tree averages, so there it is a large cost
    alone = linear_model((1.0, 3.0), "ts-infinity").with_member(1)
    assert step(alone, far, action).reward == -100
    np.testing.assert_allclose(step(alone, near, action).state, 90)


def pushed_point(factors=(1.0,)):
    """A point on a line that one of three actions pushes by −1, 0 or 1, scaled by the member's
    factor; each step costs the squared distance from 2."""
    reward = KnownFunctions(lambda state, action, following: -((following[0] - 2.0) ** 2))
    base = linear_model(factors, "ts-infinity")
    push = jnp.float32([[[0, -1, 0, 1], [0, 0, 0, 0]]]) * jnp.float32(factors)[:, None, None]
    leaves, tree = jax.tree.flatten(base.members.mlp)
    mlp = jax.tree.unflatten(tree, [push if x.ndim == 3 else x for x in leaves])
    return replace(
        base,
        members=replace(base.members, mlp=mlp),
        inputs=replace(base.inputs, mean=jnp.zeros(4), std=jnp.ones(4)),
        spec=replace(SPEC, action=Discrete(3)),
        known=reward,
    )


@pytest.mark.system
@pytest.mark.parametrize("start", [0.0, 2.0, 3.0])
def test_discrete_plans_are_the_best_of_all(start):
    """Brute force over the 27 plans of three steps finds the action of a planner that moves
    numbers, and of trees."""
    model = pushed_point()
    plans = jnp.array([*itertools.product(range(3), repeat=3)])
    state = jnp.full((1, 1, 1), start)
    best = plans[return_of_plans(model, state, KEY)(plans).argmax(), 0]
    fields = Cliff(planner=CEM(elites=8), horizon=3, samples=64, iterations=4)
    memory = empty_plans(fields, model.spec)
    action, _ = follow_plan(fields, model, state[0], memory, KEY, Discrete(3))
    assert action[0] == best
    settings = SearchSettings(simulations=100, horizon=3)
    visits = visits_of_tree(
        model.with_member(0), state[0, 0], (), jnp.ones(3, bool), UCT(5.0), settings, KEY, KEY
    )
    assert visits.argmax() == best and visits.sum() == 100


@pytest.mark.system
def test_each_tree_plans_with_its_member():
    """Two members push in opposite directions, so their trees choose opposite actions; where two
    of three agree, their visits outnumber the third's."""
    model = pushed_point((1.0, -1.0, 1.0))
    settings = SearchSettings(simulations=60, horizon=2)

    def visits(member):
        tree = model.with_member(member)
        return visits_of_tree(
            tree, jnp.zeros(1), (), jnp.ones(3, bool), UCT(5.0), settings, KEY, KEY
        )

    each = jax.vmap(visits)(jnp.arange(3))
    np.testing.assert_array_equal(each.argmax(-1), [2, 0, 2])
    algorithm = PETS(tree_search=TreePlanner(UCT(5.0), 60, 3), horizon=2)
    with mock.patch.object(Ensemble, "planning_model", lambda *given: model):
        state = PETSState(None, None, model.spec)
        chosen = algorithm.search_trees(state, jnp.zeros((1, 1)), KEY, KEY)
    assert chosen.tolist() == [2]


@pytest.mark.parametrize("kind", [Ensemble(hidden=(8,)), Variational(hidden=(8,))])
def test_a_reward_that_is_always_the_same_is_predicted_so_everywhere(kind):
    """Else what a network errs by would be all that tells plans apart: a pole drifted off its track
    for a hundredth of a reward."""
    rng = np.random.default_rng(0)
    count = 200
    state, action = (jnp.float32(rng.normal(size=(count, n))) for n in (1, 1))
    rows = ModelRows(
        state, action, jnp.full(count, -1.0), 0.9 * state + action, jnp.zeros(count, bool),
        jnp.arange(count, dtype=jnp.int32), jnp.ones(count, bool),
    )  # fmt: skip
    dynamics, _ = jax.jit(replace(kind, gradient_steps=50).fit)(
        kind.init(jax.random.key(0), SPEC, KnownFunctions()), rows, jax.random.key(1)
    )
    model = kind.planning_model(dynamics, jax.random.key(2), "ts-infinity")
    far = jnp.linspace(-30, 30, 5 * 40).reshape(5, 40, 1)
    step = model.step(far, jnp.ones((5, 40, 1)), jax.random.key(3))
    np.testing.assert_allclose(step.reward, -1.0, atol=1e-3)
    assert float(step.state.std()) > 1
