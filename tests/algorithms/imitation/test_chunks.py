"""Chunks of actions: cut out of episodes, predicted at once, executed in turn, per copy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.algorithms.imitation import chunks, cloning
from etude.algorithms.imitation.bc import BC
from etude.algorithms.imitation.heads.autoregressive import Autoregressive
from etude.algorithms.imitation.heads.deterministic import Deterministic
from etude.algorithms.protocol import Outside, init_state
from etude.data import dataset_sampling
from etude.data.dataset import make_dataset
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.protocol import StepResult
from etude.errors import InvalidInput
from etude.nn.recurrent import GRU
from etude.optim.averaging import EMA
from etude.rollout import bind_policy, init_rollout_state, rollout
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec, MultiBinary
from etude.struct import replace, static, struct, validate

KEY = jax.random.key(0)
LENGTHS = (3, 1, 5, 2)


def recorded(lengths=LENGTHS):
    """Episodes whose actions are their numbers, from one on."""
    count, ends = sum(lengths), [np.arange(n) == n - 1 for n in lengths]
    return make_dataset(
        EnvironmentSpec(Box((1,)), Box((1,)), 1),
        observations=[np.arange(n + 1)[:, None] for n in lengths],
        actions=[np.full((n, 1), number) for number, n in enumerate(lengths, 1)],
        rewards=np.split(np.zeros(count), np.cumsum(lengths)[:-1]),
        terminations=ends,
        truncations=[np.zeros(n, bool) for n in lengths],
    )


# Training


def test_a_chunk_ends_with_its_episode_and_repeats_the_last_row():
    rows, is_valid = dataset_sampling.chunk_rows(recorded(), jnp.arange(sum(LENGTHS)), 4)
    row = 0
    for length in LENGTHS:
        end = row + length
        while row < end:
            expected = [min(row + i, end - 1) for i in range(4)]
            np.testing.assert_array_equal(rows[row], expected)
            np.testing.assert_array_equal(is_valid[row], [row + i < end for i in range(4)])
            row += 1


@pytest.mark.parametrize(
    "recurrent", [pytest.param(None, marks=pytest.mark.system), GRU(3)], ids=["plain", "gru"]
)
def test_no_chunk_has_actions_of_two_episodes(recurrent):
    bc = BC(hidden=(3,), batch_size=60, chunk=3, recurrent=recurrent, sequence_length=5)
    dataset = recorded()

    @jax.jit
    def read(key):
        state = init_state(bc, key, dataset.spec, Outside(dataset))
        rows = bc.draw_rows(~state.is_held_out, dataset, key)
        return bc.read(state.sequences, ~state.is_held_out, dataset, key, rows)[0]

    batch = jax.device_get(read(KEY))
    leading = (5, 12) if recurrent else (60,)
    assert batch.action.shape == (*leading, 3, 1) and batch.is_valid.shape == (*leading, 3)
    number = batch.action[..., 0]
    np.testing.assert_array_equal(number, np.broadcast_to(number[..., :1], number.shape))
    assert set(number.ravel()) == {1, 2, 3, 4}
    left = np.array(LENGTHS)[number[..., 0].astype(int) - 1] - batch.observation[..., 0]
    np.testing.assert_array_equal(batch.is_valid.sum(-1), np.minimum(left, 3))


def test_chunks_that_cannot_be_are_refused_by_name():
    with pytest.raises(InvalidInput, match="execute is 3, more than the 2 actions of a chunk"):
        validate(BC(chunk=2, execute=3))
    outside = Outside(recorded())
    BC(chunk=5).check_outside(outside)
    with pytest.raises(InvalidInput, match="chunk is 6, and the longest episode .* has 5 steps"):
        BC(chunk=6).check_outside(outside)
    masked = Composite((MultiBinary((2,)), Discrete(3)), ("action_mask", "observation"))
    spec = EnvironmentSpec(masked, Discrete(2), 1)
    with pytest.raises(InvalidInput, match="BC with chunk 2 does not read action masks"):
        init_state(BC(chunk=2), KEY, spec, outside)


# Acting


@struct
class Clock:
    """Shows the time at every `interval` steps, else -100, and pays the action. A copy's first
    episode has a length of its own, of 1 to 6 steps, and all later ones seven."""

    interval: int = static()
    observation_space = action_space = Box((1,))

    def reset(self, key):
        return (jnp.int32(0), jax.random.randint(key, (), 1, 7)), jnp.zeros(1)

    def step(self, state, action, key):
        time, length = state[0] + 1, state[1]
        shown = jnp.where(time % self.interval == 0, time, -100)
        result = StepResult(shown[None] * 1.0, action[0], time >= length, jnp.bool_(False))
        return (time, length), result


@pytest.mark.parametrize(
    ("chunk", "execute"),
    [
        pytest.param(1, 1, marks=pytest.mark.system),
        pytest.param(4, 4, marks=pytest.mark.system),
        (4, 2),
    ],
)
def test_the_executed_actions_are_those_of_their_time(chunk, execute):
    """A chunk begins at the time that is seen when it is predicted, and a new one is where none is
    left and where an episode begins, in copies whose episodes end at different steps."""
    clocks = JaxEnvs(Clock(execute), 5)
    bc = BC(
        head=Deterministic(), hidden=(), chunk=chunk, execute=execute, normalize_observation=None
    )

    @jax.jit
    def play(key):
        state = init_state(bc, key, clocks.spec, Outside(recorded()))
        weights = state.learner.weights
        layer = eqx.tree_at(
            lambda layer: (layer.weight, layer.bias),
            weights.head.layer,
            (jnp.ones((chunk, 1)), jnp.arange(chunk) * 1.0),
        )
        weights = replace(weights, head=replace(weights.head, layer=layer))
        state = replace(state, learner=replace(state.learner, weights=weights))
        policy = bind_policy(bc, state, clocks)
        start = init_rollout_state(clocks, policy, key)
        return rollout(clocks, policy, start, key, 30)[1]

    played = jax.device_get(play(KEY))
    time = np.zeros(5)
    for action, done in zip(played.action[..., 0], played.done, strict=True):
        np.testing.assert_array_equal(action, time)
        time = np.where(done, 0, time + 1)
    assert len({tuple(column) for column in played.done.T}) == 5


def test_a_chunk_of_one_is_a_single_action():
    """Acting in chunks of one is acting without chunks, by the same keys."""
    bc = BC(hidden=(3,), head=Autoregressive(3, 4))
    spec = EnvironmentSpec(Box((1,)), Discrete(3), 50)

    @jax.jit
    def play(key):
        learner = init_state(bc, key, spec, Outside(recorded())).learner
        memory, pairs = chunks.empty_chunks(bc, (), spec), []
        for i, key_act in enumerate(jax.random.split(key, 2)):
            arguments = (key_act, True)
            seen = jnp.full((50, 1), 1.0 + i)
            action, memory = chunks.act_in_chunks(bc, learner, seen, memory, *arguments)
            pairs.append((action, cloning.act_as_cloned(bc, learner, seen, (), *arguments)[0]))
        return pairs

    for action, expected in jax.device_get(play(KEY)):
        np.testing.assert_array_equal(action, expected)
        assert len(set(action.tolist())) == 3


def test_a_memory_goes_on_while_a_chunk_is_executed():
    """The cell reads every observation, also where nothing is predicted."""
    bc = BC(hidden=(), recurrent=GRU(3), chunk=2, execute=2)
    spec = EnvironmentSpec(Box((1,)), Discrete(3), 4)

    @jax.jit
    def play(key):
        state = init_state(bc, key, spec, Outside(recorded()))
        memory = bc.initial_memory(state, spec, key)

        def step(memory, seen):
            action, memory = bc.act(state, seen, memory, key, explore=False)
            return memory, (memory, action)

        _, (later, actions) = jax.lax.scan(
            step, memory, jnp.arange(1.0, 4)[:, None, None] * jnp.ones((4, 1))
        )
        return memory, later, actions

    start, later, actions = jax.device_get(play(KEY))
    memories = [start, *(jax.tree.map(lambda x, i=i: x[i], later) for i in range(3))]
    action = actions[-1]
    assert jax.tree.map(jnp.shape, memories[0]) == jax.tree.map(jnp.shape, memories[-1])
    np.testing.assert_array_equal([memory.num_left[0] for memory in memories], [0, 1, 0, 1])
    np.testing.assert_array_equal(memories[1].actions, memories[2].actions)
    carries = np.array([memory.carry[0][0] for memory in memories])
    assert (np.abs(np.diff(carries, axis=0)).max(-1) > 0).all()
    assert action.dtype == memories[0].actions.dtype == jnp.int32


# The average that acts


def test_an_average_of_the_weights_acts_and_is_handed_on():
    """By hand over three gradient steps."""
    bc = BC(hidden=(3,), head=Deterministic(), batch_size=4, learning_rate=0.1, ema=EMA(0.5))
    dataset = recorded()
    outside = Outside(dataset)
    state = jax.jit(lambda key: init_state(bc, key, dataset.spec, outside))(KEY)

    @jax.jit
    def step(state, key):
        rows = bc.draw_rows(~state.is_held_out, dataset, key)
        batch, _ = bc.read(state.sequences, ~state.is_held_out, dataset, key, rows)
        state = replace(state, learner=cloning.gradient_step(bc, state.learner, batch, key)[0])
        seen = dataset.transitions.observation
        action = bc.act(state, seen, (), key, explore=False)[0]
        plain = replace(state, learner=replace(state.learner, average=()))
        return state, action, bc.act(plain, seen, (), key, explore=False)[0]

    expected = np.asarray(state.learner.weights.head.layer.weight)
    for k in (1, 2, 3):
        state, action, of_weights = step(state, KEY)
        decay = 1 - (1 + k) ** -0.5
        now = np.asarray(state.learner.weights.head.layer.weight)
        expected = decay * expected + (1 - decay) * now
    average = state.learner.average
    np.testing.assert_allclose(average.head.layer.weight, expected, rtol=1e-5)
    assert np.abs(now - expected).max() > 0.01 and np.abs(action - of_weights).max() > 0.01
    part = bc.components["policy"].get(state)
    assert part[0] is average
    taken = bc.components["policy"].put(state, part).learner
    assert taken.weights is taken.average is average
