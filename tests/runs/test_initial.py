"""A run that starts with the policy of another one, to which it fits the value first."""

import json
import shutil

import jax
import numpy as np
import pytest
from commands import here, programs_kept

import etude
from etude.algorithms.common.on_policy import get_policy
from etude.environments import make
from etude.runs.interrupt import InterruptHandler
from etude.runs.job import train_job
from etude.runs.options import RunOptions
from etude.runs.run import create_run, resolve_settings
from etude.struct import replace
from etude.training import init_train_state, progress

SMALL = dict(hidden=(4,), rollout_length=4, batch_size=4, epochs=2)
NORMALIZED = dict(normalize_observation=etude.Normalization())
QUICK = dict(num_envs=2, steps=64, evaluation_episodes=1, progress=False)
WORDS = "ppo CartPole-v1 --hidden 4 --rollout-length 4 --batch-size 4 --epochs 2 --num-envs 2"
FLAGS = f"{WORDS} --normalize-observation --steps 64 --evaluation-episodes 1"
KEY = jax.random.key(0)


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with runs of one seed, of two, and of other algorithms and environments."""
    directory = tmp_path_factory.mktemp("runs")
    ppo = etude.PPO(**SMALL, **NORMALIZED)
    etude.train(ppo, "CartPole-v1", **QUICK, out=directory / "one")
    etude.train(ppo, "CartPole-v1", **QUICK, seeds=2, out=directory / "two")
    etude.train(
        etude.ActorCritic(hidden=(4,), rollout_length=4, **NORMALIZED),
        "CartPole-v1",
        **QUICK,
        out=directory / "actor-critic",
    )
    for name, algorithm, environment, options in (
        ("acrobot", etude.PPO(**SMALL), "Acrobot-v1", {}),
        ("stacked", ppo, "CartPole-v1", {"frame_stack": 2}),
        ("q", etude.DQN(hidden=(4,)), "CartPole-v1", {}),
    ):
        settings = resolve_settings(algorithm, environment, RunOptions(steps=64, **options))
        create_run(settings, directory / name)
    return directory


def settings_of(algorithm=None, **options):
    algorithm = algorithm or etude.PPO(**SMALL, **NORMALIZED)
    options = dict(num_envs=2, steps=160, evaluation_episodes=1) | options
    return resolve_settings(algorithm, "CartPole-v1", RunOptions(**options))


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", ["one", pytest.param("actor-critic", marks=pytest.mark.slow)])
def test_it_starts_with_the_policy_and_its_statistics(runs, name):
    """Also where the other algorithm is another one that has such a policy."""
    settings = settings_of(initial={"policy": runs / name})
    (state,) = etude.load(runs / name).states()
    start = jax.tree.map(lambda x: x[0], settings.initial_parts["policy"])
    assert_equal(start, jax.device_get(get_policy(state)))
    assert start[1][0].count > 0  # statistics of what that run observed
    train_state = init_train_state(
        settings.algorithm, make("CartPole-v1", 2), KEY, initial={"policy": start}
    )
    assert_equal(get_policy(train_state.algorithm_state), start)


def test_seed_i_starts_from_seed_i_or_all_from_one(runs):
    from_two = settings_of(seeds=2, initial={"policy": runs / "two"})
    for i, state in enumerate(etude.load(runs / "two").states()):
        part = jax.tree.map(lambda x, i=i: x[i], from_two.initial_parts["policy"])
        assert_equal(part, jax.device_get(get_policy(state)))
    from_one = settings_of(seeds=2, initial={"policy": etude.load(runs / "one")})
    network, _ = from_one.initial_parts["policy"]
    for leaf in jax.tree.leaves(network):
        np.testing.assert_array_equal(leaf[0], leaf[1])
    assert from_two.initial["policy"].seeds == 2 and from_one.initial["policy"].seeds == 1
    assert settings_of(initial={"policy": runs / "two"}).initial["policy"].seeds == 2


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_the_value_is_fitted_before_the_policy_moves(shared):
    """And the weight of a penalty on the divergence stands still with the policy."""
    warmup = 24  # three updates
    ppo = etude.PPO(**SMALL, shared=shared, kl_penalty="adaptive", value_warmup_steps=warmup)
    environment = make("CartPole-v1", 2)
    before = jax.device_get(init_train_state(ppo, environment, KEY).algorithm_state)
    for report in progress(ppo, environment, KEY, 40, chunk_seconds=0.0):
        after = jax.device_get(report.train_state.algorithm_state)
        policies = [jax.tree.leaves(x.learner.networks.policy) for x in (before, after)]
        values = [jax.tree.leaves(x.learner.networks.value.head) for x in (before, after)]
        moved = [(old != new).any() for old, new in zip(*policies, strict=True)]
        assert all((old != new).any() for old, new in zip(*values, strict=True))
        if report.steps <= warmup:
            assert not any(moved)
            assert after.kl_coefficient == before.kl_coefficient
        else:
            assert any(moved)
    assert report.steps == 40


def test_ten_updates_fit_the_value_unless_a_number_is_given(runs):
    settings = settings_of(initial={"policy": runs / "one"})
    assert settings.algorithm.value_warmup_steps == 10 * 2 * 4
    given = etude.PPO(**SMALL, **NORMALIZED, value_warmup_steps=3)
    assert settings_of(given, initial={"policy": runs / "one"}).algorithm.value_warmup_steps == 3
    assert settings_of().algorithm.value_warmup_steps == 0


@pytest.mark.slow
def test_the_command_line_takes_a_policy_over_and_says_so(runs, tmp_path):
    arguments = f"train {FLAGS} --seeds 2 --initial policy={runs / 'one'} --out run"
    done = here(*arguments.split(), cwd=tmp_path)
    said = " ".join(done.stdout.replace("│", " ").split())
    assert done.returncode == 0 and f"initial policy of {runs / 'one'}" in said
    assert "the same for all seeds: the interval is that of training alone" in said
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["initial"]["policy"]["run"] == str(runs / "one")
    assert config["initial"]["policy"]["seeds"] == 1
    assert config["hyperparameters"]["value_warmup_steps"] == 80
    assert etude.load(tmp_path / "run").summary["initial"]["policy"]["seeds"] == 1


@pytest.mark.slow
def test_one_without_a_checkpoint_begins_again_as_it_began(runs, tmp_path):
    """Bit for bit; unless what it starts from has changed, or is gone."""
    source = tmp_path / "source"
    shutil.copytree(runs / "one", source)
    settings = settings_of(initial={"policy": source})
    whole, cut = (create_run(settings, tmp_path / name) for name in ("whole", "cut"))
    for _ in train_job(settings, *whole.jobs, InterruptHandler(), pytest.fail):
        pass
    resumed = etude.resume(cut.directory, progress=False)
    assert_equal(resumed.states()[0], etude.load(whole.directory).states()[0])

    again = create_run(settings, tmp_path / "again")
    etude.resume(source, steps=128, progress=False)
    with pytest.raises(etude.InvalidInput, match="the policy of .*source, which has changed since"):
        etude.resume(again.directory, progress=False)
    shutil.rmtree(source)
    with pytest.raises(etude.InvalidInput, match="source is not a run"):
        etude.resume(again.directory, progress=False)
    # what has a checkpoint needs its beginning no more
    assert etude.resume(whole.directory, steps=320, progress=False).summary["steps"] == 320


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(initial={"policy": "acrobot"}), "run on Acrobot-v1, and this run is on CartPole-v1"),
        (dict(initial={"policy": "stacked"}), "observation space of .*stacked.*--frame-stack"),
        (dict(initial={"policy": "two"}, seeds=3), "two has 2 seeds, and this run 3: seed i"),
        (dict(initial={"policy": "q"}), "a run of dqn, which has no policy that ppo can take"),
        (dict(initial={"model": "one"}), r"names 'model', which ppo cannot start.*ppo \(pol"),
        (dict(initial={"policy": "nothing"}), "nothing is not a run: it has no config.json"),
        (dict(initial={"policy": 3}), "initial policy is 3; give the directory of a run, or a Run"),
    ],
    ids=str,
)
def test_what_cannot_be_started_from_is_refused(runs, options, message):
    initial = {
        name: runs / run if isinstance(run, str) else run
        for name, run in options["initial"].items()
    }
    with pytest.raises(etude.InvalidInput, match=message):
        settings_of(**options | {"initial": initial})


def test_who_cannot_start_with_a_policy_is_told_who_can(runs):
    with pytest.raises(
        etude.InvalidInput, match=r"names 'policy', which dqn cannot start with; these can: .*ppo"
    ):
        settings_of(etude.DQN(hidden=(4,)), initial={"policy": runs / "one"})


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        (dict(hidden=(5, 4)), "--hidden 4"),
        (dict(activation="relu"), "--activation tanh"),
        (dict(recurrent=etude.GRU(3)), "--recurrent none"),
        (
            dict(normalize_observation=None),
            "--normalize-observation --normalize-observation.clip 10.0",
        ),
    ],
    ids=str,
)
def test_other_networks_are_refused_with_the_flags_that_make_them_equal(runs, changes, flags):
    ppo = replace(etude.PPO(**SMALL, **NORMALIZED), sequence_length=4, **changes)
    name = next(iter(changes))
    with pytest.raises(etude.InvalidInput, match=f"{name} is .* there and .* here. Add {flags}$"):
        settings_of(ppo, initial={"policy": runs / "one"})


def test_the_words_of_initial_are_checked(tmp_path):
    for word in ("policy", "policy=", "=one", "a b=one"):
        done = here("train", "ppo", "CartPole-v1", "--initial", word, cwd=tmp_path)
        assert done.returncode == 2 and "is not COMPONENT=RUN" in done.stderr
    assert not any(tmp_path.iterdir())
