"""With an action mask, the values that are learned are those of a process without the forbidden
actions, which a loop over the legal ones finds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from etude.algorithms.actor_critic.sac import SAC, StochasticPolicy, actions_for, mean_of_rows
from etude.algorithms.value.boltzmann import Boltzmann
from etude.algorithms.value.distributional_heads import CategoricalHead, QuantileHead
from etude.algorithms.value.dqn import DQN
from etude.algorithms.value.epsilon_greedy import EpsilonGreedy
from etude.algorithms.value.heads import ScalarHead
from etude.algorithms.value.pqn import PQN
from etude.algorithms.value.q_functions import DiscreteQ
from etude.algorithms.value.q_learning import QLearning
from etude.algorithms.value.td import TD
from etude.data.transition import ReplayBatch, Transition
from etude.spaces import Composite, Discrete, EnvironmentSpec, MultiBinary
from etude.struct import replace, struct
from etude.types import Array

STATES, ACTIONS, DISCOUNT, SWEEPS = 5, 3, 0.8, 90
END = STATES - 1  # where play is over, and nothing is allowed
RNG = np.random.default_rng(3)
LEGAL = np.array([[0, 1, 1], [1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0]], bool)
AFTER = RNG.integers(0, STATES, (STATES, ACTIONS)).astype(np.int32)
AFTER[3, 1] = END
# what is forbidden would pay
REWARD = np.where(LEGAL, RNG.normal(size=LEGAL.shape), 20).astype(np.float32)
PAIRS = np.argwhere(LEGAL)
SPEC = EnvironmentSpec(
    Composite((MultiBinary((ACTIONS,)), Discrete(STATES)), ("action_mask", "state")),
    Discrete(ACTIONS),
    len(PAIRS),
)
KEY = jax.random.key(0)


def seen(state):
    return {"action_mask": jnp.asarray(LEGAL.astype(np.int8))[state], "state": state}


def every_transition():
    """One from each state by each of its legal actions, [pair]."""
    state, action = PAIRS.T.astype(np.int32)
    after = AFTER[state, action]
    return Transition(
        seen(state),
        action,
        REWARD[state, action],
        seen(after),
        after == END,
        np.zeros(len(PAIRS), bool),
    )


BATCH = ReplayBatch(
    every_transition(), jnp.float32(DISCOUNT * ~every_transition().terminated), jnp.float32(1)
)


@struct
class Table:
    """A network whose outputs are rows of a table; it does not look at the mask."""

    rows: Array  # [state, output]

    def __call__(self, observation):
        return self.rows[observation["state"]]


def values_by_loop(value_of_state):
    """Q [state, action] of the legal actions, where V(s) = value_of_state(s, Q of its actions)."""
    q = {tuple(pair): 0.0 for pair in PAIRS}
    for _ in range(SWEEPS):
        value = {END: 0.0} | {
            s: value_of_state(s, np.array([q[s, a] for a in np.flatnonzero(LEGAL[s])]))
            for s in range(END)
        }
        q = {(s, a): REWARD[s, a] + DISCOUNT * value[AFTER[s, a]] for s, a in q}
    return np.array([q[tuple(pair)] for pair in PAIRS])


EPSILON, TEMPERATURE = 0.3, 0.5
LOGITS = RNG.normal(size=(STATES, ACTIONS)).astype(np.float32)


def soft_value(s, q):
    """E[Q - α log π] of the softmax of the legal logits."""
    log_pi = scipy.special.log_softmax(LOGITS[s, LEGAL[s]].astype(float))
    return (np.exp(log_pi) * (q - TEMPERATURE * log_pi)).sum()


SCALAR = ScalarHead()


def q_function(q, head=SCALAR):
    return DiscreteQ(Table(q), head, ACTIONS, SPEC.observation)


def dqn_sweep(dqn, q):
    table = q_function(q)
    return dqn.estimate_target(table, table, BATCH, KEY)[:, 0]


def pqn_sweep(pqn, q):
    one_step = jax.tree.map(lambda x: jnp.asarray(x)[None], BATCH.transition)
    return pqn.estimate_target(q_function(q), one_step)[0]


def table_sweep(learner, q):
    state = replace(learner.init(KEY, SPEC), q=q)
    one_step = jax.tree.map(lambda x: jnp.asarray(x)[None], BATCH.transition)
    return learner.update(state, one_step, KEY)[0].q[tuple(PAIRS.T)]


def sac_sweep(sac, q):
    state = jax.eval_shape(partial(sac.init, KEY, SPEC))
    policy = StochasticPolicy(Table(jnp.asarray(LOGITS)), actions_for(SPEC, -20.0))
    state = replace(state, policy=policy, target_critics=(Table(q), Table(q + 1)))
    return sac.estimate_target(state, BATCH, KEY)


def greedy(s, q):
    return q.max()


def epsilon_greedy(s, q):
    return (1 - EPSILON) * q.max() + EPSILON * q.mean()


SOFT = SAC(hidden=(), capacity=256, initial_temperature=TEMPERATURE, learn_temperature=False)
TABULAR = QLearning(
    1.0, discount=DISCOUNT, initial_epsilon=EPSILON, final_epsilon=EPSILON, rollout_length=1
)
METHODS = {
    "dqn": (DQN(double=True), dqn_sweep, greedy),
    "dqn, not double": (DQN(double=False), dqn_sweep, greedy),
    "pqn": (PQN(discount=DISCOUNT), pqn_sweep, greedy),
    "q-learning": (TABULAR, table_sweep, greedy),
    "expected sarsa": (
        replace(TABULAR, td_target_kind="expected_sarsa"),
        table_sweep,
        epsilon_greedy,
    ),
    "sac": (SOFT, sac_sweep, soft_value),
}


@pytest.fixture(scope="module")
def learned():
    """By each method, Q [pair] after as many sweeps as the loop makes; what is forbidden keeps the
    100 that it has."""

    @jax.jit
    def sweep_all():
        start = jnp.where(LEGAL, 0.0, 100.0)

        def sweep(tables, _):
            return {
                name: q.at[tuple(PAIRS.T)].set(METHODS[name][1](METHODS[name][0], q))
                for name, q in tables.items()
            }, None

        tables = jax.lax.scan(sweep, dict.fromkeys(METHODS, start), length=SWEEPS)[0]
        return {name: q[tuple(PAIRS.T)] for name, q in tables.items()}

    return jax.device_get(sweep_all())


@pytest.mark.parametrize("name", METHODS)
def test_values_are_those_of_the_process_without_the_forbidden_actions(learned, name):
    np.testing.assert_allclose(
        learned[name], values_by_loop(METHODS[name][2]), rtol=1e-4, atol=1e-5
    )


def test_the_value_of_random_play_is_that_of_the_legal_actions():
    """A state's TD errors are averaged over its transitions, one for each legal action."""
    td = TD(1.0, discount=DISCOUNT)
    one_step = jax.tree.map(lambda x: jnp.asarray(x)[None], BATCH.transition)

    @jax.jit
    def evaluate():
        state = td.init(KEY, SPEC)
        sweep = lambda state, _: (td.update(state, one_step, KEY)[0], None)
        return jax.lax.scan(sweep, state, length=SWEEPS)[0].value

    q = dict(zip(map(tuple, PAIRS), values_by_loop(lambda s, q: q.mean()), strict=True))
    mean = [np.mean([q[s, a] for a in np.flatnonzero(LEGAL[s])]) for s in range(END)]
    np.testing.assert_allclose(evaluate()[:END], mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "head", [CategoricalHead(7, -3.0, 3.0), QuantileHead(4)], ids=["c51", "qr"]
)
def test_a_distribution_is_that_of_the_best_legal_action(head):
    """Chosen by its mean; where the episode is over it counts for nothing, and is finite."""
    rows = RNG.normal(size=(STATES, ACTIONS, head.num_atoms)).astype(np.float32)
    rows[~LEGAL] = np.linspace(0, 5, head.num_atoms)  # the best, were it allowed
    mean = np.asarray(head.mean(rows))
    best = [max(np.flatnonzero(LEGAL[s]), key=lambda a: mean[s, a]) for s in range(END)]
    q = q_function(jnp.asarray(rows.reshape(STATES, -1)), head)
    dqn, transition = DQN(head=head, double=True), BATCH.transition
    target = np.asarray(jax.jit(lambda: dqn.estimate_target(q, q, BATCH, KEY))())
    outputs = rows[np.arange(END), best]
    for i, after in enumerate(np.asarray(transition.next_observation["state"])):
        chosen = outputs[after] if after < END else np.zeros(head.num_atoms, np.float32)
        wanted = head.target(chosen, transition.reward[i], BATCH.discount[i])
        np.testing.assert_allclose(target[i], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "exploration",
    [EpsilonGreedy(1.0, 1.0), EpsilonGreedy(0.0, 0.0), Boltzmann(50.0, 50.0)],
    ids=["random", "greedy", "boltzmann"],
)
def test_exploration_is_among_the_legal_actions(exploration):
    """Each of them but of the greedy one, though what is forbidden seems best."""
    q = q_function(jnp.where(LEGAL, 0.0, 100.0))
    state = np.arange(400) % END
    keys = dict(zip(("key_greedy", "key_mix", "key_random"), jax.random.split(KEY, 3), strict=True))
    act = jax.jit(lambda state: exploration.act(q, seen(state), jnp.float32(1), **keys))
    taken = np.zeros((END, ACTIONS), bool)
    taken[state, np.asarray(act(state))] = True
    assert not (taken & ~LEGAL[:END]).any()
    greedy = np.eye(ACTIONS, dtype=bool)[LEGAL[:END].argmax(-1)]
    wanted = greedy if exploration == EpsilonGreedy(0.0, 0.0) else LEGAL[:END]
    np.testing.assert_array_equal(taken, wanted)


def test_a_soft_policy_never_does_what_is_forbidden_and_its_entropy_is_of_the_rest():
    policy = StochasticPolicy(Table(jnp.asarray(LOGITS)), actions_for(SPEC, -20.0))
    observation = seen(np.arange(END))
    probability = np.asarray(jax.nn.softmax(policy(observation).logits))
    assert (probability[~LEGAL[:END]] == 0).all() and (probability[LEGAL[:END]] > 0).all()
    sac = SAC(target_entropy_fraction=0.7)
    wanted = [0.7 * np.log(LEGAL[s].sum()) for s in range(END)]
    np.testing.assert_allclose(
        policy.actions.target_entropy(sac, observation), wanted, rtol=1e-6, atol=1e-7
    )


def test_rows_that_are_not_in_the_buffer_do_not_move_the_temperature():
    """As in sequences of a young buffer, whose weight is 0 there."""
    values, weight = jnp.float32([[1, 2], [3, 100]]), jnp.float32([[1, 0.5], [0.2, 0]])
    assert mean_of_rows(values, weight) == 2
    assert mean_of_rows(values, jnp.float32(1)) == values.mean()
    assert mean_of_rows(-1.5, weight) == -1.5
