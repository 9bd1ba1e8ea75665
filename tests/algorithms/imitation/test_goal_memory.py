"""A memory beside a goal: it is that of the observations alone, and every step learns from a goal
of its own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import call

import etude
from etude.algorithms.imitation import cloning, gcsl
from etude.algorithms.imitation.gcbc import GCBC
from etude.algorithms.imitation.gcsl import GCSL
from etude.algorithms.imitation.sequences import Sequences
from etude.algorithms.protocol import NOTHING, Outside, init_state
from etude.data.dataset import dataset_shapes, make_dataset
from etude.data.dataset_sampling import EpisodeReaders
from etude.data.replay import ring_buffer
from etude.data.transition import Transition
from etude.environments.protocol import StepResult
from etude.environments.wrappers.time_limit import TimeLimit
from etude.errors import InvalidInput
from etude.nn.recurrent import GRU, LSTM
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec
from etude.struct import replace, validate
from etude.trees import where_done

KEY = jax.random.key(0)
SPEC = EnvironmentSpec(Box((2,)), Discrete(3))
SMALL = dict(
    recurrent=GRU(3), hidden=(4,), activation="tanh", horizon=10, normalize_observation=None
)
LENGTHS = (9, 5, 30)
METHOD = GCBC(batch_size=12, sequence_length=6, gradient_steps=1, learning_rate=1e-30, **SMALL)


def blank_state(method, spec, outside=NOTHING):
    """A state with random weights and zeros for all else: `init` need not be compiled."""
    state = jax.eval_shape(partial(init_state, method), KEY, spec, outside)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(scale=0.5, size=x.shape), x.dtype), state.learner.weights
    )
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
    return replace(state, learner=replace(state.learner, weights=weights))


@pytest.fixture(scope="module")
def dataset():
    """Episodes of random numbers, of 9, 5 and 30 steps."""
    rng, steps = np.random.default_rng(0), sum(LENGTHS)
    return make_dataset(
        SPEC,
        observations=rng.normal(size=(steps + 3, 2)).astype(np.float32),
        actions=rng.integers(0, 3, steps),
        rewards=np.zeros(steps),
        terminations=np.isin(np.arange(steps), np.cumsum(LENGTHS) - 1),
        truncations=np.zeros(steps, bool),
        episode_lengths=np.array(LENGTHS),
    )


@jax.jit
def read(state, key, dataset):
    """The next batch, its loss with gradient, and the sequences after it."""
    batch, readers = METHOD.read(state.goal_input, state.sequences, dataset, key)
    loss_of = lambda weights: cloning.loss(METHOD, weights, batch, key)
    (loss, (_, carry)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.learner.weights)
    return batch, (loss, gradient), Sequences(readers, carry)


@pytest.fixture(scope="module")
def started(dataset):
    """The state before learning, with two readers in the middle of episodes."""
    state = blank_state(METHOD, SPEC, Outside(dataset))
    readers = EpisodeReaders(jnp.array([3, 20]), jnp.array([True, True]))
    return replace(state, sequences=replace(state.sequences, readers=readers))


@pytest.fixture(scope="module")
def steps(started, dataset):
    """Nine steps with the same weights: the state before each of them, and what `read` gives."""
    found, state = [], started
    for key in jax.random.split(KEY, 9):
        given = jax.device_get(read(state, key, dataset))
        found.append((state, *given))
        state = replace(state, sequences=given[-1])
    return found


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def next_memory(cell, x, h):
    """One step of a GRU, as its paper has it, with the reset gate after the product."""
    (w, b), (u, c) = (
        (np.float64(layer.weight), np.float64(layer.bias))
        for layer in (cell.input_projection, cell.recurrent_projection)
    )
    (xr, xz, xn), (hr, hz, hn) = np.split(w @ x + b, 3), np.split(u @ h + c, 3)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    return (1 - z) * np.tanh(xn + r * hn) + z * h


def loss_by_loop(weights, batch):
    """-log π(a|s, g) of each step, with its memory, and the memories after the last."""
    torso, head = weights.torso, weights.head.layer
    time, count = batch.is_first.shape
    entries, total, memories = batch.observation, 0.0, []
    for i in range(count):
        h = np.float64(batch.carry[0][i])
        for t in range(time):
            if batch.is_first[t, i]:
                h = np.zeros_like(h)
            h = next_memory(torso.cell, np.float64(entries["observation"][t, i]), h)
            asked = [*entries["goal"][t, i], entries["remaining_steps"][t, i]]
            x = np.concatenate([h, np.float64(asked)])
            for layer in torso.layers:
                x = np.tanh(np.float64(layer.weight) @ x + np.float64(layer.bias))
            logits = np.float64(head.weight) @ x + np.float64(head.bias)
            total += np.log(np.exp(logits).sum()) - logits[batch.action[t, i, 0]]
        memories.append(h)
    return total / (time * count), np.stack(memories)


def test_loss_and_gradient_are_those_of_a_loop_over_steps(steps):
    """The gradient by differences along random directions."""
    state, batch, (loss, gradient), after = steps[4]
    weights, carry = state.learner.weights, after.carry
    assert batch.is_first.any() and not batch.is_first[0].all() and (batch.carry[0] != 0).any()
    expected, memories = loss_by_loop(weights, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(carry[0], memories, rtol=1e-4, atol=1e-6)
    rng = np.random.default_rng(1)
    leaves, structure = jax.tree.flatten(weights)
    for _ in range(3):
        directions = [rng.normal(size=np.shape(x)) for x in leaves]
        sides = [
            loss_by_loop(
                jax.tree.unflatten(
                    structure,
                    [np.float64(x) + s * d for x, d in zip(leaves, directions, strict=True)],
                ),
                batch,
            )[0]
            for s in (-1e-5, 1e-5)
        ]
        slope = sum(
            (np.float64(g) * d).sum()
            for g, d in zip(jax.tree.leaves(gradient), directions, strict=True)
        )
        np.testing.assert_allclose(slope, (sides[1] - sides[0]) / 2e-5, rtol=1e-3, atol=1e-5)


def test_wherever_a_sequence_ends_the_next_one_goes_on_with_the_memory_of_the_episode(
    steps, dataset
):
    """Read in sequences of six with goals that are drawn anew, the memory is that of the episode
    read from its start."""
    seen = np.asarray(dataset.transitions.observation)
    starts, cell = np.cumsum(LENGTHS) - LENGTHS, steps[0][0].learner.weights.torso.cell
    compared = 0
    for reader in range(2):
        has_begun = False  # until an episode begins, a reader knows what it read alone
        for _, batch, _, after in steps:
            has_begun |= batch.is_first[int(batch is steps[0][1]) :, reader].any()
            row = int(after.readers.row[reader])
            if not has_begun or after.readers.is_first[reader]:
                continue
            h = np.zeros(3)
            for x in seen[starts[np.searchsorted(starts, row, "right") - 1] : row]:
                h = next_memory(cell, np.float64(x), h)
            np.testing.assert_allclose(after.carry[0][reader], h, rtol=1e-4, atol=1e-5)
            compared += 1
    assert compared >= 6


@pytest.mark.system
def test_an_update_reads_the_sequences_one_after_another(started, steps, dataset):
    """Its learning rate hardly moves the weights."""
    method = replace(METHOD, gradient_steps=3)
    state, _ = jax.jit(lambda s: method.update(s, (), KEY, Outside(dataset)))(started)
    for step in range(3):
        key = jax.random.split(KEY, 3)[step]
        *_, expected = read(started, key, dataset)
        started = replace(started, sequences=expected)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), state.sequences, expected
    )


@pytest.mark.parametrize("shown", [False, True])
def test_a_memory_does_not_see_the_goal_and_an_action_does(shown):
    """Nor how many steps remain; both see the observation."""
    names = ("achieved_goal", "desired_goal", "observation")
    space = Composite((Box((2,)),) * 3, names) if shown else Box((2,))
    state = blank_state(
        GCBC(**SMALL),
        replace(SPEC, observation=space),
        Outside(dataset_shapes(replace(SPEC, observation=space), 3, 1)),
    )
    goal, steps, seen = np.ones((4, 2)), np.full(4, 5.0), np.ones((4, 2))
    goal[1], steps[2], seen[3] = 2, 6, 2
    entries = state.goal_input(dict.fromkeys(names, seen) if shown else seen, goal, steps)
    carry = (jnp.full((4, 3), 0.5),)
    features, after = call(state.learner.weights.torso, entries, carry)
    for i, is_same in ((1, True), (2, True), (3, False)):
        assert (after[0][i] == after[0][0]).all() == is_same
        assert (features[i] != features[0]).all()


# The buffer of GCSL

ENVS, ROLLOUT, RING = 2, 8, 24
PLAYER = GCSL(
    rollout_length=ROLLOUT,
    capacity=RING * ENVS,
    batch_size=60,
    sequence_length=6,
    burn_in=2,
    random_steps=0,
    **SMALL | dict(recurrent=LSTM(3)),
)


@pytest.fixture(scope="module")
def played():
    """(the state, with five rollouts in a ring of three; whether each row is kept to be the first
    of an episode, and the observations [time, env])."""
    spec = replace(SPEC, num_envs=ENVS)
    state = blank_state(PLAYER, spec)

    @jax.jit
    def play(state, key):
        key_seen, key_done, key_act = jax.random.split(key, 3)
        begun = PLAYER.initial_memory(state, spec, key)
        steps = 5 * ROLLOUT
        seen = jax.random.normal(key_seen, (steps, ENVS, 2))
        done = jax.random.bernoulli(key_done, 0.15, (steps, ENVS))

        def step(memory, inputs):
            key, seen, done = inputs
            action, memory = PLAYER.act(state, seen, memory, key, False)
            kept = jax.tree.map(partial(where_done, done), begun, memory)
            return kept, (action, memory)

        inputs = jax.random.split(key_act, steps), seen, done
        _, (action, memory) = jax.lax.scan(step, begun, inputs)
        never = jnp.zeros_like(done)
        lived = Transition(seen, action, done * 0.0, seen + 1, done, never, memory)
        stored = gcsl.to_stored(lived, SPEC.action)
        buffer = state.buffer
        for start in range(0, steps, ROLLOUT):
            rollout = jax.tree.map(lambda x, a=start: x[a : a + ROLLOUT], stored)
            buffer = ring_buffer.insert(buffer, rollout)
        return replace(state, buffer=buffer), seen, done

    state, seen, done = jax.device_get(play(state, KEY))
    return state, seen, np.concatenate([np.ones((1, ENVS), bool), done[:-1]])


@pytest.fixture(scope="module")
def drawn(played):
    """200 batches of ten sequences of six: (row since the first, env, is_first, batch)."""
    state, *_ = played

    @jax.jit
    def draw(key, buffer):
        key_rows, key_goals = jax.random.split(key)
        indices, is_first = PLAYER.sample_sequences(buffer, key_rows)
        batch = PLAYER.relabel_sequences(state.goal_input, key_goals, buffer, indices, is_first)
        return indices, batch

    draws = jax.lax.map(lambda key: draw(key, state.buffer), jax.random.split(KEY, 200))
    indices, batch = jax.device_get(draws)
    row = 2 * ROLLOUT + (indices.time - 2 * ROLLOUT) % RING  # rows 16 to 39 are held
    return row, indices.env, batch


def test_a_sequence_begins_with_the_memory_that_the_policy_had_there(played, drawn):
    """And is reset where an episode begins, or where the oldest row follows the newest."""
    state, seen, begins = played
    row, env, batch = drawn
    torso = state.learner.weights.torso

    @jax.jit
    def memories(seen, begins):
        entries = state.goal_input(seen, jnp.zeros_like(seen), jnp.ones(seen.shape[:2]))
        return torso(entries, (), begins)[1]

    after = jax.device_get(memories(seen, begins))  # [time, env, unit] each
    for i, carry in enumerate(batch.carry):
        before = np.where(begins[..., None], 0, np.concatenate([after[i][:1] * 0, after[i][:-1]]))
        np.testing.assert_allclose(carry, before[row[:, 0], env[:, 0]], rtol=1e-5, atol=1e-6)
    wraps = np.diff(row, axis=1) < 0
    np.testing.assert_array_equal(row[:, 1:][wraps], 2 * ROLLOUT)
    np.testing.assert_array_equal(np.diff(row, axis=1)[~wraps], 1)
    expected = begins[row, env]
    expected[:, 1:] |= wraps
    np.testing.assert_array_equal(batch.is_first, expected)
    assert wraps.any() and begins[row, env].any()


def test_every_step_of_a_sequence_has_a_goal_of_its_own_episode_and_the_burn_in_does_not_count(
    played, drawn
):
    _, seen, begins = played
    row, env, batch = drawn
    entries = batch.observation
    np.testing.assert_array_equal(entries["observation"], seen[row, env])
    lag = np.rint(entries["remaining_steps"] * PLAYER.horizon).astype(int)
    assert lag.min() == 1 and (lag[:, 0] != lag[:, 1]).any()
    reached = row + lag - 1  # the row whose successor is the goal
    near = lag < PLAYER.horizon  # farther ones are told as ten
    np.testing.assert_array_equal(entries["goal"][near], seen[reached, env][near] + 1)
    for first, last, copy in zip(row[near], reached[near], env[near], strict=True):
        assert not begins[first + 1 : last + 1, copy].any()
    is_valid = np.broadcast_to((np.arange(6) >= 2)[None, :, None, None], batch.is_valid.shape)
    np.testing.assert_array_equal(batch.is_valid, is_valid)


def test_each_row_is_drawn_as_often_as_any_other(drawn):
    row, env, _ = drawn
    counts = np.bincount((ENVS * (row[:, 2:] - 2 * ROLLOUT) + env[:, 2:]).ravel())
    share = 1 / (RING * ENVS)
    sequences = row.shape[0] * row.shape[2]
    # four rows of a sequence are counted, of which no two are the same
    spread = np.sqrt(4 * share * (1 - 4 * share) / sequences) / 4
    assert len(counts) == RING * ENVS
    assert abs(counts / counts.sum() - share).max() < 5 * spread


def test_settings_of_sequences_that_do_not_go_together():
    with pytest.raises(InvalidInput, match="batch_size 10 is no whole number of sequences"):
        validate(GCBC(recurrent=GRU(), batch_size=10, sequence_length=4))
    with pytest.raises(InvalidInput, match="burn_in 4 leaves nothing of a sequence_length of 4"):
        validate(GCSL(recurrent=GRU(), sequence_length=4))
    with pytest.raises(InvalidInput, match="sequence_length 16 and the row before it are longer"):
        blank_state(GCSL(recurrent=GRU(2), rollout_length=8, capacity=8), SPEC)
    validate(GCSL(sequence_length=4))


# A task that needs both


class ColoredMaze:
    """A corridor to a junction, with a color on each side. The first observation shows the color on
    the left, the last one the color that was reached: [cue, junction, color]."""

    observation_space, action_space = Box((3,), low=-1.0, high=1.0), Discrete(3)

    def reset(self, key):
        left = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return (left, jnp.float32(0)), jnp.stack([left, 0.0, 0.0])

    def step(self, state, action, key):
        left, place = state
        turns = (place == 3) & (action != 1)
        place = jnp.minimum(place + (action == 1), 3)
        color = jnp.where(turns, left * (1 - action), 0.0)
        observation = jnp.stack([0.0, (place == 3).astype(float), color])
        return (left, place), StepResult(observation, turns * 1.0, turns, jnp.bool_(False))


@pytest.mark.system
@pytest.mark.parametrize("name", ["gcbc", "gcsl"])
def test_a_color_is_found_with_a_memory_and_by_chance_without(name, tmp_path):
    """The goal is a color, and where it is was seen at the first step alone."""
    maze = TimeLimit(ColoredMaze(), 20)
    given = {}
    if name == "gcbc":
        given["dataset"] = tmp_path / "maze.npz"
        etude.record(maze, expert="random", episodes=1_000, out=given["dataset"])
    missed = []
    for recurrent in (GRU(32), None):
        shared = dict(
            recurrent=recurrent, hidden=(64,), goal=("2",), learning_rate=3e-3, sequence_length=32
        )
        method = GCBC(**shared) if name == "gcbc" else GCSL(random_steps=5_000, **shared)
        run = etude.train(
            method,
            maze,
            steps=3_000 if name == "gcbc" else 15_000,
            evaluation_episodes=200,
            out=tmp_path / str(bool(recurrent)),
            progress=False,
            **given,
        )
        missed.append(run.summary["evaluation"]["measures"]["distance"])
    with_memory, without = (measured["iqm"] for measured in missed)
    assert with_memory < 0.1 and without > 0.8
