"""GAIL pays an agent for passing as the expert, absorbing states included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import filled

import etude
from etude.algorithms.actor_critic.sac import SAC, SACState
from etude.algorithms.imitation.discriminator import gradient_penalty, init_discriminator
from etude.algorithms.imitation.gail import AIRL, GAIL
from etude.algorithms.protocol import Outside, init_state
from etude.algorithms.trust_region.ppo import PPO
from etude.data.dataset import make_dataset
from etude.data.replay.ring_buffer import Indices, RingBuffer
from etude.data.replay.sequence import sequence_batch
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.nn.networks import make_network
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace, validate

SPEC = EnvironmentSpec(Box((2,)), Discrete(3), 2)
LENGTHS = np.array([5, 3])
AGENT = PPO(hidden=(8,), rollout_length=8, batch_size=8, epochs=1)
SMALL = GAIL(agent=AGENT, hidden=(16,), batch_size=32, gradient_steps=3)


@pytest.fixture(scope="module")
def dataset():
    """Two episodes, the second of which terminates; the expert's observations are about (1, 1)."""
    rng = np.random.default_rng(0)
    return make_dataset(
        SPEC,
        observations=rng.normal(1, 0.1, (LENGTHS.sum() + 2, 2)).astype(np.float32),
        actions=np.full(LENGTHS.sum(), 2),
        rewards=np.zeros(LENGTHS.sum()),
        terminations=np.arange(8) == 7,
        truncations=np.arange(8) == 4,
        episode_lengths=LENGTHS,
    )


@pytest.fixture(scope="module")
def experience():
    """A rollout of the learner, whose observations are about (-1, -1), in two environments."""
    keys = jax.random.split(jax.random.key(1), 4)
    shape = (8, 2)
    observation, after = (-1 + 0.1 * jax.random.normal(key, (*shape, 2)) for key in keys[:2])
    return Transition(
        observation,
        jax.random.randint(keys[2], shape, 0, 3),
        jnp.full(shape, jnp.nan),  # which nothing may read
        after,
        jax.random.bernoulli(keys[3], 0.3, shape),
        jnp.zeros(shape, bool).at[3, 0].set(True),
    )


def start(algorithm, dataset):
    init = jax.jit(lambda key: init_state(algorithm, key, SPEC, Outside(dataset=dataset)))
    return init(jax.random.key(0))


@pytest.fixture(scope="module")
def started(dataset):
    """The state of SMALL before training, without its agent, which takes long to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PPO, "init", lambda self, key, spec: ())
        return start(SMALL, dataset)


def updated(algorithm, dataset, experience, state=None):
    update = jax.jit(
        lambda state: algorithm.update(
            state, experience, jax.random.key(2), Outside(dataset=dataset)
        )
    )
    return update(state or start(algorithm, dataset))


@pytest.fixture(scope="module")
def fitted(started, dataset, experience):
    """The state after an update of SMALL without its agent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PPO, "update", lambda self, state, experience, key: (state, {}))
        return updated(SMALL, dataset, experience, started)[0]


def test_a_step_is_paid_log_2_where_the_discriminator_cannot_tell(started, experience):
    """D = ½, and so is each step paid that would follow in the absorbing state."""
    for_ever = np.log(2) * AGENT.discount / (1 - AGENT.discount)
    expected = np.log(2) + np.where(experience.terminated, for_ever, 0)
    paid = SMALL.reward_of(started.agent, started.discriminator, experience)
    np.testing.assert_allclose(paid, expected, rtol=1e-5)


def test_the_agent_is_updated_with_these_rewards(started, experience, monkeypatch):
    given = []
    update = lambda self, state, experience, key: (given.append(experience), {})
    monkeypatch.setattr(PPO, "update", update)
    _, metrics = SMALL.update_agent(
        started.agent, started.discriminator, experience, jax.random.key(0)
    )
    reward = SMALL.reward_of(started.agent, started.discriminator, experience)
    np.testing.assert_array_equal(given[0].reward, reward)
    assert given[0].observation is experience.observation
    np.testing.assert_allclose(metrics["imitation_reward"], reward.mean(), rtol=1e-5)


def test_sequences_of_a_recurrent_agent_are_paid_row_by_row(experience, monkeypatch):
    """As the steps that they were, without the burn-in."""
    algorithm = GAIL(agent=SAC(recurrent=etude.GRU(3)), hidden=(16,), next_observation=True)
    algorithm = replace(algorithm, normalize_observation=None)
    discriminator = filled(lambda: init_discriminator(algorithm, jax.random.key(0), SPEC))
    buffer = RingBuffer(experience, jnp.int32(8), ())
    start, env = jnp.array([0, 3]), jnp.array([1, 0])
    paid = []

    def update(self, state, experience, key, relabel):
        indices = Indices(start, env)
        batch = sequence_batch(buffer, indices, jnp.float32(1), 1, 0.99, length=4, burn_in=1)
        paid.append(relabel(state, buffer, indices, batch, key).transition.reward)
        return state, {}

    monkeypatch.setattr(SAC, "update", update)

    @jax.jit
    def update_agent(discriminator):
        algorithm.update_agent((), discriminator, experience, jax.random.key(0))
        return paid[0], algorithm.reward_of((), discriminator, experience)

    sequences, reward = update_agent(discriminator)
    expected = reward[start + 1 + np.arange(1, 4)[:, None], env]
    np.testing.assert_allclose(sequences, expected, rtol=1e-5)


def assert_finite(state, metrics):
    if isinstance(state.agent, SACState):
        state = replace(state, agent=replace(state.agent, replay=()))  # as it was seen
    leaves = [*jax.tree.leaves(state), *metrics.values()]
    assert all(np.isfinite(x).all() for x in leaves if jnp.issubdtype(x.dtype, jnp.floating))
    assert int(metrics["updates"]) > 0


@pytest.mark.system
@pytest.mark.parametrize("agent", [AGENT, SAC(hidden=(8,), rollout_length=8, warmup_steps=0)])
def test_the_rewards_of_the_environment_are_never_read(agent, dataset, experience):
    """They are NaN here, and everything that is learned is finite."""
    assert_finite(*updated(replace(SMALL, agent=agent), dataset, experience))


@pytest.mark.system
def test_a_discriminator_that_was_fitted_pays_more_for_what_the_expert_does(dataset, experience):
    algorithm = replace(SMALL, gradient_steps=200, absorbing=False)
    state, metrics = updated(algorithm, dataset, experience)
    rewards = [
        algorithm.reward_of(state.agent, state.discriminator, transitions).mean()
        for transitions in (dataset.transitions, experience)
    ]
    assert rewards[0] > rewards[1] + 1
    assert 0.8 < metrics["discriminator_accuracy"] <= 1
    control = replace(algorithm, shuffle_labels=True)
    state, metrics = updated(control, dataset, experience)
    assert abs(metrics["discriminator_loss"] - 2 * np.log(2)) < 0.15
    assert 0.4 < metrics["discriminator_accuracy"] < 0.6


def test_the_loss_is_the_cross_entropy_of_both_with_the_absorbing_states(
    fitted, dataset, experience
):
    """Against a loop over steps; the penalty by differences of f."""
    discriminator = fitted.discriminator
    expert = discriminator.steps_of(dataset.transitions)
    learner = discriminator.steps_of(
        jax.tree.map(lambda x: x[:, 0], replace(experience, memory=()))
    )
    total, metrics = discriminator.loss(
        replace(SMALL, gradient_penalty=0.0), expert, learner, jax.random.key(0)
    )
    expected = 0.0
    for steps, sign in ((expert, 1), (learner, -1)):
        ends = int(steps.terminated.sum())
        judged = [*discriminator.logits(SMALL, steps), *[discriminator.absorbing_logit()] * ends]
        judged = np.asarray(judged)
        expected += np.mean([np.log(1 + np.exp(-sign * x)) for x in judged])
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["discriminator_loss"], expected, rtol=1e-5)

    features = [discriminator.encode(SMALL, steps) for steps in (expert, learner)]
    key, small = jax.random.key(3), 1e-2
    network = make_network(jax.random.key(4), Box(features[0].shape[1:]), (8,), 1, "tanh")
    share = np.asarray(jax.random.uniform(key, (8, 1)))
    between = share * np.asarray(features[0]) + (1 - share) * np.asarray(features[1])
    slopes = [
        np.asarray(network.head(between + small * unit) - network.head(between - small * unit))
        / (2 * small)
        for unit in np.eye(between.shape[1], dtype=np.float32)[:-1]  # not along the mark
    ]
    norms = np.sqrt((np.stack(slopes) ** 2).sum(0))[:, 0]
    penalty = gradient_penalty(network, *features, key)
    np.testing.assert_allclose(penalty, ((norms - 1) ** 2).mean(), rtol=1e-2)


@pytest.mark.parametrize("reward", ["logit", "positive", "negative"])
def test_rewards_are_those_of_the_probability(reward):
    f = jnp.linspace(-3, 3, 7)
    d = 1 / (1 + np.exp(-np.asarray(f)))
    expected = {
        "logit": np.log(d) - np.log(1 - d),
        "positive": -np.log(1 - d),
        "negative": np.log(d),
    }[reward]
    np.testing.assert_allclose(
        replace(SMALL, reward=reward).reward_of_logit(f), expected, rtol=1e-4, atol=1e-6
    )


def test_what_follows_a_terminated_step_is_paid_for_ever(fitted, experience):
    """The value of the end is that of a chain that goes round in the absorbing state."""
    state = fitted
    paid = SMALL.reward_of(state.agent, state.discriminator, experience)
    alone = replace(SMALL, absorbing=False).reward_of(state.agent, state.discriminator, experience)
    f_absorbing = state.discriminator.absorbing_logit()
    a, gamma = float(SMALL.reward_of_logit(f_absorbing)), float(AGENT.discount)
    chain = np.linalg.solve(np.eye(2) - gamma * np.array([[0, 1], [0, 1]]), [0, a])
    after = np.where(experience.terminated, chain[0], 0)  # the step itself, then a for ever
    np.testing.assert_allclose(paid - alone, after, rtol=1e-3, atol=1e-5)
    assert experience.truncated[3, 0] and (experience.terminated[3, 0] or after[3, 0] == 0)


def test_a_new_discriminator_is_right_for_one_half(started, dataset):
    """It gives ½ to every step, so all count as the learner's."""
    discriminator = started.discriminator
    expert = discriminator.steps_of(dataset.transitions)
    _, metrics = discriminator.loss(SMALL, expert, expert, jax.random.key(0))
    assert metrics["discriminator_accuracy"] == 0.5
    np.testing.assert_allclose(metrics["discriminator_loss"], 2 * np.log(2), rtol=1e-5)


def test_settings_that_do_not_go_together():
    with pytest.raises(InvalidInput, match="agent.discount is 1.*absorbing off"):
        validate(replace(SMALL, agent=replace(AGENT, discount=1.0)))
    validate(replace(SMALL, agent=replace(AGENT, discount=1.0), absorbing=False))
    with pytest.raises(InvalidInput, match=r"agent.hindsight is set.*judges steps as they were"):
        validate(GAIL(agent=SAC(hindsight=etude.Hindsight())))
    with pytest.raises(InvalidInput, match=r"agent.learning_rate is -1.0; it must be above 0"):
        validate(etude.GAIL(agent=replace(AGENT, learning_rate=-1.0)))


@pytest.mark.system
def test_airl_holds_the_reward_of_an_expert_who_chooses_once(experience):
    """Where each episode is one step, an expert π ∝ exp(r) has the reward log π, up to a constant:
    that is g, whatever the learner's policy; f is log π_expert - log π, 0 where they are equal."""
    often = np.array([10, 5, 1])  # how often the expert takes each action
    ones = np.ones(often.sum())
    dataset = make_dataset(
        SPEC,
        observations=np.zeros((2 * often.sum(), 2), np.float32),
        actions=np.repeat(np.arange(3), often),
        rewards=0 * ones,
        terminations=ones == 1,
        truncations=ones == 0,
        episode_lengths=ones.astype(int),
    )
    algorithm = AIRL(
        agent=AGENT,
        hidden=(16,),
        gradient_steps=2000,
        gradient_penalty=0.0,
        absorbing=False,
        normalize_observation=None,
    )
    steps = replace(
        experience,
        observation=jnp.zeros((8, 2, 2)),
        next_observation=jnp.zeros((8, 2, 2)),
        action=jnp.arange(16).reshape(8, 2) % 3,  # about as often each, as its policy has it
        terminated=jnp.ones((8, 2), bool),
    )
    state = start(algorithm, dataset)
    after, _ = updated(algorithm, dataset, steps)
    one_of_each = jax.tree.map(
        lambda x: x[:2].reshape(4, *x.shape[2:])[:3], replace(steps, memory=())
    )
    log_prob = algorithm.log_prob(state.agent, one_of_each.observation, one_of_each.action)
    judged = replace(after.discriminator.steps_of(one_of_each), log_prob=log_prob)
    f = after.discriminator.logits(algorithm, judged)
    learner = np.array([6, 5, 5]) / 16
    expected = np.log(often / 16) - np.log(learner)
    np.testing.assert_allclose(f, expected, atol=0.1)
    g = np.asarray(f + log_prob)
    np.testing.assert_allclose(np.diff(g), np.diff(np.log(often)), atol=0.25)


def test_airl_is_paid_the_logit_and_remembers_nothing():
    with pytest.raises(InvalidInput, match='inverse_rl is on, and reward is "positive"'):
        validate(AIRL(reward="positive"))
    with pytest.raises(InvalidInput, match="agent.recurrent too; .*; --frame-stack 4 shows"):
        validate(AIRL(agent=replace(AGENT, recurrent=etude.GRU(4))))
    for agent in (SAC(), replace(AGENT, entropy_coefficient=0.1)):
        with pytest.raises(InvalidInput, match="-log π in the reward is already"):
            validate(AIRL(agent=agent))
