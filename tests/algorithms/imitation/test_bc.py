"""Cloning is the policy gradient with weights of one, on steps of the episodes that count."""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from etude.algorithms.imitation import cloning
from etude.algorithms.imitation.bc import BC
from etude.algorithms.imitation.cloning import Demonstrations
from etude.algorithms.imitation.heads.autoregressive import Autoregressive
from etude.algorithms.imitation.heads.deterministic import Deterministic
from etude.algorithms.imitation.heads.direct import Direct
from etude.algorithms.imitation.heads.flow import Flow
from etude.algorithms.imitation.heads.latent import Latent
from etude.algorithms.imitation.heads.mixture import Mixture
from etude.algorithms.protocol import NOTHING, Outside, init_state, put_components
from etude.algorithms.trust_region.ppo import PPO
from etude.data.dataset import make_dataset
from etude.errors import InvalidInput
from etude.estimators.losses import weighted_nll
from etude.estimators.running_statistics import Normalization
from etude.nn.recurrent import GRU, LSTM
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec, MultiBinary, MultiDiscrete
from etude.struct import replace, validate

KEY = jax.random.key(0)
ARM = Box((2,), low=-1.0, high=1.0)


def recorded(observations, actions, spec=None, episodes=1):
    """A dataset of as many equally long episodes, whose last steps are truncated. Observations have
    a row for each step; the last one is given twice."""
    steps = len(actions) // episodes
    spec = spec or EnvironmentSpec(Box(observations.shape[1:]), Discrete(2), 1)
    split = np.split(observations, episodes)
    ends = [np.arange(steps) == steps - 1] * episodes
    return make_dataset(
        spec,
        observations=[np.concatenate([rows, rows[-1:]]) for rows in split],
        actions=np.split(actions, episodes),
        rewards=[np.zeros(steps)] * episodes,
        terminations=[np.zeros(steps, bool)] * episodes,
        truncations=ends,
    )


def single_actions(steps):
    """Steps as a batch to learn from."""
    is_valid = np.ones((len(steps.action), 1), bool)
    return Demonstrations(steps.observation, steps.action[:, None], is_valid)


@partial(jax.jit, static_argnames="updates")
def cloned(bc, dataset, key=KEY, updates=10):
    """(the state, and the metrics [update]) after training on a dataset."""
    outside = Outside(dataset)
    state = init_state(bc, key, dataset.spec, outside)
    update = lambda state, key: bc.update(state, (), key, outside)
    return jax.lax.scan(update, state, jax.random.split(key, updates))


@jax.jit
def begun(algorithm, dataset):
    """The state before training."""
    outside = Outside(dataset) if algorithm.needs else NOTHING
    return init_state(algorithm, KEY, replace(dataset.spec, num_envs=8), outside)


def filled_learner(bc, spec):
    """A cloner before its first step, with random weights, which cost less than those it begins
    with."""
    shapes, rng = (
        jax.eval_shape(lambda: cloning.init_cloner(bc, KEY, spec)),
        np.random.default_rng(0),
    )
    blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    weights = jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape) / 2), shapes.weights)
    return replace(blank, weights=weights)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# The loss


@pytest.mark.parametrize(
    ("space", "actions", "expected"),
    [
        (
            Discrete(3),
            np.array([0, 2, 1, 1]),
            lambda out, a: -scipy.special.log_softmax(out, -1)[np.arange(4), a].mean(),
        ),
        (
            ARM,
            np.clip(normal((4, 2), 1), -1, 1),
            lambda out, a: -scipy.stats.norm.logpdf(a, out, 0.5).sum(-1).mean(),
        ),
        pytest.param(
            MultiDiscrete((2, 3), (0, 0), (2,)),
            np.array([[0, 2], [1, 0], [1, 1], [0, 0]]),
            lambda out, a: (
                -(
                    scipy.special.log_softmax(out[:, :2], -1)[np.arange(4), a[:, 0]]
                    + scipy.special.log_softmax(out[:, 2:], -1)[np.arange(4), a[:, 1]]
                ).mean()
            ),
            marks=pytest.mark.system,
        ),
        pytest.param(
            MultiBinary((2,)),
            np.array([[0, 1], [1, 1], [0, 0], [1, 0]], np.int8),
            lambda out, a: np.log1p(np.exp(-(2.0 * a - 1) * out)).sum(-1).mean(),
            marks=pytest.mark.system,
        ),
    ],
    ids=["discrete", "box", "multidiscrete", "multibinary"],
)
def test_the_loss_is_the_negative_log_likelihood_of_the_experts_actions(space, actions, expected):
    """By scipy, and with the gradient of the policy gradient whose weights are one."""
    spec = EnvironmentSpec(Box((3,)), space, 1)
    bc = BC(hidden=(5,))
    steps = recorded(normal((4, 3)), actions, spec).transitions
    learner = filled_learner(bc, spec)
    log_std = np.full_like(learner.weights.head.log_std, math.log(0.5))
    head = replace(learner.weights.head, log_std=log_std)
    learner = replace(learner, weights=replace(learner.weights, head=head))

    @jax.jit
    def computed(learner):
        loss_of = lambda weights: cloning.loss(bc, weights, single_actions(steps), KEY)
        (loss, (metrics, _)), gradient = jax.value_and_grad(loss_of, has_aux=True)(learner.weights)

        def policy_gradient_loss(policy):
            return weighted_nll(policy(steps.observation).log_prob(steps.action), jnp.ones(4))

        policy = learner.policy
        features, _ = policy.torso(steps.observation)
        return (
            (loss, metrics["nll"]),
            (features, policy.head),
            (replace(learner, weights=gradient).policy, jax.grad(policy_gradient_loss)(policy)),
        )

    (loss, nll), (features, head), gradients = jax.device_get(computed(learner))
    outputs = np.float64(features) @ np.float64(head.weight).T + head.bias
    assert loss == pytest.approx(expected(outputs, np.asarray(steps.action)), rel=1e-5)
    assert nll == loss
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), *gradients)


ARM_SPEC = EnvironmentSpec(Box((3,)), ARM, 1)


@jax.jit
def one_step(bc, learner, steps):
    """(the negative log-likelihood, the gradient of the loss, the cloner after a gradient step)."""
    batch = single_actions(steps)
    loss_of = lambda weights: cloning.loss(bc, weights, batch, KEY)
    gradient, (metrics, _) = jax.grad(loss_of, has_aux=True)(learner.weights)
    return metrics["nll"], gradient, cloning.gradient_step(bc, learner, batch, KEY)[0]


def test_a_gradient_step_is_one_of_adam_with_decayed_weights():
    steps = recorded(normal((4, 3)), np.clip(normal((4, 2), 1), -1, 1), ARM_SPEC).transitions
    bc = BC(
        hidden=(5,),
        learning_rate=0.1,
        weight_decay=0.2,
        learning_rate_decay=10.0,
        normalize_observation=None,
    )
    learner = replace(filled_learner(bc, ARM_SPEC), steps=np.int32(5))  # half the rate is left
    _, gradient, after = jax.device_get(one_step(bc, learner, steps))

    def stepped(weight, slope):
        first = slope / (np.abs(slope) + 1e-8)  # Adam's first step
        decay = 0.2 * weight if weight.ndim > 1 else 0  # neither of biases nor of deviations
        return weight - 0.05 * (first + decay)

    expected = jax.tree.map(stepped, learner.weights, gradient)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4), after.weights, expected)
    assert after.steps == 6


def test_of_every_head_weight_matrices_decay_and_standard_deviations_do_not():
    for head in (Direct(), Deterministic(), Mixture(), Latent(), Autoregressive(), Flow()):
        network = jax.eval_shape(lambda key, head=head: head.make(key, ARM, 5, 3, "relu"), KEY)
        arrays = jax.tree_util.tree_leaves_with_path(network)
        for (path, leaf), decays in zip(
            arrays, jax.tree.leaves(cloning.decay_mask(network)), strict=True
        ):
            name = jax.tree_util.keystr(path[-1:])
            assert decays == (leaf.ndim > 1 and name != ".log_std"), (head, name)
            assert name not in (".log_std", ".bias") or not decays


@pytest.mark.system
@pytest.mark.parametrize("space", [ARM, Discrete(3)], ids=["box", "discrete"])
def test_a_function_of_the_observation_is_learned(space):
    seen = normal((400, 2))
    actions = (
        np.tanh(seen[:, ::-1] / 2) if space is ARM else (seen @ [[1, -1, 0], [0, 1, -1]]).argmax(-1)
    )
    dataset = recorded(seen, actions, EnvironmentSpec(Box((2,)), space, 1), 4)
    bc = BC(hidden=(32,), batch_size=64, learning_rate=1e-2, learning_rate_decay=1_000.0)
    state, metrics = cloned(bc, dataset)
    assert metrics["action_error"][-1] < (0.03 if space is ARM else 0.02)
    action, _ = bc.act(state, dataset.transitions.observation, (), KEY, explore=False)
    expected = dataset.transitions.action
    error = np.abs(action - expected).mean() if space is ARM else (action != expected).mean()
    assert error < (0.03 if space is ARM else 0.02)


def test_the_standard_deviation_has_a_floor_that_is_reached_and_not_passed():
    """An action that is fitted exactly has a likelihood without bound."""
    bc = BC(hidden=(5,), learning_rate=0.2, head=Direct(min_std=0.05), normalize_observation=None)
    learner = filled_learner(bc, ARM_SPEC)
    head = jax.tree.map(np.zeros_like, learner.weights.head)
    layer = eqx.tree_at(lambda layer: layer.bias, head.layer, np.float32([1, -1]))
    learner = replace(learner, weights=replace(learner.weights, head=replace(head, layer=layer)))
    steps = recorded(normal((4, 3)), np.tile([1.0, -1.0], (4, 1)), ARM_SPEC).transitions
    told = []
    for _ in range(20):
        nll, slope, learner = jax.device_get(one_step(bc, learner, steps))
        told.append(nll)
    lowest = 2 * math.log(0.05 * math.sqrt(2 * math.pi))
    assert min(told) >= lowest - 1e-4 and told[0] > lowest + 5
    assert told[-1] == pytest.approx(lowest, abs=1e-4)
    np.testing.assert_allclose(np.exp(learner.weights.head.log_std), 0.05, rtol=1e-5)
    assert np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(slope))) < 10


# What it sees


def test_observations_have_mean_zero_and_deviation_one_over_the_dataset():
    seen = 5 + 3 * normal((50, 2))
    bc = BC(hidden=(4,))
    dataset = recorded(seen, np.zeros(50, np.int64))
    state = begun(bc, dataset)
    given = np.asarray(cloning.normalized(bc, state.learner, dataset.transitions.observation))
    np.testing.assert_allclose(given.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(given.std(0), 1, rtol=1e-5)
    plain = replace(bc, normalize_observation=None)
    assert cloning.normalized(plain, state.learner, seen) is seen


def test_a_number_that_was_constant_in_the_dataset_may_change_later():
    """Divided by its standard deviation it would be half a million; it is clipped."""
    seen = np.stack([normal(50), np.full(50, 2.0, np.float32)], -1)
    dataset = recorded(seen, np.zeros(50, np.int64))
    bc = BC(hidden=(4,))
    state = begun(bc, dataset)
    given = np.asarray(cloning.normalized(bc, state.learner, jnp.float32([0, 2.5])))
    assert np.isfinite(given).all() and np.abs(given).max() <= 10


def test_images_and_choices_are_not_normalized():
    image = Box((8, 8, 3), "uint8", 0.0, 255.0)
    spec = EnvironmentSpec(Composite((image, Discrete(4)), ("camera", "gear")), Discrete(2), 1)
    rng = np.random.default_rng(0)
    seen = {"camera": rng.integers(0, 256, (5, 8, 8, 3), np.uint8), "gear": rng.integers(0, 4, 5)}
    dataset = make_dataset(
        spec,
        observations=[seen],
        actions=[np.zeros(4, np.int64)],
        rewards=[np.zeros(4)],
        terminations=[[0, 0, 0, 1]],
        truncations=[np.zeros(4, bool)],
    )
    bc = BC(hidden=(4,))
    begin = lambda: init_state(bc, KEY, spec, Outside(dataset))
    learner = jax.eval_shape(begin).learner
    assert learner.observation_statistics == (None, None)
    given = cloning.normalized(bc, learner, dataset.transitions.observation)
    jax.tree.map(np.testing.assert_array_equal, given, dataset.transitions.observation)


# Episodes that are held out


def test_what_is_held_out_is_never_learned_and_a_network_that_memorizes_knows_nothing_of_it():
    """Actions by chance: those that were seen are learned by heart, the others are at chance."""
    rng = np.random.default_rng(0)
    seen, actions = normal((80, 8)), rng.integers(0, 2, 80)
    dataset = recorded(seen, actions, episodes=8)
    bc = BC(hidden=(64,), batch_size=40, learning_rate=1e-2, validation_share=0.5, gradient_steps=1)
    state, metrics = jax.device_get(cloned(bc, dataset, updates=300))
    assert metrics["action_error"][-1] < 0.01
    assert abs(metrics["validation_action_error"][-50:].mean() - 0.5) < 0.2
    assert metrics["validation_nll"][-1] > 10 * metrics["nll"][-1]
    held_out = np.repeat(state.is_held_out, 10)
    assert held_out.sum() == 40
    transitions = jax.tree.map(np.array, dataset.transitions)
    transitions.action[held_out] = 1 - transitions.action[held_out]
    transitions.observation[held_out] = 7
    other = replace(dataset, transitions=transitions)
    again, others = jax.device_get(cloned(bc, other, updates=300))
    jax.tree.map(np.testing.assert_array_equal, again.learner, state.learner)
    assert (others["validation_nll"] != metrics["validation_nll"]).all()


def test_a_single_episode_cannot_be_held_out():
    outside = Outside(recorded(normal((4, 2)), np.zeros(4, np.int64)))
    with pytest.raises(InvalidInput, match=r"validation_share is 0.2 .* a single episode"):
        BC(validation_share=0.2).check_outside(outside)
    BC().check_outside(outside)


# Memory


@pytest.mark.parametrize(
    "cell", [GRU(5), pytest.param(LSTM(5), marks=pytest.mark.system)], ids=["gru", "lstm"]
)
def test_a_memory_is_that_of_the_whole_episode_wherever_a_sequence_begins(cell):
    """Read to its end with weights that stand still, it is that of the policy as it plays."""
    bc = BC(
        hidden=(6,),
        recurrent=cell,
        batch_size=12,
        sequence_length=4,
        learning_rate=1e-30,
        gradient_steps=1,
    )
    dataset = recorded(normal((400, 2)), np.zeros(400, np.int64), episodes=2)
    rows = np.array([0, 1, 150, 199, 200, 205])

    @jax.jit
    def read(dataset, key):
        outside = Outside(dataset)
        state = init_state(bc, key, dataset.spec, outside)
        # more than an episode of 200 steps, from a random step on
        keys = jax.random.split(key, 77)
        state, _ = jax.lax.scan(lambda state, k: bc.update(state, (), k, outside), state, keys)
        seen = cloning.normalized(bc, state.learner, dataset.transitions.observation)
        seen = jnp.swapaxes(seen.reshape(2, 200, 2), 0, 1)
        _, carries = state.learner.policy.torso(seen, (), jnp.zeros((200, 2), bool))
        return state.sequences, bc.carry_before(state.learner, dataset, rows), carries

    sequences, of_rows, carries = jax.device_get(read(dataset, KEY))
    assert (sequences.readers.row % 200 > 4).any()
    for before, places in ((sequences.carry, sequences.readers.row), (of_rows, rows)):
        for told, after in zip(before, carries, strict=True):
            for carry, row in zip(told, places, strict=True):
                episode, step = divmod(row, 200)
                if step:
                    expected = after[step - 1, episode]
                elif places is rows:
                    expected = 0
                else:
                    continue  # where a reader begins anew, what it remembers is dropped
                np.testing.assert_allclose(carry, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.system
def test_a_memory_knows_what_was_seen_at_the_first_step_alone():
    """The action is the cue of the first of six steps, in sequences of four."""
    rng = np.random.default_rng(0)
    cue = rng.integers(0, 2, 40)
    seen = np.zeros((40, 6, 2), np.float32)
    seen[:, 0, 0], seen[:, :, 1] = 2 * cue - 1, np.arange(6)
    dataset = recorded(seen.reshape(-1, 2), np.repeat(cue, 6), episodes=40)
    shared = dict(hidden=(16,), batch_size=96, learning_rate=1e-2)
    bc = BC(recurrent=GRU(16), sequence_length=12, validation_share=0.5, **shared)
    _, metrics = cloned(bc, dataset)
    assert metrics["action_error"][-1] < 0.01
    # of episodes that are held out too, whose sequences begin at any step
    assert metrics["validation_action_error"][-1] < 0.01
    _, blind = cloned(BC(**shared), dataset)
    # of six steps, five are guessed
    assert blind["action_error"][-1] == pytest.approx(5 / 12, abs=0.1)


def test_a_policy_that_plays_remembers_through_its_episode():
    dataset = recorded(normal((20, 2)), np.zeros(20, np.int64))
    spec = replace(dataset.spec, num_envs=3)

    def play(bc, key):
        state = init_state(bc, key, spec, Outside(dataset))
        memory = bc.initial_memory(state, spec, key)
        return memory, bc.act(state, jnp.ones((3, 2)), memory, key, explore=True)[1]

    play_recurrent = jax.jit(partial(play, BC(hidden=(6,), recurrent=GRU(5))))
    before, after = jax.device_get(play_recurrent(KEY))
    assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)
    assert (before[0] == 0).all() and (after[0] != 0).any()
    assert jax.eval_shape(partial(play, BC(hidden=(6,))), KEY) == ((), ())


# Its place among the others


def test_reinforcement_begins_with_a_cloned_policy():
    dataset = recorded(3 + normal((100, 2)), np.zeros(100, np.int64))
    bc, ppo = (
        make(hidden=(8,), activation="tanh", normalize_observation=Normalization())
        for make in (BC, PPO)
    )
    seen, spec = 3 + normal((8, 2), 1), replace(dataset.spec, num_envs=8)

    @jax.jit
    def both(key):
        begin = lambda algorithm: init_state(
            algorithm, key, spec, Outside(dataset) if algorithm.needs else NOTHING
        )
        state, fresh = begin(bc), begin(bc)
        weights = jax.tree.map(lambda x: x + 1, state.learner.weights)
        state = replace(state, learner=replace(state.learner, weights=weights))
        part = bc.components["policy"].get(state)
        reinforced = put_components(ppo, begin(ppo), {"policy": part})
        back = bc.components["policy"].put(fresh, ppo.components["policy"].get(reinforced))
        actions = [
            jax.vmap(lambda k, of=of, at=at: of.act(at, seen, (), k, explore=True)[0])(
                jax.random.split(key, 3)
            )
            for of, at in ((ppo, reinforced), (bc, state))
        ]
        return actions, (back.learner.policy, state.learner.policy)

    for pair in jax.device_get(both(KEY)):
        jax.tree.map(np.testing.assert_array_equal, *pair)


def test_sequences_that_do_not_fill_a_batch_are_refused():
    with pytest.raises(InvalidInput, match="batch_size 10 is no whole number of sequences"):
        validate(BC(recurrent=GRU(), batch_size=10, sequence_length=4))
    validate(BC(batch_size=10, sequence_length=4))
