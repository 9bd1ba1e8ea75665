"""Policies and values against NumPy: of bodies of their own or of one, with a memory, with choices
that are not allowed."""

import math
from functools import partial

import jax
import numpy as np
import pytest
import scipy.special
from filling import call, filled

from etude.errors import InvalidInput
from etude.nn import distributions
from etude.nn.distributions import StateDependentNormal
from etude.nn.networks import make_network, make_torso
from etude.nn.policies import make_actor_critic
from etude.nn.recurrent import GRU, LSTM, initial_carry
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec, MultiBinary, MultiDiscrete

KEY = jax.random.key(0)
SEEN = Box((3,))
ACTIONS = {
    "discrete": Discrete(4, start=2),
    "multidiscrete": MultiDiscrete((2, 3, 2, 2), (0,) * 4, (2, 2)),
    "multibinary": MultiBinary((3,)),
    "box": Box((2,), low=-1.0, high=1.0),
    "box matrix": Box((2, 2)),
}
TIME, ENVS = 6, 4


def affine(layer, x):
    return x @ np.asarray(layer.weight, float).T + np.asarray(layer.bias, float)


def features(body, x):
    """Of a body without memory, in float64."""
    for layer in body.layers:
        x = np.tanh(affine(layer, x))
    return x


def observations(*leading, seed=0):
    return np.random.default_rng(seed).normal(size=(*leading, 3)).astype(np.float32)


# Bodies


@jax.jit
def built(key):
    """Bodies with their last layers, of the same key without and with a memory, and the network
    without."""
    make = partial(make_torso, key, Box((6,)), (8, 5), 3, final_scale=0.01)
    return (
        make(),
        make(recurrent=GRU(7)),
        make(recurrent=LSTM(7)),
        make_network(key, Box((6,)), (8, 5), 3, "tanh", final_scale=0.01),
    )


@pytest.mark.slow
def test_a_body_is_a_network_without_its_last_layer():
    (plain, last), _, _, whole = built(KEY)
    x = np.random.default_rng(0).normal(size=(2, 9, 6)).astype(np.float32)
    said, memory = call(plain, x)
    assert memory == () and said.shape == (2, 9, 5)
    np.testing.assert_allclose(
        affine(last, np.asarray(said, float)), call(whole, x), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(said, features(plain, x.astype(float)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_first_outputs_are_near_zero_with_a_memory_and_without():
    x = 3 * np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    plain, gru, lstm, _ = built(KEY)
    for (see, last), parts in ((plain, 0), (gru, 1), (lstm, 2)):
        said, memory = jax.device_get(call(see, x))
        assert len(memory) == parts and all(h.shape == (50, 7) and h.any() for h in memory)
        outputs = affine(last, np.asarray(said, float))
        assert 1e-5 < abs(outputs).max() < 0.05
        assert [layer.weight.shape for layer in see.layers] == [(8, 7 if parts else 6), (5, 8)]
        for layer, gain in (
            (see.layers[0], math.sqrt(2)),
            (see.layers[1], math.sqrt(2)),
            (last, 0.01),
        ):
            spread = np.linalg.svd(layer.weight, compute_uv=False)
            np.testing.assert_allclose(spread, gain, rtol=1e-4)  # orthogonal
            assert not layer.bias.any()


# Agents


def made(action=ACTIONS["discrete"], observation=SEEN, seed=0, scale=0.7, **options):
    return filled(
        lambda: make_actor_critic(KEY, EnvironmentSpec(observation, action, ENVS), (5,), **options),
        seed,
        scale,
    )


@jax.jit
def outputs_of(agent, observation, memory, key):
    choice, value, memory = agent(observation, memory)
    sample = choice.sample(key)
    return dict(
        choice=choice, value=value, memory=memory, sample=sample, log_prob=choice.log_prob(sample)
    )


@pytest.mark.parametrize("shared", [False, True], ids=["apart", "shared"])
def test_an_agent_is_its_layers(shared):
    ours = made(shared=shared)
    x = observations(TIME, ENVS)
    says = outputs_of(ours, x, ((), ()), KEY)
    of_policy = features(ours.policy.torso, x.astype(float))
    assert (ours.value.torso is None) == shared
    of_value = of_policy if shared else features(ours.value.torso, x.astype(float))
    np.testing.assert_allclose(
        says["choice"].logits, affine(ours.policy.head, of_policy), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        says["value"], affine(ours.value.head, of_value)[..., 0], rtol=1e-4, atol=1e-5
    )
    assert says["memory"] == ((), ()) == ours.initial_carries((ENVS,))
    np.testing.assert_allclose(
        call(ours.policy, x).logits, says["choice"].logits, rtol=1e-6, atol=1e-6
    )
    if not shared:
        np.testing.assert_allclose(call(ours.value, x), says["value"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "recurrent, shared", [pytest.param(GRU(4), False, marks=pytest.mark.slow), (LSTM(4), True)]
)
def test_a_stretch_of_time_is_what_is_said_step_by_step(recurrent, shared):
    """Policy and value each go on from a memory of their own, which an episode's start forgets; a
    shared one is the policy's."""
    ours = made(recurrent=recurrent, shared=shared)
    x, fresh = observations(TIME, ENVS), np.random.default_rng(1).random((TIME, ENVS)) < 0.3
    start = ours.initial_carries((ENVS,))
    assert [len(memory) for memory in start] == ([2, 0] if shared else [1, 1])
    assert all(h.shape == (ENVS, 4) and not h.any() for h in jax.tree.leaves(start))
    start = filled(lambda: start, 5, 1.0)
    choice, value, memories = jax.device_get(call(ours, x, start, fresh))
    memory = start
    for t in range(TIME):
        memory = jax.tree.map(lambda h, t=t: np.where(fresh[t][:, None], np.float32(0), h), memory)
        says = jax.device_get(outputs_of(ours, x[t], memory, KEY))
        memory = says["memory"]
        np.testing.assert_allclose(choice.logits[t], says["choice"].logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(value[t], says["value"], rtol=1e-4, atol=1e-5)
        jax.tree.map(
            lambda h, now, t=t: np.testing.assert_allclose(h[t], now, rtol=1e-4, atol=1e-5),
            memories,
            memory,
        )
    np.testing.assert_allclose(
        call(ours.policy, x, start[0], fresh).logits, choice.logits, rtol=1e-4, atol=1e-5
    )
    if not shared:
        np.testing.assert_allclose(
            call(ours.value, x, start[1], fresh), value, rtol=1e-4, atol=1e-5
        )


def test_without_a_memory_given_an_agent_starts_with_a_blank_one():
    ours, x = made(recurrent=GRU(4)), observations(ENVS)
    given, none = (
        outputs_of(ours, x, ours.initial_carries((ENVS,)), KEY),
        outputs_of(ours, x, ((), ()), KEY),
    )
    jax.tree.map(np.testing.assert_array_equal, given, none)
    assert initial_carry(ours.policy.torso.cell, (2, 3))[0].shape == (2, 3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
def test_a_policy_over_every_kind_of_action(space):
    ours, x = made(space), observations(TIME, ENVS)
    says = outputs_of(ours, x, ((), ()), KEY)
    outputs = affine(ours.policy.head, features(ours.policy.torso, x.astype(float)))
    choice = distributions.distribution_for(space, np.float32(outputs), ours.policy.log_std)
    assert type(says["choice"]) is type(choice)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), says["choice"], choice)
    assert says["sample"].shape == (TIME, ENVS, *space.zeros().shape) and says[
        "log_prob"
    ].shape == (TIME, ENVS)
    assert ours.policy.log_std.size == (math.prod(space.shape) if isinstance(space, Box) else 0)


@pytest.mark.slow
def test_an_agent_starts_indifferent_with_the_spread_it_is_told():
    @jax.jit
    def start(std, key):
        spec = EnvironmentSpec(SEEN, Box((2,)), ENVS)
        return make_actor_critic(key, spec, (8,), initial_std=std), make_actor_critic(
            key, spec, (8,), initial_std=std, state_noise=True
        )

    plain, noisy = start(0.3, KEY)
    np.testing.assert_allclose(np.exp(plain.policy.log_std), [0.3] * 2, rtol=1e-6)
    np.testing.assert_allclose(np.exp(noisy.policy.log_std), np.full((8, 2), 0.3), rtol=1e-6)
    x = observations(50)
    choice, value, _ = jax.device_get(call(plain, x))
    assert abs(choice.mean).max() < 0.05 and abs(value).max() > 0.3
    assert (plain.policy.torso.layers[0].weight != plain.value.torso.layers[0].weight).any()
    noisy_choice, log_std = jax.jit(lambda policy, x: (policy(x), policy(x).marginal.log_std))(
        noisy.policy, x
    )
    assert isinstance(noisy_choice, StateDependentNormal)
    norm = np.linalg.norm(features(noisy.policy.torso, x.astype(float)), axis=-1, keepdims=True)
    np.testing.assert_allclose(np.exp(log_std), np.repeat(0.3 * norm, 2, -1), rtol=1e-3)


def test_noise_teaches_the_features_nothing():
    """The spread's gradient goes to its own parameters alone."""
    ours, x = made(Box((2,)), state_noise=True), observations(ENVS)
    gradient = jax.jit(jax.grad(lambda policy: policy(x).entropy().sum()))(ours.policy)
    assert (abs(gradient.log_std) > 1e-3).all()
    assert not any(leaf.any() for leaf in jax.tree.leaves((gradient.torso, gradient.head)))


@pytest.mark.parametrize(
    "space", [ACTIONS["discrete"], ACTIONS["multidiscrete"], ACTIONS["multibinary"]], ids=str
)
def test_state_dependent_noise_is_for_a_box(space):
    with pytest.raises(
        InvalidInput,
        match="state_noise is for actions of a Box, and this environment's are .*; leave it off",
    ):
        jax.eval_shape(
            lambda: make_actor_critic(KEY, EnvironmentSpec(SEEN, space), (5,), state_noise=True)
        )


# Masks


def masked_space(mask):
    return Composite((mask, SEEN), ("action_mask", "seen"))


MASKED = {  # action, mask, the sizes of its questions
    "discrete": (Discrete(5), MultiBinary((5,)), (5,)),
    "discrete, of a box": (Discrete(5), Box((5,), "int8", 0, 1), (5,)),
    "multidiscrete": (MultiDiscrete((2, 3), (0, 0), (2,)), MultiBinary((5,)), (2, 3)),
    "multidiscrete, by rows": (
        MultiDiscrete((2, 2, 2), (0,) * 3, (3,)),
        MultiBinary((3, 2)),
        (2, 2, 2),
    ),
}
ROWS = 40


def allowed(sizes, seed=0):
    """Masks [row, sum of sizes] that leave a choice in each question; the last row leaves one alone
    in each."""
    rng = np.random.default_rng(seed)
    parts = []
    for n in sizes:
        part = rng.random((ROWS, n)) < 0.5
        part[np.arange(ROWS), rng.integers(n, size=ROWS)] = True
        part[-1] = np.arange(n) == n - 1
        parts.append(part)
    return np.concatenate(parts, -1)


def softmaxes(logits, mask, sizes):
    """Probabilities of each question, [row, n] each: the softmax of what is allowed, the rest 0."""
    ends = np.cumsum(sizes)[:-1]
    p = [
        scipy.special.softmax(np.asarray(part, float), -1) * may
        for part, may in zip(np.split(logits, ends, -1), np.split(mask, ends, -1), strict=True)
    ]
    return [part / part.sum(-1, keepdims=True) for part in p]


def entropy(p):
    return -scipy.special.xlogy(p, p).sum(-1)


@jax.jit
def evaluated(policy, other, observation, key):
    choice, second = policy(observation), other(observation)
    samples = jax.vmap(choice.sample)(jax.random.split(key, 500))
    slope = jax.grad(
        lambda policy: (
            policy(observation).log_prob(samples[0]).sum() + policy(observation).entropy().sum()
        )
    )(policy)
    return dict(
        samples=samples,
        mode=choice.mode(),
        log_prob=jax.vmap(choice.log_prob)(samples),
        entropy=choice.entropy(),
        kl=choice.kl(second),
        slope=slope,
    )


@pytest.mark.parametrize(
    "action, mask, sizes",
    [
        pytest.param(*row, id=name, marks=[pytest.mark.slow] * (name != "multidiscrete"))
        for name, row in MASKED.items()
    ],
)
def test_what_is_forbidden_is_never_done_and_the_rest_shares_its_probability(action, mask, sizes):
    space = masked_space(mask)
    policy, other = (made(action, space, seed).policy for seed in (0, 1))
    may = allowed(sizes)
    observation = {
        "action_mask": may.astype(np.int8).reshape(ROWS, *mask.shape),
        "seen": observations(ROWS),
    }
    says = jax.device_get(evaluated(policy, other, observation, KEY))
    # what the encoder makes of it
    free = np.concatenate([may.astype(float), observation["seen"]], -1)
    p, q = (
        softmaxes(affine(net.head, features(net.torso, free)), may, sizes)
        for net in (policy, other)
    )
    samples = np.asarray(says["samples"]).reshape(500, ROWS, len(sizes))
    expected = np.zeros((500, ROWS))
    for i, part in enumerate(p):
        of_samples = np.take_along_axis(
            np.broadcast_to(part, (500, *part.shape)), samples[..., i, None], -1
        )[..., 0]
        assert (of_samples > 0).all()  # no forbidden one among 20,000
        expected += np.log(of_samples)
        seen = (samples[..., i, None] == np.arange(sizes[i])).mean(0)
        np.testing.assert_allclose(seen, part, atol=5 * 0.5 / math.sqrt(500))
        np.testing.assert_array_equal(
            np.asarray(says["mode"]).reshape(ROWS, -1)[:, i], part.argmax(-1)
        )
    np.testing.assert_allclose(says["log_prob"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(says["entropy"], sum(map(entropy, p)), rtol=1e-4, atol=1e-5)
    kl = sum(
        scipy.special.rel_entr(ours, theirs).sum(-1) for ours, theirs in zip(p, q, strict=True)
    )
    np.testing.assert_allclose(says["kl"], kl, rtol=1e-3, atol=1e-5)
    assert says["entropy"][-1] == says["kl"][-1] == 0  # one choice alone is certain
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(says["slope"]))


def test_where_nothing_is_allowed_nothing_is_right():
    """Not a number, in that row alone; one question without an answer is enough."""
    for action, mask, sizes in (MASKED["discrete"], MASKED["multidiscrete"]):
        may = allowed(sizes)
        may[3, -sizes[-1] :] = False
        says = evaluated(
            *(made(action, masked_space(mask)).policy,) * 2,
            {"action_mask": may.astype(np.int8), "seen": observations(ROWS)},
            KEY,
        )
        for name in ("entropy", "kl"):
            np.testing.assert_array_equal(np.isnan(says[name]), np.arange(ROWS) == 3)
        np.testing.assert_array_equal(np.isnan(says["log_prob"]).all(0), np.arange(ROWS) == 3)


@pytest.mark.parametrize(
    "action, mask",
    [
        (Discrete(5), MultiBinary((4,))),
        (Discrete(5), Discrete(5)),
        (MultiDiscrete((2, 3), (0, 0), (2,)), MultiBinary((2,))),
    ],
    ids=["4 of 5", "one", "each"],
)
def test_a_mask_has_a_number_for_each_choice(action, mask):
    space = masked_space(mask)
    with pytest.raises(
        InvalidInput,
        match=r"action_mask has shape \(.*\), and there are 5 choices.*; give one number for each",
    ):
        jax.eval_shape(
            lambda: make_actor_critic(KEY, EnvironmentSpec(space, action), (5,))(space.zeros())
        )


@pytest.mark.slow
def test_a_mask_is_for_choices_and_only_by_that_name():
    nothing = {"action_mask": np.zeros((ENVS, 2), np.int8), "seen": observations(ENVS)}
    for space in (Box((2,)), MultiBinary((2,))):
        ours = made(space, masked_space(MultiBinary((2,))))
        with pytest.raises(InvalidInput, match="action_mask, which is for Discrete and MultiDiscr"):
            call(ours.policy, nothing)
    other = made(Discrete(2), Composite((MultiBinary((2,)), SEEN), ("mask", "seen")))
    choice = call(other.policy, {"mask": nothing["action_mask"], "seen": nothing["seen"]})
    assert np.isfinite(jax.jit(type(choice).entropy)(choice)).all()
