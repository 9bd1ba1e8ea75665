"""REINFORCE: what it learns from and when, its gradient against the exact one of a small process,
and what it learns."""

import itertools
import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from filling import filled

from etude.algorithms.common.on_policy import LearnerState
from etude.algorithms.policy_gradient.reinforce import (
    EpisodeBatch,
    EpisodeMemory,
    OffPolicyGradient,
    Reinforce,
    ReinforceState,
    gather_episodes,
)
from etude.data.replay import ring_buffer
from etude.data.transition import Transition, zeros_like_spec
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.tabular import Tabular
from etude.errors import InvalidInput
from etude.estimators import running_statistics
from etude.estimators.losses import weighted_nll
from etude.nn.distributions import Categorical, Normal
from etude.nn.networks import make_torso
from etude.nn.policies import ActorCriticNetworks, PolicyNetwork, ValueNetwork
from etude.nn.recurrent import GRU
from etude.rollout import BoundPolicy, bind_policy, init_rollout_state, rollout
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace, validate
from etude.tabular import evaluation
from etude.tabular import policy_gradient as exact
from etude.tabular.mdp import random_mdp

KEY = jax.random.key(0)
SPEC = EnvironmentSpec(Discrete(3), Discrete(2), 4)
STATES, ACTIONS, ENVS = SPEC.observation.n, SPEC.action.n, SPEC.num_envs
BLANK = zeros_like_spec(SPEC, EpisodeMemory((), jnp.zeros(())))
no_steps = np.int32(0)


def tabular(reinforce, num_envs=ENVS, value=None):
    """Before the first step, an agent whose only layer is a table: its logits are W[:, s] + b."""
    build = lambda outputs, seed: filled(
        lambda: make_torso(KEY, SPEC.observation, (), outputs), seed, 0.7
    )
    judge, last = build(1, 1)
    if value is not None:
        last = eqx.tree_at(
            lambda layer: (layer.weight, layer.bias), last, (value[None], jnp.zeros(1))
        )
    agent = ActorCriticNetworks(
        PolicyNetwork(*build(ACTIONS, 0), jnp.zeros(0), SPEC.action, SPEC.observation),
        ValueNetwork(judge, last),
    )
    optimizer = (
        reinforce.optimizer(no_steps).init(agent.policy),
        reinforce.value_optimizer().init(agent.value),
    )
    scales = running_statistics.init_observation_statistics(SPEC.observation)
    learner = LearnerState(
        agent,
        optimizer,
        scales,
        running_statistics.init_statistics(()),
        jnp.zeros(num_envs),
        no_steps,
    )
    ring = ring_buffer.init(
        BLANK, reinforce.capacity * num_envs, num_envs, reinforce.rollout_length
    )
    rows = jnp.zeros(num_envs, jnp.int32)
    return ReinforceState(learner, ring, rows, rows, no_steps, no_steps)


def logits_of(state):
    """[state, action]"""
    head = state.learner.networks.policy.head
    return np.asarray(head.weight).T + np.asarray(head.bias)


def first_moment(state):
    """Adam's, of the policy's (weight, bias): a tenth of the first gradient, then nine tenths of
    itself and a tenth more."""
    moment = state.learner.opt_state[0][0].mu.head
    return jnp.concatenate([moment.weight.ravel(), moment.bias])


def log_softmax(logits):
    return scipy.special.log_softmax(logits.astype(float), -1)


def random_life(rng, rows, num_envs, ends=0.3):
    """Experience [time, env] of tables; what acts is another policy than that of `tabular`."""
    observation, after = rng.integers(0, STATES, (2, rows, num_envs)).astype(np.int32)
    action = rng.integers(0, ACTIONS, (rows, num_envs)).astype(np.int32)
    terminated, truncated = rng.random((2, rows, num_envs)) < ends / 2
    beta = log_softmax(rng.normal(0, 0.3, (STATES, ACTIONS)))
    return Transition(
        observation,
        action,
        rng.normal(1, 2, (rows, num_envs)).astype(np.float32),
        after,
        terminated,
        truncated,
        EpisodeMemory((), beta[observation, action].astype(np.float32)),
    )


# What it learns from.

ROLLOUT, ROWS = 4, 12


@jax.jit
def recalled(experience, begun, ended):
    """Of a ring into which experience [rollout, time, env] went; `begun` and `ended` [case,
    env]."""
    ring = ring_buffer.init(BLANK, ROWS * 3, 3, ROLLOUT)
    for i in range(len(experience.reward)):
        ring = ring_buffer.insert(ring, jax.tree.map(lambda x, i=i: x[i], experience))
    return jax.vmap(partial(gather_episodes, ring))(begun, ended)


@pytest.mark.parametrize("rollouts", [2, 5], ids=["not full", "wrapped"])
def test_whole_episodes_are_recalled_in_order(rollouts):
    """The steps that count are those between `begun` and `ended`, and steps share an episode's
    number where they are of one."""
    rng, rows = np.random.default_rng(rollouts), rollouts * ROLLOUT
    life = random_life(rng, rows, 3)
    oldest = max(rows - ROWS, 0)
    # ends of episodes
    marks = [[oldest, *(1 + np.flatnonzero(life.done[oldest:, env]) + oldest)] for env in range(3)]
    # [case, env, 2]
    spans = np.array([[sorted(rng.choice(marks[env], 2)) for env in range(3)] for _ in range(6)])
    lived = jax.device_get(
        recalled(
            jax.tree.map(lambda x: x.reshape(rollouts, ROLLOUT, 3), life), *np.moveaxis(spans, 2, 0)
        )
    )
    assert (spans[..., 1] > spans[..., 0]).any()
    for case, env in np.ndindex(6, 3):
        counts, wanted = lived.valid[case, :, env], np.arange(*spans[case, env])
        assert counts.sum() == len(wanted)
        for name in ("observation", "action", "reward", "next_observation", "terminated"):
            np.testing.assert_array_equal(
                getattr(lived.experience, name)[case, :, env][counts],
                getattr(life, name)[wanted, env],
            )
        episode = life.done[:, env].cumsum() - life.done[:, env]
        ours, theirs = lived.episode[case, :, env][counts], episode[wanted]
        np.testing.assert_array_equal(ours[:, None] == ours, theirs[:, None] == theirs)
    for case in range(6):  # nor do two copies share one
        numbers = [set(lived.episode[case, :, env][lived.valid[case, :, env]]) for env in range(3)]
        assert len(set.union(*numbers)) == sum(map(len, numbers))


def test_what_was_never_lived_is_no_part_of_the_first_episode():
    """A ring that is not full holds blank rows before it, and what comes after its newest row is
    not known."""
    life = random_life(np.random.default_rng(0), 8, 3, ends=0)
    lived = jax.device_get(
        recalled(
            jax.tree.map(lambda x: x.reshape(2, ROLLOUT, 3), life),
            np.zeros((1, 3), int),
            np.full((1, 3), 8),
        )
    )
    np.testing.assert_array_equal(
        lived.experience.done[0, :, 0], [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    )
    assert len(np.unique(lived.episode[0][lived.valid[0]])) == 3


def test_what_is_left_of_an_episode_that_was_cut_has_a_return_of_its_own():
    """Without causality, from its first step that counts; of a whole one as ever."""
    life = random_life(np.random.default_rng(0), 8, 3, ends=0)
    begun = np.array([[3, 0, 5]])
    lived = recalled(
        jax.tree.map(lambda x: x.reshape(2, ROLLOUT, 3), life), begun, np.full((1, 3), 8)
    )
    lived = jax.tree.map(lambda x: x[0], jax.device_get(lived))
    x = lived.experience
    nothing = np.zeros_like(x.reward)

    @jax.jit
    def weigh(x):
        ahead = {
            "reward": x.reward,
            "next_value": nothing,
            "terminated": x.terminated,
            "done": x.done,
            "discount": 0.9,
        }
        return replace(SMALL, causality=False).importance_weighted_returns(nothing, ahead, lived)

    weight, earned = jax.device_get(weigh(x))
    np.testing.assert_array_equal(weight, 1)
    for env, start in enumerate(begun[0]):
        whole = life.reward[start:, env] @ 0.9 ** np.arange(8 - start)
        np.testing.assert_allclose(earned[:, env][lived.valid[:, env]], whole, rtol=1e-5)


SMALL = Reinforce(
    hidden=(), capacity=ROWS, rollout_length=ROLLOUT, batch_steps=10**6, value_steps=1, discount=0.9
)
DUE = {  # what is learned, and the share of steps that end an episode
    "episodes": (replace(SMALL, batch_episodes=5, baseline="average"), 0.3),
    "steps": (replace(SMALL, batch_steps=17, gradient_steps=3), 0.3),
    "full": (replace(SMALL, batch_episodes=10**6), 0.02),
    "no more": (replace(SMALL, batch_episodes=4, max_episodes=11), 0.3),
}


@pytest.mark.parametrize(
    "reinforce, ends",
    [
        pytest.param(*row, id=name, marks=[pytest.mark.slow] * (name != "episodes"))
        for name, row in DUE.items()
    ],
)
def test_a_batch_is_due_when_there_is_enough(reinforce, ends):
    """By counting: what waits is learned from, all of it and once, and then waits no more; only
    then does the policy move."""
    looks, envs = 30, 2
    life = random_life(np.random.default_rng(3), looks * ROLLOUT, envs, ends)

    @jax.jit
    def run(stretches):
        def look(state, stretch):
            after, metrics = reinforce.update(state, stretch, KEY)
            return after, (
                metrics["updates"],
                after.learned_episodes,
                after.pending_episodes,
                after.start_row,
                after.learner.networks.policy.head.weight,
            )

        return jax.lax.scan(look, tabular(reinforce, envs), stretches)

    _, told = jax.device_get(run(jax.tree.map(lambda x: x.reshape(looks, ROLLOUT, envs), life)))
    begun, ended, learned, waiting, cuts, weights = (
        np.zeros(envs, int),
        np.zeros(envs, int),
        0,
        0,
        0,
        None,
    )
    for i, (updates, ours, ours_waiting, ours_begun, weight) in enumerate(zip(*told, strict=True)):
        now = (i + 1) * ROLLOUT
        for t, env in np.ndindex(ROLLOUT, envs):
            if life.done[now - ROLLOUT + t, env]:
                ended[env], waiting = now - ROLLOUT + t + 1, waiting + 1
        enough = (
            waiting >= reinforce.batch_episodes
            if reinforce.batch_episodes
            else (ended - begun).sum() >= 17
        )
        full = now - begun + ROLLOUT > ROWS  # of each copy
        due = (enough or full.any()) and not (
            reinforce.max_episodes and learned >= reinforce.max_episodes
        )
        if due:
            ended, cuts = np.where(full, now, ended), cuts + full.any()
            begun, learned, waiting = ended.copy(), learned + waiting, 0
        assert updates == due * reinforce.gradient_steps, i
        assert (ours, ours_waiting) == (learned, waiting)
        np.testing.assert_array_equal(ours_begun, begun)
        assert weights is None or (weight != weights).any() == due
        assert np.isfinite(weight).all()
        weights = weight
    assert learned + waiting == life.done.sum() and learned > 3
    assert cuts or ends > 0.1


# Its gradient.

PROCESS = random_mdp(jax.random.key(52), STATES, ACTIONS, termination=0.35)
PROCESS = replace(PROCESS, reward=PROCESS.reward + 1)
BATCHES, LIFE = 2000, 24  # one step in 30,000 outlives that
PLAIN = Reinforce(
    hidden=(), capacity=2 * LIFE, rollout_length=LIFE, value_steps=1, batch_episodes=ENVS
)
SWITCHES = {
    (causality, baseline): replace(PLAIN, causality=causality, baseline=baseline)
    for causality, baseline in (
        (False, "none"),
        (False, "average"),
        (True, "none"),
        (True, "average"),
        (True, "optimal"),
        (True, "value"),
    )
}


@pytest.fixture(scope="module")
def lives():
    """Batches of experience [batch, time, env] of the policy."""
    environment = JaxEnvs(Tabular(PROCESS), ENVS)
    policy = tabular(PLAIN).learner.networks.policy

    def live(key):
        key_reset, key_roll = jax.random.split(key)

        def act(observation, memory, key):
            pi = policy(observation)
            action = pi.sample(key)
            return action, EpisodeMemory((), pi.log_prob(action))

        follow = BoundPolicy(act, lambda key: EpisodeMemory((), jnp.zeros(ENVS)))
        start = init_rollout_state(environment, follow, key_reset)
        return rollout(environment, follow, start, key_roll, LIFE)[1]

    return jax.jit(jax.vmap(live))(jax.random.split(KEY, BATCHES))


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, 0))
def one_gradient(reinforce, before, life):
    """Of a batch of the first episodes of each copy, Σₜ weight ∇log π (G - b) an episode:
    [parameter]."""
    ended = life.done.argmax(0) + 1
    state = replace(before, end_row=ended, pending_episodes=jnp.int32(ENVS), buffer=())
    after, _ = reinforce.fit_episodes(
        ring_buffer.insert(before.buffer, life), state, jnp.bool_(False)
    )
    # the loss is a mean over steps, and falls
    return -10 * first_moment(after) * ended.sum() / ENVS


value_of, without_causality, with_causality = map(
    jax.jit, (evaluation.policy_value, exact.exact_gradient, exact.policy_gradient_theorem)
)


def gradients(reinforce, lives, discount):
    """[batch, parameter], the baseline's value being exact."""
    logits = logits_of(tabular(PLAIN))
    value = np.asarray(
        value_of(PROCESS, np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), discount)
    )
    # each has an agent of its own: XLA's simplifier miscompiles the logits when one is broadcast to
    # all
    agents = jax.tree.map(
        lambda x: np.repeat(np.asarray(x)[None], BATCHES, 0), tabular(PLAIN, value=value)
    )
    return np.asarray(one_gradient(replace(reinforce, discount=discount), agents, lives), float)


@pytest.mark.parametrize(
    "causality, baseline",
    [
        switches if switches == (True, "value") else pytest.param(*switches, marks=pytest.mark.slow)
        for switches in SWITCHES
    ],
)
def test_the_estimate_is_the_exact_gradient(lives, causality, baseline):
    """Within 4.5 standard errors. Without causality it is ∇J; with it, that which leaves γᵗ out."""
    discount = 0.8
    ours = gradients(SWITCHES[causality, baseline], lives, discount)
    logits = logits_of(tabular(PLAIN))
    truths = (
        np.asarray(without_causality(PROCESS, logits, discount)),
        np.asarray(with_causality(PROCESS, logits, discount, 1.0)),
    )
    table, other = truths[causality], truths[not causality]
    wanted = np.concatenate([table.T.ravel(), table.sum(0)])
    error = ours.std(0) / math.sqrt(BATCHES)
    assert (abs(ours.mean(0) - wanted) < 4.5 * error).all(), (ours.mean(0), wanted, error)
    # which the sample can tell
    assert (abs(ours.mean(0)[:6] - other.T.ravel()) > 4.5 * error[:6]).any()


@pytest.mark.slow
def test_variances_fall(lives):
    """From the return of the whole to rewards to go, to an average and to the value as baselines;
    each by a tenth or more.

    The discount is 1, so all have one mean. The optimal baseline is found from as few others as the
    average, and is no worse.
    """
    spread = {
        switches: gradients(reinforce, lives, 1.0).var(0).sum()
        for switches, reinforce in SWITCHES.items()
    }
    falling = [
        spread[False, "none"],
        spread[True, "none"],
        spread[True, "average"],
        spread[True, "value"],
    ]
    assert all(after < 0.9 * before for before, after in itertools.pairwise(falling)), spread
    assert spread[False, "average"] < 0.9 * spread[False, "none"]
    assert spread[True, "optimal"] < 0.9 * spread[True, "none"]


# with causality or without
OFF_POLICY = {"trajectory": False, "per_decision": True, "first_order": True}


def slow_gradient(life, ended, log_ratio, logits, reinforce):
    """- the mean over steps of weight (return) ∇log π, of (W, b), by loops over episodes in
    float64."""
    total, steps, policy = (
        np.zeros((ACTIONS, STATES)),
        0,
        np.exp(logits) / np.exp(logits).sum(-1, keepdims=True),
    )
    limit, discount = reinforce.weight_clip, reinforce.discount
    for env in range(life.reward.shape[1]):
        ends = [0, *(1 + np.flatnonzero(life.done[: ended[env], env]))]
        for start, stop in itertools.pairwise(ends):
            ratio, reward = (
                np.exp(log_ratio[start:stop, env]),
                life.reward[start:stop, env].astype(float),
            )
            for t in range(stop - start):
                match reinforce.correction:
                    case "trajectory":
                        weight = min(ratio.prod(), limit)
                        earned = sum(discount**k * r for k, r in enumerate(reward))
                    case "per_decision":
                        weight, earned = min(ratio[: t + 1].prod(), limit), 0
                        for k in range(t, stop - start):
                            earned += (
                                discount ** (k - t)
                                * np.minimum(ratio[t + 1 : k + 1], limit).prod()
                                * reward[k]
                            )
                    case "first_order":
                        weight = min(ratio[t], limit)
                        earned = sum(discount**k * r for k, r in enumerate(reward[t:]))
                state, action = life.observation[start + t, env], life.action[start + t, env]
                total[:, state] -= weight * earned * (np.eye(ACTIONS)[action] - policy[state])
                steps += 1
    return np.concatenate([total.ravel(), total.sum(1)]) / steps


@pytest.mark.parametrize(
    "correction, causality",
    [
        pytest.param(*row, id=row[0], marks=[pytest.mark.slow] * (row[0] != "per_decision"))
        for row in OFF_POLICY.items()
    ],
)
def test_weights_are_those_of_how_far_the_policy_has_moved(correction, causality):
    """At each step those of the policy that it has become over the one that acted, another from the
    first step on; the gradients are a loop's."""
    reinforce = replace(
        SMALL, baseline="none", correction=correction, causality=causality, gradient_steps=2
    )
    life = random_life(np.random.default_rng(1), 8, ENVS)
    life.terminated[5] = True
    ended = (np.arange(1, 9)[:, None] * life.done).max(0)
    assert (ended > 5).all() and life.done.sum() > 2 * ENVS

    @jax.jit
    def learn(reinforce):
        before = tabular(reinforce)
        state = replace(
            before,
            end_row=jnp.asarray(ended),
            pending_episodes=jnp.int32(life.done.sum()),
            buffer=(),
        )
        ring = before.buffer
        for half in (slice(ROLLOUT), slice(ROLLOUT, None)):
            ring = ring_buffer.insert(ring, jax.tree.map(lambda x, half=half: x[half], life))
        return reinforce.fit_episodes(ring, state, jnp.bool_(False))[0]

    logits = np.asarray(logits_of(tabular(reinforce)), float)
    stays = np.asarray(first_moment(learn(replace(reinforce, learning_rate=0.0))), float)
    ratio_of = lambda logits: (
        log_softmax(logits)[life.observation, life.action] - life.memory.log_prob
    )
    first = slow_gradient(life, ended, ratio_of(logits), logits, reinforce)
    np.testing.assert_allclose(stays, 0.19 * first, rtol=1e-4, atol=1e-5)
    for limit in (math.inf, 1.1):
        limited = replace(reinforce, learning_rate=0.3, weight_clip=limit)
        first = slow_gradient(life, ended, ratio_of(logits), logits, limited)
        # Adam's first step
        moved = logits - 0.3 * (np.sign(first[:6]).reshape(ACTIONS, STATES).T + np.sign(first[6:]))
        second = slow_gradient(life, ended, ratio_of(moved), moved, limited)
        np.testing.assert_allclose(
            first_moment(learn(limited)), 0.09 * first + 0.1 * second, rtol=1e-3, atol=1e-4
        )
        weightless = slow_gradient(life, ended, np.zeros((8, ENVS)), moved, limited)
        assert abs(weightless - second).max() > 0.03


# Over every trajectory of a process of 2 states, 2 actions and HORIZON steps.

HORIZON, GAMMA = 3, 0.9
CORRECTIONS = [
    (correction, causality)
    for correction in ("trajectory", "per_decision", "first_order")
    for causality in (True, False)
]


@pytest.fixture(scope="module")
def enumerated():
    """(wanted, ours): {(correction, causality): the expected estimate of the gradient [state,
    action] under β}, the first by sums over trajectories in NumPy."""
    rng = np.random.default_rng(52)
    transition, reward, initial = (
        rng.dirichlet([0.5, 0.5], (2, 2)),
        rng.normal(size=(2, 2)),
        rng.dirichlet([1, 1]),
    )
    logits, change = rng.normal(size=(2, 2, 2))
    beta, pi = (scipy.special.softmax(x, -1) for x in (logits, logits + change))
    paths = np.array(list(itertools.product((0, 1), repeat=2 * HORIZON))).T
    states, actions = paths[:HORIZON], paths[HORIZON:]  # [time, trajectory]
    at = states, actions
    chance = initial[states[0]] * transition[states[:-1], actions[:-1], states[1:]].prod(0)
    p_beta, p_pi = (chance * policy[at].prod(0) for policy in (beta, pi))
    # [time, trajectory, state, action]
    score = np.eye(2)[states][..., None] * (np.eye(2)[actions] - pi[states])[:, :, None]
    power = GAMMA ** np.arange(HORIZON)
    whole = np.tile(power @ reward[at], (HORIZON, 1))
    to_go = np.stack([power[: HORIZON - t] @ reward[at][t:] for t in range(HORIZON)])
    ratio = (pi / beta)[at]

    def mean(probability, factor):
        return np.einsum("n,tn,tnsa->sa", probability, factor, score)

    wanted = {
        (correction, causality): mean(p_pi, to_go if causality else whole)
        for correction, causality in CORRECTIONS[:4]
    } | {
        ("first_order", causality): mean(p_beta, ratio * (to_go if causality else whole))
        for causality in (True, False)
    }
    done = np.tile(np.arange(HORIZON) == HORIZON - 1, (paths.shape[1], 1)).T
    episode = np.tile(np.arange(paths.shape[1]), (HORIZON, 1))

    @jax.jit
    def weigh(log_ratio, rewards):
        nothing = jnp.zeros_like(rewards)
        experience = Transition(states, actions, rewards, states, done, nothing.astype(bool))
        episodes = EpisodeBatch(experience, jnp.ones_like(done, bool), episode)
        ahead = {
            "reward": rewards,
            "next_value": nothing,
            "terminated": done,
            "done": done,
            "discount": GAMMA,
        }
        return [
            Reinforce(correction=correction, causality=causality).importance_weighted_returns(
                log_ratio, ahead, episodes
            )
            for correction, causality in CORRECTIONS
        ]

    with jax.enable_x64(True):
        weighed = jax.device_get(weigh(np.log(ratio), reward[at]))
    ours = {
        row: mean(p_beta, weight * earned)
        for row, (weight, earned) in zip(CORRECTIONS, weighed, strict=True)
    }
    return wanted, ours


@pytest.mark.parametrize(
    "correction, causality",
    [
        pytest.param(*row, id=f"{row[0]}, {'with' if row[1] else 'without'} causality")
        for row in CORRECTIONS
    ],
)
def test_over_all_trajectories_the_estimate_is_the_exact_gradient(
    enumerated, correction, causality
):
    """That of π from the experience of β; of first order it is what its definition says."""
    wanted, ours = enumerated
    row = correction, causality
    np.testing.assert_allclose(ours[row], wanted[row], rtol=1e-12, atol=1e-14)
    other = wanted["trajectory" if correction == "first_order" else "first_order", causality]
    assert abs(ours[row] - other).max() > 0.05 * abs(other).max()


def test_an_action_is_as_likely_as_it_was_to_the_policy_that_took_it():
    """In several copies, whose episodes outlive updates: by the parameters of each rollout."""
    looks, envs = 24, 3
    reinforce = replace(SMALL, batch_steps=6, learning_rate=0.5, rollout_length=2, capacity=16)
    environment = JaxEnvs(Tabular(PROCESS), envs)

    @jax.jit
    def live(key):
        before = tabular(reinforce, envs)

        def look(carry, key):
            state, stage = carry
            policy = bind_policy(reinforce, state, environment, explore=True)
            stage, experience, _ = rollout(environment, policy, stage, key, 2)
            head = state.learner.networks.policy.head
            stored = reinforce.store(state, experience)
            lived = gather_episodes(stored.buffer, stored.start_row, stored.end_row)
            after, metrics = reinforce.update(state, experience, key)
            return (after, stage), (
                head.weight.T + head.bias,
                lived.valid,
                lived.experience,
                metrics["updates"],
            )

        policy = bind_policy(reinforce, before, environment, explore=True)
        start = before, init_rollout_state(environment, policy, key)
        return jax.lax.scan(look, start, jax.random.split(key, looks))[1]

    logits, valid, experience, updates = jax.device_get(live(KEY))
    log_p, moved = log_softmax(logits), 0.0  # [look, state, action]
    for i in np.flatnonzero(updates):
        # rows are in order of time, and the newest two are of this look
        for row, env in np.argwhere(valid[i]):
            at = experience.observation[i, row, env], experience.action[i, row, env]
            noted = experience.memory.log_prob[i, row, env]
            acted = i - (15 - row) // 2
            assert noted == pytest.approx(log_p[acted][at], abs=1e-5)
            moved = max(moved, abs(log_p[i][at] - noted))
    assert updates.sum() > 5 and moved > 0.3


def test_what_an_episode_cut_off_would_have_earned_is_its_value():
    """Where it was terminated that is nothing; the advantage is over the value of the state."""
    reinforce = replace(SMALL, baseline="value")
    value = np.float32([1.5, -2.0, 0.7])
    life = random_life(np.random.default_rng(1), 8, ENVS)
    life.terminated[5], life.truncated[5] = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)
    ended = (np.arange(1, 9)[:, None] * life.done).max(0)
    before = tabular(reinforce, value=value)
    logits = np.asarray(logits_of(before), float)
    life.memory.log_prob[:] = log_softmax(logits)[life.observation, life.action]

    @jax.jit
    def learn(before, life):
        state = replace(
            before,
            end_row=jnp.asarray(ended),
            pending_episodes=jnp.int32(life.done.sum()),
            buffer=(),
        )
        ring = before.buffer
        for half in (slice(ROLLOUT), slice(ROLLOUT, None)):
            ring = ring_buffer.insert(ring, jax.tree.map(lambda x, half=half: x[half], life))
        after, metrics = reinforce.fit_episodes(ring, state, jnp.bool_(False))
        return first_moment(after), metrics["value_loss"]

    policy = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    total, losses = np.zeros((ACTIONS, STATES)), []
    for env in range(ENVS):
        earned = 0.0
        for t in reversed(range(ended[env])):
            if life.done[t, env]:
                after = value[life.next_observation[t, env]]
                earned = 0.0 if life.terminated[t, env] else after
            earned = life.reward[t, env] + 0.9 * earned
            state, action = life.observation[t, env], life.action[t, env]
            advantage = earned - value[state]
            total[:, state] -= advantage * (np.eye(ACTIONS)[action] - policy[state])
            losses.append(advantage**2 / 2)
    expected = np.concatenate([total.ravel(), total.sum(1)]) / len(losses)
    moment, loss = learn(before, life)
    np.testing.assert_allclose(moment, 0.1 * expected, rtol=1e-4, atol=1e-5)
    assert loss == pytest.approx(np.mean(losses), rel=1e-4)


def test_likelihood_with_weight_1_is_cross_entropy_or_the_squared_error():
    rng = np.random.default_rng(0)
    logits, action = rng.normal(size=(7, 4)).astype(np.float32), rng.integers(0, 4, 7)
    entropy = -scipy.special.log_softmax(logits.astype(float), -1)[np.arange(7), action].mean()
    likelihood = jax.jit(lambda choice, action: weighted_nll(choice.log_prob(action)))
    assert likelihood(Categorical(logits), action) == pytest.approx(entropy, rel=1e-5)
    mean, action = rng.normal(size=(2, 7, 3)).astype(np.float32)
    error = ((action - mean) ** 2).sum(-1).mean() / 2
    assert likelihood(Normal(mean, np.zeros(3), (3,)), action) == pytest.approx(
        error + 1.5 * math.log(2 * math.pi), rel=1e-5
    )


# What it learns, and what it does not take.


def test_settings_that_do_not_go_together_are_refused():
    for reinforce, message in (
        (
            Reinforce(batch_episodes=1, baseline="average"),
            "batch_episodes is 1; the average baseline of an episode",
        ),
        (Reinforce(batch_episodes=1, baseline="optimal"), "give at least 2"),
        (
            Reinforce(baseline="optimal", recurrent=GRU()),
            "with a memory .recurrent GRU.units=64.. there is none",
        ),
        (
            Reinforce(rollout_length=33, capacity=64),
            "rollout_length 33 is more than half of capacity 64",
        ),
        (
            Reinforce(baseline="mean"),
            "baseline is 'mean'; choose one of none, average, optimal, value",
        ),
        (OffPolicyGradient(weight_clip=0.0), "weight_clip is 0.0"),
    ):
        with pytest.raises(InvalidInput, match=message):
            validate(reinforce)
    validate(Reinforce(batch_episodes=1, rollout_length=32, capacity=64))
    validate(OffPolicyGradient())
    with pytest.raises(
        InvalidInput,
        match=r"batch_steps 1000 is more than the 200 that are kept \(capacity 100 × num_envs 2\)",
    ):
        Reinforce(capacity=100, hidden=()).init(KEY, EnvironmentSpec(Box((3,)), Discrete(2), 2))


@pytest.mark.system
def test_an_agent_of_its_own_acts_and_learns():
    """From `init` through `act` to `update`, with more than one kind of action."""
    spec = EnvironmentSpec(Box((3,)), Box((2,)), 2)
    reinforce = Reinforce(hidden=(4,), batch_steps=4, capacity=16, value_steps=2)

    @jax.jit
    def live(key):
        state = reinforce.init(key, spec)
        observation = jnp.ones((2, 3))
        action, memory = reinforce.act(
            state, observation, reinforce.initial_memory(state, spec, key), key, True
        )
        stretch = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (8, *x.shape)),
            Transition(
                observation,
                action,
                jnp.ones(2),
                observation,
                jnp.ones(2, bool),
                jnp.zeros(2, bool),
                memory,
            ),
        )
        return state, memory, reinforce.update(state, stretch, key)

    before, memory, (after, metrics) = live(KEY)
    assert (
        memory.policy == ()
        and memory.log_prob.shape == (2,)
        and metrics["updates"] == 1
        and after.learned_episodes == 16
        and after.learner.steps == 16
    )
    assert (before.learner.networks.policy.log_std != after.learner.networks.policy.log_std).all()
