"""Runs that start with the policy of another run: PPO takes it over bit for bit, fits its value to
it first, and refuses what does not fit."""

import json
import shutil
from functools import partial
from unittest import mock

import jax
import numpy as np
import pytest
from commands import here, programs_kept
from records import metadata_of

import etude
from etude.algorithms.imitation.dagger import DAggerMemory
from etude.algorithms.protocol import put_components
from etude.data.dataset import dataset_shapes
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.runs.display import result_table
from etude.runs.interrupt import InterruptHandler
from etude.runs.job import initial_components, train_job
from etude.runs.job_checkpoints import checkpoint_template, save_job
from etude.runs.options import RunOptions
from etude.runs.run import create_run
from etude.runs.train import resolve_settings
from etude.spaces import Box, EnvironmentSpec
from etude.struct import replace

NORMALIZED = dict(hidden=(8,), normalize_observation=etude.Normalization())
SMALL = dict(rollout_length=8, batch_size=16, epochs=1)
PPO = etude.PPO(**NORMALIZED, **SMALL)
UPDATE = 16  # environment steps of 2 copies
KEY = jax.random.key(0)


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


def trained(directory, algorithm, seeds=1, environment="CartPole-v1", seed=0, **options):
    """A run with a checkpoint of random numbers, as if it had been trained."""
    options = RunOptions(steps=10_000, seeds=seeds, num_envs=2, backend="gymnasium", **options)
    settings = resolve_settings(algorithm, environment, options)
    run, rng = create_run(settings, directory), np.random.default_rng(seed)
    for job in run.jobs:
        outline = settings.outline()
        shapes = checkpoint_template(settings, job, outline, {}).train_state
        numbers = jax.tree.map(lambda x: rng.uniform(1, 2, x.shape).astype(x.dtype), shapes)
        save_job(job, outline, numbers, metadata_of(settings, job, 9))
    return run


def started(source, algorithm=PPO, environment="CartPole-v1", **options):
    """The settings of a run that starts with the policy of another one."""
    options = {"steps": 40 * UPDATE, "num_envs": 2} | options
    return resolve_settings(
        algorithm, environment, RunOptions(initial={"policy": source}, **options)
    )


def policies_of(run):
    """The policy network of each seed with its statistics, as NumPy arrays."""
    get = run.settings.algorithm.components["policy"].get
    return [get(state) for state in jax.device_get(run.states())]


def assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def is_equal(ours, theirs):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, ours, theirs)))


@pytest.mark.parametrize(
    ("algorithm", "taker"),
    [
        (PPO, PPO),
        (etude.TRPO(**NORMALIZED, rollout_length=64), PPO),
        pytest.param(PPO, replace(PPO, shared=True), marks=pytest.mark.system),
        pytest.param(etude.A2C(**NORMALIZED), PPO, marks=pytest.mark.system),
        pytest.param(etude.ActorCritic(**NORMALIZED), PPO, marks=pytest.mark.system),
        pytest.param(
            etude.Reinforce(hidden=(8,)),
            replace(PPO, normalize_observation=None),
            marks=pytest.mark.system,
        ),
    ],
    ids=["ppo", "trpo", "shared", "a2c", "actor-critic", "reinforce"],
)
def test_each_seed_begins_with_the_policy_of_its_own(tmp_path, algorithm, taker):
    """Or all with that of one."""
    many, one = (trained(tmp_path / f"{seeds}", algorithm, seeds) for seeds in (3, 1))
    assert not is_equal(*policies_of(many)[:2])
    for source, taken in ((many, policies_of(many)[:2]), (one, policies_of(one) * 2)):
        settings = started(source.directory, taker, seeds=2, seed=5, backend="gymnasium")
        init = partial(settings.algorithm.init, spec=settings.outline().spec)
        shapes = jax.eval_shape(init, KEY)
        jobs = create_run(settings, source.directory / "to").jobs
        for job, policy in zip(jobs, taken, strict=True):
            begun = put_components(settings.algorithm, shapes, initial_components(settings, job))
            assert_equal(taker.components["policy"].get(begun), policy)


def test_a_clone_hands_its_head_to_clones_alone(tmp_path):
    """Policy gradients take a direct head, and refuse another by its name."""
    cloner = etude.DAgger(hidden=(8,), head=etude.Autoregressive(units=4), rollout_length=100)
    source = trained(tmp_path, cloner, expert="random")
    ppo = replace(PPO, activation="relu")
    with pytest.raises(InvalidInput, match="dagger with head autoregressive, .* policy that ppo"):
        started(source.directory, ppo)
    settings = started(source.directory, cloner, expert="random", steps=1_000)
    assert_equal(settings.initial_components["policy"][0].head.output.bias[0], bias_of(source))
    with pytest.raises(InvalidInput, match="which has no policy that dagger with head auto"):
        started(trained(tmp_path / "ppo", ppo).directory, cloner, expert="random", steps=1_000)


def test_a_generator_begins_as_the_clone_that_its_run_starts_from(tmp_path):
    """Bit for bit, and a run of PPO begins as the generator."""
    networks = dict(NORMALIZED, activation="tanh")
    source = trained(
        tmp_path / "clone", etude.DAgger(**networks, rollout_length=100), expert="random"
    )
    gail = etude.GAIL(agent=etude.PPO(**networks, **SMALL))
    steps = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), dataset_shapes(source.settings.outline().spec, 4, 1)
    )
    flags = np.arange(4) == 3
    steps = replace(steps, transitions=replace(steps.transitions, truncated=flags))
    dataset = replace(steps, episode_lengths=np.full(1, 4, np.int32))
    settings = started(source.directory, gail, dataset=dataset)
    assert settings.algorithm.agent.value_warmup_steps == 10 * UPDATE
    run = create_run(settings, tmp_path / "gail")
    initial, rng = initial_components(settings, run.jobs[0]), np.random.default_rng(0)
    template = checkpoint_template(settings, run.jobs[0], settings.outline(), {}).train_state
    blank = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), template.algorithm_state)
    begun, (clone,) = put_components(settings.algorithm, blank, initial), source.states()
    seen = np.float32(rng.normal(size=(5, 4)))

    @jax.jit
    def both(begun, clone):
        memory = DAggerMemory((), (), ())
        return (
            source.settings.algorithm.act(clone, seen, memory, KEY, explore=False)[0],
            settings.algorithm.act(begun, seen, (), KEY, explore=False)[0],
        )

    cloned, generated = both(begun, clone)
    np.testing.assert_array_equal(generated, cloned)
    generator = trained(tmp_path / "generator", gail, dataset=dataset)
    policy = started(generator.directory, gail.agent).initial_components["policy"]
    assert_equal(jax.tree.map(lambda x: x[0], policy), policies_of(generator)[0])
    smaller = replace(gail, agent=replace(gail.agent, hidden=(5,), activation="relu"))
    with pytest.raises(InvalidInput, match=r"agent.hidden is .* Add --agent.hidden 8 --agent.act"):
        started(source.directory, smaller, dataset=dataset)


def bias_of(run):
    (state,) = run.states()
    return state.learner.weights.head.output.bias


def test_the_value_is_fitted_first_and_config_json_says_for_how_long(tmp_path):
    source = trained(tmp_path / "source", PPO)
    for given, taken in ((0, 10 * UPDATE), (5, 5)):
        settings = started(source.directory, replace(PPO, value_warmup_steps=given))
        run = create_run(settings, tmp_path / f"run_{given}")
        config = json.loads((run.directory / "config.json").read_text())
        assert config["hyperparameters"]["value_warmup_steps"] == taken
        record = config["initial"]["policy"]
        assert record["run"] == str(source.directory) and record["seeds"] == 1
        assert etude.load(run.directory).settings.initial == settings.initial
    assert PPO.value_warmup_steps == 0


@pytest.mark.parametrize(
    ("shared", "kl_penalty"),
    [(True, "adaptive"), pytest.param(False, "dual", marks=pytest.mark.system)],
)
def test_the_policy_and_its_penalty_stand_still_while_the_value_is_fitted(shared, kl_penalty):
    """For three updates of 16 steps."""
    spec = EnvironmentSpec(Box((3,)), Box((2,)), num_envs=2)
    ppo = etude.PPO(
        **SMALL,
        hidden=(8,),
        learning_rate=1e-2,
        shared=shared,
        kl_penalty=kl_penalty,
        value_warmup_steps=33,
        normalize_observation=etude.Normalization(),
    )
    rng = np.random.default_rng(0)
    flags = np.zeros((8, 2), bool)
    observation, following = np.float32(rng.normal(size=(2, 8, 2, 3)))
    action, reward = np.float32(rng.normal(size=(8, 2, 2))), np.float32(rng.normal(size=(8, 2)))
    rollout = Transition(observation, action, reward, following, flags, flags)

    @jax.jit
    def updates(key, rollout):
        def step(state, key):
            state, _ = ppo.update(state, rollout, key)
            return state, state

        first = ppo.init(key, spec)
        return first, jax.lax.scan(step, first, jax.random.split(key, 5))[1]

    first, later = jax.device_get(updates(KEY, rollout))
    states = [first, *(jax.tree.map(lambda x, i=i: x[i], later) for i in range(5))]
    networks = [state.learner.networks for state in states]
    for i in range(5):
        stands = i < 3
        assert is_equal(networks[i].policy, networks[i + 1].policy) is stands
        assert not is_equal(networks[i].value, networks[i + 1].value)
        assert (states[i].kl_coefficient == states[i + 1].kl_coefficient) == stands
        # what normalizes its input is a part of the policy
        statistics = [state.learner.observation_statistics for state in states[i : i + 2]]
        assert is_equal(*statistics) is stands


@pytest.mark.slow
def test_a_run_starts_and_says_from_what(tmp_path):
    """Two seeds in one program from a run of one; killed before its first checkpoint, it begins
    again as it began."""
    source = trained(tmp_path / "source", PPO)
    ppo = replace(PPO, value_warmup_steps=2 * UPDATE, learning_rate=1e-2)
    options = dict(seeds=2, steps=3 * UPDATE, checkpoint_interval=UPDATE, evaluation_episodes=1)
    settings = started(source.directory, ppo, **options)
    whole, cut = (create_run(settings, tmp_path / name) for name in ("whole", "cut"))
    policies = []
    for event in train_job(settings, *whole.jobs, InterruptHandler(), pytest.fail):
        assert event.seeds == (0, 1)
        policies.append([network for network, _ in policies_of(whole)])
    assert len(policies) == 3
    for before, after in (
        (policies[0], policies[1]),
        (policies[0], [policies_of(source)[0][0]] * 2),
    ):
        assert_equal(before, after)
    assert not any(map(is_equal, policies[1], policies[2]))

    run = etude.resume(cut.directory, progress=False)
    assert_equal(run.states(), whole.states())
    assert (cut.directory / "metrics.csv").read_bytes() == (
        whole.directory / "metrics.csv"
    ).read_bytes()
    assert run.summary["initial"]["policy"]["seeds"] == 1
    cells = [cell for column in result_table(run).columns for cell in column.cells]
    assert any("the same for all seeds: the interval is that of training alone" in x for x in cells)


def test_a_run_that_begins_again_wants_the_run_it_started_from(tmp_path):
    source = trained(tmp_path / "source", PPO)
    run = create_run(started(source.directory), tmp_path / "run")
    shutil.rmtree(source.directory)
    trained(source.directory, PPO, seed=1)
    with pytest.raises(InvalidInput, match=r"starts with the policy of .*source, which has chang"):
        etude.resume(run.directory, progress=False)
    shutil.rmtree(source.directory)
    with pytest.raises(
        InvalidInput, match=r"the policy of .*source, which is not there; put it ba"
    ):
        etude.resume(run.directory, progress=False)


@pytest.mark.system
def test_seeds_in_processes_start_too(tmp_path):
    source = trained(tmp_path / "source", PPO, seeds=2)
    settings = dict(backend="gymnasium", seeds=2, steps=2 * UPDATE, num_envs=2)
    run = etude.train(
        PPO,
        "CartPole-v1",
        **settings,
        initial={"policy": source},
        out=tmp_path / "run",
        evaluation_episodes=1,
        progress=False,
    )
    assert run.is_parallel
    for ours, theirs in zip(policies_of(run), policies_of(source), strict=True):
        assert_equal(ours[0], theirs[0])


@pytest.mark.parametrize(
    ("source", "asked", "message"),
    [
        ({"environment": "Acrobot-v1"}, {}, "a run on Acrobot-v1, and this run is on CartPole-v1"),
        ({"frame_stack": 2}, {}, "observation space of .* is taken, is .*; give .*frame-stack"),
        ({"seeds": 2}, {"seeds": 3}, "has 2 seeds, and this run 3: seed i starts from seed i"),
        ({"algorithm": etude.DQN(hidden=(8,))}, {}, "a run of dqn, which has no policy that ppo"),
        (
            {},
            {"algorithm": etude.DQN(), "num_envs": 1},
            r"initial names 'policy', which dqn cannot start with; these can: .*ppo \(policy\)",
        ),
        ({}, {"algorithm": etude.A2C(**NORMALIZED)}, "'policy', which a2c cannot start with"),
        ({}, {"component": "critic"}, "initial names 'critic', which ppo cannot start with"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(tmp_path, source, asked, message):
    source = trained(tmp_path / "source", **{"algorithm": PPO} | source)
    asked = {"algorithm": PPO, "steps": 10_000} | asked
    asked["initial"] = {asked.pop("component", "policy"): source.directory}
    with pytest.raises(InvalidInput, match=message):
        etude.train(**asked, environment="CartPole-v1", out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "ppo",
    [
        etude.PPO(hidden=(8, 4), activation="relu"),
        etude.PPO(hidden=(8,), recurrent=etude.GRU(4)),
        etude.PPO(hidden=(8,), normalize_observation=etude.Normalization(3.0)),
    ],
    ids=["layers", "recurrent", "normalized"],
)
def test_networks_that_differ_are_refused_with_the_flags_that_make_them_equal(tmp_path, ppo):
    trained(tmp_path / "source", replace(ppo, batch_size=16))
    asked = (
        *("train", "ppo", "CartPole-v1", "--steps", 100, "--num-envs", 2, "--rollout-length", 16),
        *("--batch-size", 16, "--initial", "policy=source", "--out", "run", "--hidden", 5),
    )
    refused = here(*asked, cwd=tmp_path)
    assert refused.returncode == 2 and not (tmp_path / "run").exists()
    said = " ".join(refused.stderr.split())
    assert "source has other settings: hidden is (8" in said
    with mock.patch("etude.runs.train.run_training") as begin:
        assert here(*asked, *said.split(" Add ")[1].split(), cwd=tmp_path).returncode == 0
    run = begin.call_args[0][0].settings.initial["policy"].run
    assert run == str(tmp_path / "source")  # found from any directory


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("policy", "--initial 'policy' is not COMPONENT=RUN, such as policy=runs/before"),
        ("policy=", "--initial 'policy=' is not COMPONENT=RUN"),
        ("policy=nowhere", "nowhere is not a run"),
    ],
)
def test_what_names_no_run_is_refused(tmp_path, word, message):
    done = here("train", "ppo", "CartPole-v1", "--initial", word, cwd=tmp_path)
    assert done.returncode == 2 and message in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())
