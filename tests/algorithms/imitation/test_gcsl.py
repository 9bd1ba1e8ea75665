"""GCSL keeps its own episodes, and clones them as goal-conditioned cloning clones a dataset."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lives import Lives, example, number_of

from etude.algorithms.imitation import gcbc, gcsl
from etude.algorithms.imitation.gcsl import GCSL, StoredMemory
from etude.algorithms.imitation.goal_cloning import GoalInput, GoalMemory
from etude.algorithms.protocol import init_state
from etude.data.dataset import Dataset
from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import Indices
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec
from etude.struct import replace

KEY = jax.random.key(0)
RING, ENVS, ROLLOUT = 24, 2, 4
CHOICES = Discrete(10**6)
SEEN = Box((), dtype="float32")
GOAL_INPUT = GoalInput(SEEN)
BLANK = StoredMemory(np.int32(0))


def is_done(row):
    return row["terminated"] or row["truncated"]


@jax.jit
def insert(buffer, lived, step):
    memory = GoalMemory((), step)
    return ring_buffer.insert(buffer, gcsl.to_stored(replace(lived, memory=memory), CHOICES))


def filled(rollouts, pictures=False, **lives):
    """A ring of rollouts as GCSL fills it, and the lives they are from."""
    lived, steps = Lives(4, ENVS, images=pictures, **lives), np.zeros(ENVS, np.int32)
    buffer = ring_buffer.init(replace(example(pictures), memory=BLANK), RING * ENVS, ENVS, ROLLOUT)
    for _ in range(rollouts):
        experience, memory = lived.live(ROLLOUT), []
        for done in np.asarray(experience.done):
            steps += 1
            memory.append(steps.copy())
            steps[done] = 0
        buffer = insert(buffer, experience, np.stack(memory))
    return buffer, lived


def held(buffer, lived):
    """The rows in the ring since the first insert, [(time, env)]."""
    oldest, count = int(ring_buffer.oldest(buffer)), len(lived.rows)
    return [(t, env) for t in range(oldest, count) for env in range(ENVS)]


def later_in_episode(lived, t, env):
    """The observations that follow row t in its episode, as far as it has come."""
    following = []
    for row in (step[env] for step in lived.rows[t:]):
        following.append(row["after"])
        if is_done(row):
            break
    return following


def numbers(observation, pictures):
    return number_of(observation["eye"]) if pictures else np.asarray(observation)


@pytest.mark.parametrize(
    ("rollouts", "pictures"),
    [(2, False), (11, False), pytest.param(11, True, marks=pytest.mark.system)],
)
def test_goals_are_of_the_same_episode_wherever_the_ring_begins(rollouts, pictures):
    """Each one that follows in it is drawn, its last observation included, whatever ended it; of
    episodes that are overwritten in part, for the steps that are left."""
    buffer, lived = filled(rollouts, pictures)
    where = held(buffer, lived)
    time, env = np.int32(where * 200).T  # each one 200 times
    relabel = jax.jit(gcsl.relabel_rows, static_argnums=0)
    batch = relabel(GOAL_INPUT, KEY, buffer, Indices(time % RING, env))
    seen, goals = (numbers(batch.observation[name], pictures) for name in ("observation", "goal"))
    np.testing.assert_array_equal(batch.action[:, 0], seen)  # as these lives act
    for i, (t, copy) in enumerate(where):
        assert (seen[i :: len(where)] == lived.rows[t][copy]["observation"]).all()
        expected = later_in_episode(lived, t, copy)
        drawn, counts = np.unique(goals[i :: len(where)], return_counts=True)
        if len(expected) <= 20:
            assert drawn.tolist() == expected
        share = 1 / len(expected)
        assert set(drawn) <= set(expected)
        assert abs(counts / 200 - share).max() < 5 * np.sqrt(share * (1 - share) / 200) + 1e-9


@jax.jit
def goals_in(buffer):
    return gcsl.draw_last_observations(KEY, buffer, gcsl.count_goals(buffer), 500)


def drawn_goals(buffer):
    return set(np.asarray(goals_in(buffer)).tolist())


def test_an_episode_is_played_for_where_one_in_the_ring_ended():
    """Before one has ended, for anything observed; and before that, for zeros."""
    empty = ring_buffer.init(replace(example(False), memory=BLANK), RING * ENVS, ENVS, ROLLOUT)
    assert drawn_goals(empty) == {0}
    buffer, lived = filled(1, terminated=0.0, truncated=0.0)
    assert drawn_goals(buffer) == {row["after"] for step in lived.rows for row in step}
    buffer, lived = filled(11)
    ends = {lived.rows[t][i]["after"] for t, i in held(buffer, lived) if is_done(lived.rows[t][i])}
    assert len(ends) > 5 and drawn_goals(buffer) == ends


@pytest.mark.parametrize("names", [("place",), ("gear", "place")])
def test_an_episode_is_played_for_named_parts_of_an_observation(names):
    """By their shapes: the goal in the memory, the distance of it."""
    space = Composite((Discrete(5), Box((2,))), ("gear", "place"))
    spec = EnvironmentSpec(space, Discrete(2), 3)
    method = GCSL(hidden=(4,), goal=names)

    def play(key):
        state = init_state(method, key, spec)
        memory = method.initial_memory(state, spec, key)
        seen = {"gear": jnp.zeros(3, jnp.int32), "place": jnp.zeros((3, 2))}
        action, after = method.act(state, seen, memory, key, True)
        return memory, after, action, method.final_measures(state, after, seen)

    memory, after, action, measured = jax.eval_shape(play, KEY)
    assert memory.goal.keys() == set(names) and memory.goal["place"].shape == (3, 2)
    assert jax.tree.map(jnp.shape, memory) == jax.tree.map(jnp.shape, after)
    assert action.shape == measured["distance"].shape == (3,)


def test_what_is_stored_is_what_was_executed():
    """A sample of a normal beyond the bounds of a Box is cut to them."""
    step = replace(Lives(0, ENVS, images=False).live(1), memory=GoalMemory((), np.int32([[1, 1]])))
    stored = gcsl.to_stored(
        replace(step, action=jnp.float32([[[1.5], [-0.2]]])), Box((1,), low=-3.0, high=3.0)
    )
    np.testing.assert_allclose(stored.action, [[[1.0], [-0.2]]], rtol=1e-6)


def test_on_the_same_episodes_it_is_goal_conditioned_cloning():
    """Of one copy whose episodes have ended: the same demonstrations by the same key, from the ring
    and from a dataset, and so the same loss and gradient."""
    lived = Lives(1, 1, terminated=0.2, truncated=0.2, images=False).live(RING)
    ends = np.asarray(lived.done).ravel().copy()
    ends[-1] = True
    lived = replace(
        lived, action=lived.action % 2, truncated=jnp.asarray(ends[:, None]) & ~lived.terminated
    )
    lengths = np.diff(np.flatnonzero(np.concatenate([[True], ends])))
    steps = np.concatenate([np.arange(1, n + 1) for n in lengths])
    buffer = ring_buffer.init(replace(example(False), memory=BLANK), RING, 1, RING)
    buffer = ring_buffer.insert(
        buffer,
        gcsl.to_stored(
            replace(lived, memory=GoalMemory((), np.int32(steps[:, None]))), Discrete(2)
        ),
    )
    spec = EnvironmentSpec(SEEN, Discrete(2))
    transitions = jax.tree.map(lambda x: x[:, 0], lived)
    dataset = Dataset(transitions, jnp.int32(lengths), spec)
    rows = jnp.array([0, 3, 5, 11, 20, RING - 1])

    @jax.jit
    def both(key):
        indices = Indices(rows, jnp.zeros_like(rows))
        return (
            gcsl.relabel_rows(GOAL_INPUT, key, buffer, indices),
            gcbc.relabel_steps(GOAL_INPUT, key, dataset, rows),
        )

    jax.tree.map(np.testing.assert_array_equal, *both(KEY))


ROOM = Composite((SEEN,) * 3, ("achieved_goal", "desired_goal", "observation"))


def test_it_plays_at_random_first_and_then_as_its_settings_say():
    """400 copies of a policy that is sure of the first of two actions."""
    spec, random_steps = EnvironmentSpec(ROOM, Discrete(2), 400), 100
    method = GCSL(hidden=(4,), capacity=100_000, random_steps=random_steps)
    seen = {name: jnp.zeros(400) for name in ROOM.names}

    @jax.jit
    def shares(key):
        """How often the first action is done."""
        state = init_state(method, key, spec)
        weights = state.learner.weights
        sure = lambda x: jnp.zeros_like(x).at[:1].add(2.0 * (x.ndim == 1))
        weights = replace(weights, head=jax.tree.map(sure, weights.head))
        state = replace(state, learner=replace(state.learner, weights=weights))

        def share(explore=True, steps=random_steps, **settings):
            now = replace(state, steps=jnp.int32(steps))
            memory = method.initial_memory(now, spec, key)
            action, _ = replace(method, **settings).act(now, seen, memory, key, explore)
            return (action == 0).mean()

        return (
            share(steps=random_steps - 1),
            share(),
            share(sample_actions=False, epsilon=0.4),
            share(sample_actions=False),
            share(explore=False, epsilon=1.0),
        )

    at_random, sampled, mixed, greedy, evaluated = shares(KEY)
    spread = 4 * np.sqrt(0.25 / 400)
    assert abs(at_random - 0.5) < spread and abs(sampled - 1 / (1 + np.exp(-2))) < spread
    assert abs(mixed - 0.8) < spread and greedy == evaluated == 1


def test_remarks_tell_of_steps_that_are_dropped_or_random():
    method = GCSL(rollout_length=10, capacity=105, random_steps=50)
    assert method.remarks(1, 100) == ()
    assert "the latest 100 are kept" in method.remarks(1, 101)[0]
    assert "all 50 steps are random" in method.remarks(1, 50)[0]
