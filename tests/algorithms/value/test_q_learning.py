"""Q-learning, SARSA and expected SARSA: the textbook's loops step by step, exact values, and the
two ways along the cliff."""

from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.algorithms.value.q_learning import SARSA, QLearning
from etude.data.transition import Transition
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.tabular import Tabular
from etude.environments.wrappers.time_limit import TimeLimit
from etude.errors import InvalidInput
from etude.spaces import Discrete, EnvironmentSpec
from etude.struct import replace, validate
from etude.tabular import evaluation
from etude.tabular.dynamic_programming import q_iteration
from etude.tabular.mdp import from_gymnasium, make_mdp
from etude.training import init_train_state, pure_train, train_iteration

KEY = jax.random.key(0)
STATES, ACTIONS = 4, 3
TARGETS = ["q_learning", "sarsa", "expected_sarsa"]
every_target = pytest.mark.parametrize("target", TARGETS)


def process_of(seed, sure=False, end=0.2):
    """A random process of four states and three actions, or one without chance but for where play
    begins."""
    rng = np.random.default_rng(seed)
    shape = STATES, ACTIONS, STATES
    law = (
        np.eye(STATES)[rng.integers(STATES, size=shape[:2])]
        if sure
        else rng.dirichlet(np.ones(STATES), shape[:2])
    )
    ends = (rng.random(shape) < end) if sure else end
    return make_mdp(law, rng.normal(size=shape), ends, np.eye(STATES)[0] if sure else None)


@partial(jax.jit, static_argnames=("iterations", "num_envs", "limit"))
def learned(algorithm, process, key, iterations=2500, num_envs=16, limit=6):
    """q [state, action] after training with a time limit; the defaults, for small processes, are
    compiled once a target."""
    return pure_train(
        algorithm, JaxEnvs(TimeLimit(Tabular(process), limit), num_envs), key, iterations
    )[0].algorithm_state.q


def experience(seed, time, copies):
    """[time, env]: successors follow on, ends of both kinds are frequent, and copies often meet."""
    rng = np.random.default_rng(seed)
    states = rng.integers(STATES, size=(time + 1, copies), dtype=np.int32)
    terminated, truncated = rng.random((2, time, copies)) < 0.25
    after = np.where(
        terminated | truncated,
        rng.integers(STATES, size=(time, copies), dtype=np.int32),
        states[1:],
    )
    return Transition(
        states[:-1],
        rng.integers(ACTIONS, size=(time, copies), dtype=np.int32),
        rng.normal(size=(time, copies)).astype(np.float32),
        after,
        terminated,
        truncated,
    )


class Slow:
    """The updates of one moment after another, in loops and float64."""

    def __init__(self, q, target, rate, discount, epsilon):
        self.q, self.td_target_kind = np.array(q, float), target
        self.rate, self.discount, self.epsilon = rate, discount, epsilon
        self.pending, self.told = {}, []

    def future(self, after, action=None):
        values = self.q[after]
        if action is not None:
            return values[action]
        return (
            values.max()
            if self.td_target_kind == "q_learning"
            else (1 - self.epsilon) * values.max() + self.epsilon * values.mean()
        )

    def apply(self, lessons):
        """[(state, action, target)]: the mean of the errors where several are of one state and
        action."""
        errors = {}
        for state, action, target in lessons:
            self.told.append((0.5 * (target - self.q[state, action]) ** 2, self.q[state, action]))
            errors.setdefault((state, action), []).append(target - self.q[state, action])
        for place, found in errors.items():
            self.q[place] += self.rate * np.mean(found)

    def moment(self, now):
        if self.td_target_kind == "sarsa":
            self.apply(
                [
                    (s, a, r + self.discount * self.future(after, now.action[i]))
                    for i, (s, a, r, after) in sorted(self.pending.items())
                ]
            )
        lessons, self.pending = [], {}
        for i, (s, a, r, after, terminated, truncated) in enumerate(
            zip(
                now.observation,
                now.action,
                now.reward,
                now.next_observation,
                now.terminated,
                now.truncated,
                strict=True,
            )
        ):
            if self.td_target_kind == "sarsa" and not (terminated or truncated):
                self.pending[i] = s, a, r, after
            else:
                lessons.append((s, a, r if terminated else r + self.discount * self.future(after)))
        self.apply(lessons)


@every_target
def test_updates_are_those_of_slow_loops(target):
    """Through three updates of five moments of three copies; SARSA waits across them."""
    algorithm = QLearning(
        learning_rate=0.4,
        discount=0.8,
        initial_epsilon=0.6,
        final_epsilon=0.6,
        td_target_kind=target,
        rollout_length=5,
        initial_value=0.3,
    )
    state = algorithm.init(KEY, EnvironmentSpec(Discrete(STATES), Discrete(ACTIONS), 3))
    slow = Slow(state.q, target, 0.4, 0.8, 0.6)
    update, learned = jax.jit(QLearning.update), 0
    for i in range(3):
        lived = experience(i, 5, 3)
        state, metrics = update(algorithm, state, lived, KEY)
        slow.told = []
        for t in range(5):
            slow.moment(jax.tree.map(lambda x, t=t: x[t], lived))
        np.testing.assert_allclose(state.q, slow.q, rtol=1e-5, atol=1e-6)
        loss, value = np.mean(slow.told, axis=0)
        assert metrics["q_loss"] == pytest.approx(loss, rel=1e-5) and metrics[
            "q_value"
        ] == pytest.approx(value, rel=1e-4)
        assert metrics["updates"] == len(slow.told) == 15 * (i + 1) - len(
            slow.pending
        ) - learned and state.steps == 15 * (i + 1)
        learned += len(slow.told)
        if target == "sarsa":
            np.testing.assert_array_equal(
                state.pending.valid, [i in slow.pending for i in range(3)]
            )
        else:
            assert state.pending == ()


def test_an_update_that_teaches_nothing_says_nothing():
    """SARSA's first step has no next action yet: no update, and no mean of nothing."""
    algorithm = SARSA()
    state = algorithm.init(KEY, EnvironmentSpec(Discrete(STATES), Discrete(ACTIONS), 1))
    lived = replace(
        experience(0, 1, 1), terminated=np.zeros((1, 1), bool), truncated=np.zeros((1, 1), bool)
    )
    after, metrics = jax.jit(QLearning.update)(algorithm, state, lived, KEY)
    assert {name: float(x) for name, x in metrics.items()} == {
        "q_loss": 0,
        "q_value": 0,
        "updates": 0,
    }
    np.testing.assert_array_equal(after.q, state.q)


def textbook(process, target, steps, rate, discount):
    """The loops of Sutton & Barto, 2018, sections 6.4 to 6.6, played greedily: [(state, action)]
    and q after each step."""
    law, reward, ends = (
        np.asarray(x, float) for x in (process.transition, process.reward, process.termination)
    )
    start = np.asarray(process.initial).argmax()
    q, state = np.zeros(law.shape[:2]), start
    path, course = [], []
    action = q[state].argmax()
    for _ in range(steps):
        if target != "sarsa":
            action = q[state].argmax()
        path.append((state, action))
        after = law[state, action].argmax()
        over = ends[state, action, after]
        chosen = q[after].argmax()  # before anything is learned from this step
        q[state, action] += rate * (
            reward[state, action, after]
            + discount * (1 - over) * q[after, chosen]
            - q[state, action]
        )
        course.append(q.copy())
        state = start if over else after
        action = q[start].argmax() if over else chosen
    return np.array(path), np.array(course)


@pytest.mark.slow
@every_target
def test_greedy_play_is_the_textbooks_step_by_step(target):
    """Without chance both go the same way: 300 steps over many episodes, exploring by hope alone.
    What SARSA learned of a step is known one step later, when its next action is chosen as the
    textbook chooses it."""
    process = process_of(10, sure=True, end=0.3)
    process = replace(process, reward=process.reward - 1.5)
    algorithm = QLearning(
        learning_rate=0.3,
        discount=0.9,
        initial_epsilon=0.0,
        final_epsilon=0.0,
        td_target_kind=target,
    )
    environment = JaxEnvs(Tabular(process), 1)

    @jax.jit
    def play(key):
        def step(training, index):
            after = train_iteration(algorithm, environment, training, key, index)
            action, _ = algorithm.act(
                training.algorithm_state, training.rollout_state.observation, (), key, False
            )
            return after, (
                training.rollout_state.observation[0],
                action[0],
                after.algorithm_state.q,
            )

        return jax.lax.scan(step, init_train_state(algorithm, environment, key), jnp.arange(300))[1]

    state, action, q = (np.asarray(x) for x in play(KEY))
    path, course = textbook(process, target, 300, 0.3, 0.9)
    np.testing.assert_array_equal(np.stack([state, action], 1), path)
    assert len(np.unique(path, axis=0)) == STATES * ACTIONS
    if target == "sarsa":
        after = np.asarray(process.transition)[path[:, 0], path[:, 1]].argmax(-1)
        over = np.asarray(process.termination)[path[:, 0], path[:, 1], after] > 0
        assert 20 < over.sum() < 280
        np.testing.assert_allclose(q[over], course[over], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(q[1:][~over[1:]], course[:-1][~over[1:]], rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_allclose(q, course, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_values_are_the_exact_ones_where_there_is_no_chance():
    """α = 1 and every choice tried often: Q* to the last digits, though episodes are also cut off,
    which is no end."""
    process = process_of(4, sure=True)
    algorithm = QLearning(learning_rate=1.0, discount=0.9, initial_epsilon=1.0, final_epsilon=1.0)
    q = learned(algorithm, process, KEY)
    np.testing.assert_allclose(q, jax.jit(q_iteration)(process, 0.9)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(target, marks=pytest.mark.slow if target == "sarsa" else pytest.mark.system)
        for target in TARGETS
    ],
)
def test_a_time_limit_is_no_end(target):
    """Reward 1 for ever, cut off every six steps: worth 1 / (1 - γ) everywhere, and 1 where the
    first step is the last."""
    algorithm = QLearning(
        learning_rate=0.5,
        discount=0.8,
        initial_epsilon=1.0,
        final_epsilon=1.0,
        td_target_kind=target,
    )
    for end, worth in ((0, 5), (1, 1)):
        process = make_mdp(process_of(6).transition, 1, end)
        np.testing.assert_allclose(
            learned(algorithm, process, KEY), np.full((STATES, ACTIONS), worth), rtol=1e-3
        )


@pytest.mark.slow
@every_target
def test_values_are_the_exact_ones_within_a_tolerance_where_there_is_chance(target):
    """α as 1 / steps, all 40,000: those of the best policy, or of the one that is played, here at
    random."""
    process, discount = process_of(5), 0.8
    algorithm = QLearning(
        learning_rate=1.0,
        harmonic_decay_steps=100.0,
        discount=discount,
        initial_epsilon=1.0,
        final_epsilon=1.0,
        td_target_kind=target,
    )
    q = np.asarray(learned(algorithm, process, KEY))
    v = np.asarray(
        jax.jit(evaluation.policy_value)(process, np.full((STATES, ACTIONS), 1 / ACTIONS), discount)
    )
    random = np.asarray(process.expected_reward) + discount * np.asarray(process.continues) @ v
    best = np.asarray(jax.jit(q_iteration)(process, discount)[0])
    exact, other = (best, random) if target == "q_learning" else (random, best)
    assert abs(q - exact).max() < 0.2 and abs(q - other).max() > 0.5


def greedy_path(process, q):
    """The states from the start on, at most forty, where there is no chance."""
    law, path = np.asarray(process.transition), [int(np.asarray(process.initial).argmax())]
    while len(path) < 40 and path[-1] != 47:
        path.append(int(law[path[-1], q[path[-1]].argmax()].argmax()))
    return path


def soft(q, epsilon):
    """The ε-greedy policy, [state, action]."""
    return (1 - epsilon) * np.eye(q.shape[1])[q.argmax(-1)] + epsilon / q.shape[1]


@pytest.mark.system
def test_on_the_cliff_the_best_path_and_the_safe_one():
    """ε = .1 to the end (Sutton & Barto, 2018, example 6.6): Q-learning's 13 steps go along the
    edge, SARSA's keep off it, and each is right about what it asks: the best policy's values, and
    those of its own ε-greedy play."""
    process, epsilon, edge = from_gymnasium("CliffWalking-v1"), 0.1, set(range(25, 35))
    algorithm = QLearning(
        learning_rate=0.5,
        harmonic_decay_steps=1e4,
        discount=1.0,
        initial_epsilon=epsilon,
        final_epsilon=epsilon,
    )
    best = np.asarray(learned(algorithm, process, KEY, 2000, 16, limit=1000))
    safe = np.asarray(
        learned(replace(algorithm, td_target_kind="sarsa"), process, KEY, 6000, 16, limit=1000)
    )
    value = jax.jit(evaluation.policy_value)
    env = gymnasium.make("CliffWalking-v1")
    path = greedy_path(process, best)[:-1]
    assert play(env, best) == -13 and edge < set(path)
    np.testing.assert_allclose(best[path].max(1), np.arange(-13, 0), atol=0.01)
    path = greedy_path(process, safe)[:-1]
    assert play(env, safe) in (-15, -17) and not edge & set(path)
    v = np.asarray(value(process, soft(safe, epsilon), 1.0))
    exact = np.asarray(process.expected_reward) + np.asarray(process.continues) @ v
    np.testing.assert_allclose(safe[path].max(1), exact[path, safe[path].argmax(1)], atol=1.5)
    # -22 against -46 while they explore
    assert v[36] > value(process, soft(best, epsilon), 1.0)[36] + 15


def play(env, q):
    """The return of an episode of Gymnasium's own, at most 200 steps."""
    state, _ = env.reset(seed=0)
    total, over = 0, False
    for _ in range(200):
        if over:
            break
        state, reward, over, _, _ = env.step(int(q[state].argmax()))
        total += reward
    return total


@pytest.mark.system
def test_every_passenger_is_driven_the_shortest_way():
    """Taxi with its limit of 200 steps: the greedy policy is worth V* from each of the 300 first
    states, 7.93 on average."""
    process = from_gymnasium("Taxi-v4")
    algorithm = QLearning(learning_rate=1.0, discount=1.0, initial_epsilon=0.3, final_epsilon=0.3)
    q = np.asarray(learned(algorithm, process, KEY, 5000, 32, limit=200))
    first = np.asarray(process.initial) > 0
    greedy = jax.jit(partial(evaluation.value_by_iteration, iterations=60))(
        process, np.eye(6)[q.argmax(1)], 1.0
    )
    np.testing.assert_allclose(np.asarray(greedy)[first], q[first].max(1), atol=1e-3)
    optimal = np.asarray(jax.jit(q_iteration)(process, 1.0)[0]).max(1)
    np.testing.assert_allclose(np.asarray(greedy)[first], optimal[first], atol=1e-3)
    assert greedy @ process.initial == pytest.approx(7.93, abs=1e-4)


@pytest.mark.slow
def test_gymnasiums_own_cliff_teaches_what_the_textbook_says():
    """In a compiled loop with callbacks: the whole table is the same after 400 greedy steps."""
    algorithm = QLearning(learning_rate=0.5, discount=1.0, initial_epsilon=0.0, final_epsilon=0.0)
    environment = GymnasiumEnvs(lambda: gymnasium.make("CliffWalking-v1"), 1)
    q = jax.jit(lambda key: pure_train(algorithm, environment, key, 400))(KEY)[0].algorithm_state.q
    path, course = textbook(from_gymnasium("CliffWalking-v1"), "q_learning", 400, 0.5, 1.0)
    np.testing.assert_allclose(q, course[-1], rtol=1e-6)
    assert len(np.unique(path[:, 0])) > 20


def test_play_is_random_as_often_as_epsilon_says_and_the_first_of_equals_greedy():
    algorithm = QLearning(initial_epsilon=1.0, final_epsilon=0.0, exploration_steps=100.0)
    state = algorithm.init(KEY, EnvironmentSpec(Discrete(2), Discrete(4), 1))
    state = replace(state, q=jnp.array([[0.0, 2, 1, 2], [0, 0, 0, 0]]))
    act = jax.jit(QLearning.act, static_argnames="explore")
    observation = np.tile(np.int32([0, 1]), 10_000)
    greedy, memory = act(algorithm, state, observation, {"kept": 1}, KEY, explore=False)
    np.testing.assert_array_equal(greedy, np.where(observation == 0, 1, 0))
    assert memory == {"kept": 1}
    for steps, epsilon in ((0, 1), (60, 0.4), (100, 0)):
        action, memory = act(
            algorithm, replace(state, steps=np.int32(steps)), observation, (), KEY, explore=True
        )
        assert action.dtype == greedy.dtype and action.shape == greedy.shape and memory == ()
        # one of four is the greedy one
        assert (action != greedy).mean() == pytest.approx(0.75 * epsilon, abs=0.015)
        if epsilon == 1:
            np.testing.assert_allclose(np.bincount(action), 5000, atol=300)


def test_the_rate_falls_to_a_half_and_then_as_one_over_the_steps():
    """Seen in what one update of a single step does, γ = 0."""
    algorithm = QLearning(learning_rate=0.8, harmonic_decay_steps=100.0, discount=0.0)
    state = algorithm.init(KEY, EnvironmentSpec(Discrete(STATES), Discrete(ACTIONS), 1))
    lived = replace(experience(0, 1, 1), reward=np.ones((1, 1), np.float32))
    update = jax.jit(QLearning.update)
    for steps, rate in ((0, 0.8), (100, 0.4), (300, 0.2), (79_900, 0.001)):
        q = update(algorithm, replace(state, steps=np.int32(steps)), lived, KEY)[0].q
        assert q.sum() == pytest.approx(rate, rel=1e-5)
    steady = update(
        replace(algorithm, harmonic_decay_steps=float("inf")),
        replace(state, steps=np.int32(10**9)),
        lived,
        KEY,
    )[0].q
    assert steady.sum() == pytest.approx(0.8)


def test_the_table_starts_as_asked():
    state = QLearning(initial_value=2.5).init(
        KEY, EnvironmentSpec(Discrete(STATES), Discrete(ACTIONS), 2)
    )
    np.testing.assert_array_equal(state.q, np.full((STATES, ACTIONS), 2.5))
    assert state.q.dtype == jnp.float32 and state.steps == 0 and SARSA().td_target_kind == "sarsa"
    assert (
        not SARSA()
        .init(KEY, EnvironmentSpec(Discrete(STATES), Discrete(ACTIONS), 2))
        .pending.valid.any()
    )


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"learning_rate": 1.5}, "learning_rate is 1.5; it must be above 0 and at most 1"),
        ({"harmonic_decay_steps": 0.0}, "harmonic_decay_steps is 0.0; it must be above 0"),
        (
            {"td_target_kind": "double"},
            "td_target_kind is 'double'; choose one of q_learning, sarsa, expected_sarsa",
        ),
    ],
)
def test_settings_out_of_bounds_are_refused(setting, message):
    with pytest.raises(InvalidInput, match=message):
        validate(QLearning(**setting))
