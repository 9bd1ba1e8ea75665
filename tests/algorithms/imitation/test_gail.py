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
    rng, shape = np.random.default_rng(1), (8, 2)
    observation, after = np.float32(rng.normal(-1, 0.1, (2, *shape, 2)))
    return Transition(
        observation,
        rng.integers(0, 3, shape, np.int32),
        np.full(shape, np.nan, np.float32),  # which nothing may read
        after,
        rng.random(shape) < 0.3,
        np.arange(16).reshape(shape) == 6,  # the fourth step of the first environment
    )


def of_one_environment(experience):
    return jax.tree.map(lambda x: x[:, 0], replace(experience, memory=()))


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
        lambda state, experience: algorithm.update(
            state, experience, jax.random.key(2), Outside(dataset=dataset)
        )
    )
    return update(state or start(algorithm, dataset), experience)


@pytest.fixture(scope="module")
def fitted(started, dataset, experience):
    """The state after an update of SMALL without its agent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PPO, "update", lambda self, state, experience, key: (state, {}))
        return updated(SMALL, dataset, experience, started)[0]


@jax.jit
def rewards(algorithm, state, steps):
    return algorithm.reward_of(state.agent, state.discriminator, steps)


@jax.jit
def loss_of(algorithm, discriminator, expert, learner):
    """(L and its metrics, f of the steps of both, f of the absorbing state, the features)."""
    both = [discriminator.steps_of(transitions) for transitions in (expert, learner)]
    logits = [discriminator.logits(algorithm, steps) for steps in both]
    return (
        discriminator.loss(algorithm, *both, jax.random.key(0)),
        logits,
        discriminator.absorbing_logit(),
        [discriminator.encode(algorithm, steps) for steps in both],
    )


def test_a_step_is_paid_log_2_where_the_discriminator_cannot_tell(started, experience):
    """D = ½, and so is each step paid that would follow in the absorbing state."""
    for_ever = np.log(2) * AGENT.discount / (1 - AGENT.discount)
    expected = np.log(2) + np.where(experience.terminated, for_ever, 0)
    np.testing.assert_allclose(rewards(SMALL, started, experience), expected, rtol=1e-5)


def test_the_agent_is_updated_with_these_rewards(started, experience, monkeypatch):
    given = []
    update = lambda self, state, experience, key: (given.append(experience), {})
    monkeypatch.setattr(PPO, "update", update)
    reward, asked = np.arange(16.0).reshape(8, 2), []
    monkeypatch.setattr(GAIL, "reward_of", lambda self, *of: (asked.append(of), reward)[1])
    judged = started.agent, started.discriminator, experience
    _, metrics = SMALL.update_agent(*judged, jax.random.key(0))
    assert asked == [judged] and given[0].reward is reward
    assert given[0].observation is experience.observation
    np.testing.assert_allclose(metrics["imitation_reward"], reward.mean(), rtol=1e-5)


def test_sequences_of_a_recurrent_agent_are_paid_row_by_row(experience, monkeypatch):
    """As the steps that they were, without the burn-in."""
    algorithm = GAIL(agent=SAC(recurrent=etude.GRU(3)), hidden=(16,), next_observation=True)
    algorithm = replace(algorithm, normalize_observation=None)
    discriminator = filled(lambda: init_discriminator(algorithm, jax.random.key(0), SPEC))
    buffer = RingBuffer(jax.tree.map(jnp.asarray, experience), jnp.int32(8), ())
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
    unpenalized, learner = replace(SMALL, gradient_penalty=0.0), of_one_environment(experience)
    (total, metrics), logits, absorbing, features = jax.device_get(
        loss_of(unpenalized, fitted.discriminator, dataset.transitions, learner)
    )
    expected = 0.0
    for steps, f, sign in zip((dataset.transitions, learner), logits, (1, -1), strict=True):
        judged = [*f, *[absorbing] * int(steps.terminated.sum())]
        expected += np.mean([np.log(1 + np.exp(-sign * x)) for x in judged])
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["discriminator_loss"], expected, rtol=1e-5)

    @jax.jit
    def penalized(key):
        network = make_network(key, Box(features[0].shape[1:]), (8,), 1, "tanh")
        share = jax.random.uniform(key, (8, 1))
        return network.head.layers, share, gradient_penalty(network, *features, key)

    (first, last), share, penalty = jax.device_get(penalized(jax.random.key(3)))
    f = lambda x: np.tanh(x @ first.weight.T + first.bias) @ last.weight.T + last.bias
    between, small = np.float64(share * features[0] + (1 - share) * features[1]), 1e-5
    slopes = [
        (f(between + small * unit) - f(between - small * unit)) / (2 * small)
        for unit in np.eye(between.shape[1])[:-1]  # not along the mark
    ]
    norms = np.sqrt((np.stack(slopes) ** 2).sum(0))[:, 0]
    np.testing.assert_allclose(penalty, ((norms - 1) ** 2).mean(), rtol=1e-4)


@pytest.mark.parametrize("reward", ["logit", "positive", "negative"])
def test_rewards_are_those_of_the_probability(reward):
    f = np.linspace(-3, 3, 7, dtype=np.float32)
    d = 1 / (1 + np.exp(-f))
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
    paid, alone = (
        np.asarray(rewards(replace(SMALL, absorbing=absorbing), fitted, experience))
        for absorbing in (True, False)
    )
    learner = of_one_environment(experience)
    f_absorbing = loss_of(SMALL, fitted.discriminator, learner, learner)[2]
    a, gamma = np.log1p(np.exp(float(f_absorbing))), float(AGENT.discount)
    chain = np.linalg.solve(np.eye(2) - gamma * np.array([[0, 1], [0, 1]]), [0, a])
    after = np.where(experience.terminated, chain[0], 0)  # the step itself, then a for ever
    np.testing.assert_allclose(paid - alone, after, rtol=1e-3, atol=1e-5)
    assert experience.truncated[3, 0] and (experience.terminated[3, 0] or after[3, 0] == 0)


def test_a_new_discriminator_is_right_for_one_half(started, dataset):
    """It gives ½ to every step, so all count as the learner's."""
    expert = dataset.transitions
    metrics = loss_of(SMALL, started.discriminator, expert, expert)[0][1]
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
