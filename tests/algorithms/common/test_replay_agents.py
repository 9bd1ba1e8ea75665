"""What agents with replay share: recurrent networks, sequence by sequence, against their own single
steps; hindsight; and batches that an owner relabels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import filled
from oracles import choices, reals

from etude.algorithms.actor_critic.sac import SAC
from etude.algorithms.common import replay_agents
from etude.algorithms.value.dqn import DQN
from etude.algorithms.value.naf import NAF
from etude.algorithms.value.td3 import TD3
from etude.data.replay import ring_buffer
from etude.data.replay.hindsight import Hindsight
from etude.data.replay.prioritized import Prioritized
from etude.data.replay.ring_buffer import Indices
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.nn.critics import critic_values
from etude.nn.history import History
from etude.nn.recurrent import GRU, LSTM
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace, validate

KEY = jax.random.key(0)
TIME, LENGTH, BURN_IN, N_STEP = 7, 6, 2, 2
CHOICES = EnvironmentSpec(Box((3,)), Discrete(4), 2)
BOXES = EnvironmentSpec(Box((3,)), Box((2,), low=-1.0, high=1.0), 2)
SIZES = {
    "hidden": (4,),
    "batch_size": 2 * LENGTH,
    "capacity": 4 * TIME,
    "rollout_length": TIME,
    "warmup_steps": 2 * TIME,
    "gradient_steps": 2,
}
MEMORY = {"sequence_length": LENGTH, "burn_in": BURN_IN}
# agent, spec, Q(s, a) by its networks
AGENTS = {
    "dqn": (
        DQN(**SIZES, **MEMORY, recurrent=LSTM(2), n_step=N_STEP),
        CHOICES,
        lambda state, s, a: state.q.head.mean(state.q.outputs_for(s, a)),
    ),
    "naf": (NAF(**SIZES, **MEMORY, recurrent=GRU(2)), BOXES, lambda state, s, a: state.q(s)(a)),
    "td3": (
        TD3(**SIZES, **MEMORY, recurrent=GRU(2), target_noise=0.0),
        BOXES,
        lambda state, s, a: critic_values(state.critics, s, a).mean(0),
    ),
    "sac": (
        SAC(**SIZES, **MEMORY, recurrent=GRU(2)),
        CHOICES,
        lambda state, s, a: state.policy.actions.q_values(state.critics, s, a).mean(0),
    ),
}


def settled(agent, spec):
    """A state with weights from NumPy, whose target networks equal what they follow."""
    state = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(partial(agent.init, spec=spec), KEY)
    )
    for name, target in (
        ("q", "target_q"),
        ("policy", "target_policy"),
        ("critics", "target_critics"),
    ):
        if hasattr(state, name):
            networks = filled(partial(getattr, state, name), len(name))
            both = (
                {name: networks, target: networks} if hasattr(state, target) else {name: networks}
            )
            state = replace(state, **both)
    return state


def lived(agent, spec, state):
    """A rollout [TIME, 2], with the memories that the agent had; those before its steps."""
    rng, n = np.random.default_rng(0), spec.num_envs
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    observation, following, reward = draw(TIME, n, 3), draw(TIME, n, 3), draw(TIME, n)
    terminated, truncated = rng.random((2, TIME, n)) < 0.2
    action = (choices(4) if spec is CHOICES else reals(2))(rng, (TIME, n))
    blank = agent.initial_memory(state, spec, KEY)
    act = jax.jit(partial(type(agent).act, agent, explore=True))
    memory, memories, before = blank, [], []
    for x, done in zip(observation, terminated | truncated, strict=True):
        before.append(memory)
        memories.append(act(state, x, memory, KEY)[1])
        memory = jax.tree.map(
            lambda new, old, done=done: np.where(done[:, None], new, old), blank, memories[-1]
        )
    stacked = lambda steps: jax.tree.map(lambda *x: np.stack(x), *steps)
    return Transition(
        observation, action, reward, following, terminated, truncated, stacked(memories)
    ), stacked(before)


@pytest.mark.parametrize(
    "name",
    [
        "dqn",
        pytest.param("td3", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.system) for name in ("naf", "sac")),
    ],
)
def test_a_sequence_is_learned_from_as_it_was_lived(name):
    """With the weights that acted, values over a sequence are those of single steps with the
    memories of then: of what was observed, and of what followed it."""
    agent, spec, q_value = AGENTS[name]
    state = settled(agent, spec)
    rollout, before = lived(agent, spec, state)

    @jax.jit
    def learn(state, rollout):
        ring = replay_agents.init_replay(agent, networks_of(state), spec)
        ring = ring_buffer.insert(ring, rollout)
        indices = Indices(jnp.zeros(2, jnp.int32), jnp.arange(2))
        n_step = agent.n_step if name == "dqn" else 1
        batch = replay_agents.make_batch(
            agent, state, ring, indices, jnp.float32(1), KEY, None, n_step
        )
        match name:
            case "dqn":
                target = agent.estimate_target(state.q, state.target_q, batch, KEY)[..., 0]
            case "naf":
                target = agent.estimate_target(state.target_q, batch)
            case _:
                target = agent.estimate_target(state, batch, KEY)
        return target, agent.gradient_step(state, batch, KEY)[1]["q_value"]

    @jax.jit
    def look(state, rollout, before):
        flat = lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
        now = flat(rollout)
        values = agent.value(state, now.next_observation, now.memory, KEY).reshape(TIME, -1)
        seen = History(now.observation, flat(before))
        return values, q_value(state, seen, now.action).reshape(TIME, -1)

    target, q_mean = jax.device_get(learn(state, rollout))
    values, q = jax.device_get(look(state, rollout, before))
    trained = range(1 + BURN_IN, TIME)
    assert q_mean == pytest.approx(q[trained].mean(), rel=1e-4, abs=1e-6)
    assert target.shape == (LENGTH - BURN_IN, 2)
    for env in range(2):
        for row, now in enumerate(trained):
            expected, steps = 0.0, agent.n_step if name == "dqn" else 1
            for k in range(steps):
                expected += 0.99**k * rollout.reward[now + k, env]
                if rollout.done[now + k, env] or k == steps - 1 or now + k == TIME - 1:
                    break
            if not rollout.terminated[now + k, env]:
                expected += 0.99 ** (k + 1) * values[now + k, env]
            assert target[row, env] == pytest.approx(expected, rel=1e-4, abs=1e-5), (row, env)


def networks_of(state):
    return state.q if hasattr(state, "q") else (state.policy, state.critics)


@pytest.mark.parametrize("name", ["dqn", pytest.param("sac", marks=pytest.mark.system)])
def test_an_owner_relabels_batches_with_the_agent_as_it_is_then(name):
    """Value expansion: to each row, one that looks a step further, whose reward holds the agent's
    own value of what follows. So a batch has twice the rows, and each gradient step moves what the
    next one reads."""
    agent = replace(AGENTS[name][0], recurrent=None, batch_size=6)
    if name == "dqn":
        agent = replace(agent, n_step=1, target_interval=1, target_rate=0.5)
    state = settled(agent, CHOICES)
    rollout, _ = lived(agent, CHOICES, state)

    def expanded(state, buffer, indices, batch, key):
        transition = batch.transition
        value = agent.value(state, transition.next_observation, (), key)
        ahead = replace(
            batch,
            transition=replace(transition, reward=transition.reward + batch.discount * value),
            discount=jnp.zeros_like(batch.discount),
        )
        rows = replace(batch, weight=jnp.ones(6)), replace(ahead, weight=jnp.full(6, 0.5))
        return jax.tree.map(lambda *x: jnp.concatenate(x), *rows)

    @jax.jit
    def by_update(state):
        return agent.update(replace(state, steps=jnp.int32(0)), rollout, KEY, relabel=expanded)

    @jax.jit
    def by_hand(state):
        ring, losses = ring_buffer.insert(state.replay, rollout), []
        for key in jax.random.split(KEY, 2):
            key_draw, key_step = jax.random.split(key)
            rows = jax.random.randint(key_draw, (6,), 0, 2 * TIME)
            indices = Indices(rows // 2, rows % 2)
            batch = replay_agents.make_batch(
                agent, state, ring, indices, jnp.float32(1), key, expanded
            )
            assert batch.transition.reward.shape == (12,)
            state, metrics = agent.gradient_step(state, batch, key_step)
            losses.append(metrics["q_loss" if name == "dqn" else "critic_loss"])
        return networks_of(state), jnp.stack(losses)

    after, metrics = by_update(state)
    networks, losses = by_hand(replace(state, steps=jnp.int32(2 * TIME)))
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, networks_of(after), networks)
    assert metrics["q_loss" if name == "dqn" else "critic_loss"] == pytest.approx(
        float(losses.mean()), rel=1e-5
    )
    assert metrics["updates"] == 2
    if name == "dqn":  # of the rows that were drawn, the first, are the priorities
        drawn = replace(agent, replay=Prioritized())
        jax.eval_shape(
            lambda key: drawn.update(drawn.init(key, CHOICES), rollout, key, relabel=expanded), KEY
        )


def test_rewards_of_an_owner_take_the_place_of_the_environments():
    """A discriminator's, under SAC: the environment's are NaN and never seen."""
    agent = replace(AGENTS["sac"][0], recurrent=None, batch_size=6)
    state = settled(agent, CHOICES)
    rollout, _ = lived(agent, CHOICES, state)
    rollout = replace(rollout, reward=np.full_like(rollout.reward, np.nan))
    weights = np.float32([0.3, -0.2, 0.5])

    def discriminate(state, buffer, indices, batch, key, weights):
        reward = jax.nn.log_sigmoid(batch.transition.observation @ weights)
        return replace(batch, transition=replace(batch.transition, reward=reward))

    after, metrics = jax.jit(
        lambda state, weights: agent.update(
            state, rollout, KEY, relabel=partial(discriminate, weights=weights)
        )
    )(state, weights)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after.critics, metrics)))
    assert metrics["updates"] == 2


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"recurrent": GRU(2), "burn_in": 6, "sequence_length": 6},
            "burn_in 6 leaves nothing of a sequence_length of 6, of which it is a part; give a",
        ),
        (
            {"recurrent": GRU(2), "batch_size": 20, "sequence_length": 6},
            "batch_size 20 is no whole number of sequences of sequence_length 6; give a multiple",
        ),
        ({"recurrent": GRU(2), "hindsight": Hindsight()}, "hindsight is on, and so is recurrent"),
        ({"hindsight": Hindsight(), "plays": False}, "hindsight is on, and plays is off; a datas"),
        ({"hindsight": Hindsight("future", 1.5)}, "hindsight.share is 1.5; it must be at least 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(InvalidInput, match=message):
        validate(DQN(**fields))


def test_sequences_that_the_buffer_cannot_hold_are_refused():
    agent = replace(AGENTS["td3"][0], capacity=2 * TIME, sequence_length=8, batch_size=8)
    with pytest.raises(InvalidInput, match="sequence_length 8 and the row before it are longer"):
        jax.eval_shape(partial(agent.init, spec=BOXES), KEY)
