"""XLA computes with one thread where products are small, and the number decides the bits, not the
number of cores."""

import json
import math
import os
import subprocess
import textwrap

import commands
import jax
import pytest

import etude
from etude.cores import num_cores
from etude.errors import InvalidInput
from etude.runs import threads
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec
from etude.struct import replace


def spec_of(observation, num_envs=1):
    return EnvironmentSpec(observation, Discrete(2), num_envs)


VECTOR, IMAGE = Box((4,)), Box((84, 84), "uint8", 0, 255)


@pytest.fixture
def before_jax(monkeypatch):
    """As before JAX has started, on a machine of two cores."""
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "is_started", lambda: False)
    monkeypatch.setattr(threads, "num_cores", lambda: 2)
    monkeypatch.setattr(threads, "_running", None)
    return monkeypatch


@pytest.mark.parametrize(
    ("algorithm", "observation", "num_envs", "expected"),
    [
        (etude.DQN(hidden=(64, 32), batch_size=10), VECTOR, 1, 10 * 64 * 32),
        (etude.DQN(hidden=(8,), batch_size=10), Discrete(100), 1, 10 * 100 * 8),
        (etude.DQN(hidden=(8,), batch_size=10), Composite((VECTOR, Discrete(3))), 1, 10 * 7 * 8),
        (etude.A2C(hidden=(16, 16), rollout_length=5), VECTOR, 8, 5 * 8 * 16 * 16),
        (
            etude.PPO(hidden=(16,), batch_size=32, recurrent=etude.GRU(64)),
            VECTOR,
            1,
            32 * 4 * 64**2,
        ),
        (etude.SAC(), IMAGE, 1, math.inf),
        (etude.SAC(torso=lambda key, space: lambda x: x), VECTOR, 1, math.inf),
        (etude.algorithms.algorithm_factory("q-learning")(), Discrete(10**6), 1, 0),
    ],
    ids=["mlp", "one-hot", "composite", "rollout", "recurrent", "image", "torso", "table"],
)
def test_the_largest_product_is_that_of_the_largest_layer_of_all_rows(
    algorithm, observation, num_envs, expected
):
    spec = spec_of(observation, num_envs)
    assert threads.largest_product(algorithm, spec) == expected
    assert threads.largest_product(algorithm, spec, seeds=3) == 3 * expected


def test_an_algorithm_of_ones_own_may_have_products_of_any_size():
    class Own:
        pass

    assert threads.largest_product(Own(), spec_of(VECTOR)) == math.inf


def choose(algorithm, asked=None, seeds=1, in_one_program=True, name="", backend="gymnasium"):
    spec = replace(spec_of(VECTOR), id=name)
    return threads.choose_threads(asked, algorithm, spec, backend, seeds, in_one_program)


SMALL = etude.DQN(hidden=(64, 64), batch_size=64)
LARGE = etude.SAC(hidden=(256, 256), batch_size=256)


def test_one_thread_where_products_are_small_and_one_a_core_where_they_are_large(before_jax):
    assert (choose(SMALL), choose(LARGE)) == (1, 2)
    assert choose(SMALL, seeds=64) == 2  # whose products are one
    assert choose(LARGE, seeds=2, in_one_program=False) == 1  # each seed has a core


def test_as_many_threads_as_cores_beside_a_pool_that_steps_costly_environments(before_jax):
    pytest.importorskip("envpool")
    assert choose(SMALL, name="LunarLander-v3", backend="envpool") == 2
    assert choose(SMALL, name="CartPole-v1", backend="envpool") == 1
    assert choose(SMALL, name="LunarLander-v3") == 1
    seeds = dict(seeds=2, in_one_program=False)  # of which each has a core
    assert choose(SMALL, name="LunarLander-v3", backend="envpool", **seeds) == 1


def test_an_option_comes_before_the_variable_of_the_user_and_that_before_the_sizes(before_jax):
    before_jax.setenv("NPROC", "3")
    assert (choose(SMALL), choose(LARGE)) == (3, 3)
    before_jax.setenv("PJRT_NPROC", "4")
    assert choose(SMALL) == 4 and choose(SMALL, asked=5) == 5
    for text in ("", "many", "1.5", "３"):
        before_jax.setenv("PJRT_NPROC", text)
        assert choose(SMALL) == 3
    for text, read in (("+5", 5), (" 7 ", 7), ("0", 1), ("-2", 1)):  # as XLA reads it
        before_jax.setenv("PJRT_NPROC", text)
        assert choose(SMALL) == read


def test_jax_starts_with_the_threads_and_the_variable_is_as_it_was(before_jax):
    """So no process that starts from this one takes the choice for the user's."""
    seen = []
    before_jax.setattr("jax.devices", lambda: seen.append(os.environ["PJRT_NPROC"]))
    for before in (None, "9"):
        if before:
            before_jax.setenv("PJRT_NPROC", before)
        threads.start_with(1)
        assert seen.pop() == "1" and os.environ.get("PJRT_NPROC") == before


def test_where_jax_runs_its_threads_are_taken_and_others_refused():
    jax.devices()
    now = threads.threads_in_use()
    threads.start_with(now + 1)
    assert choose(SMALL) == choose(LARGE) == threads.threads_in_use() == now
    assert choose(SMALL, asked=now) == now
    # the processes of seeds start anew, each on a core
    assert choose(LARGE, seeds=2, in_one_program=False) == (threads.threads_of_user() or 1)
    assert choose(LARGE, asked=now + 1, seeds=2, in_one_program=False) == now + 1
    with pytest.raises(
        InvalidInput, match=f"threads is {now + 1}, and JAX already runs with {now}"
    ):
        choose(SMALL, asked=now + 1)


RUN = """
    import os, sys, etude
    os.sched_setaffinity(0, {int(core) for core in sys.argv[1].split(",")})
    algorithm = etude.A2C(hidden=(64, 64), rollout_length=16)
    options = dict(progress=True, seed=1, evaluation_episodes=1, max_evaluation_steps=1)
    part, whole = sys.argv[2:]
    if os.path.exists(part):
        etude.resume(part, steps=2048)
        etude.train(algorithm, "CartPole-v1", steps=2048, out=whole, **options)
    else:
        etude.train(algorithm, "CartPole-v1", steps=1024, out=part, **options)
"""


@pytest.mark.system
@pytest.mark.skipif(num_cores() < 2, reason="there is one core")
def test_one_thread_computes_the_same_bits_on_one_core_and_on_two(tmp_path):
    """A run that begins on one core goes on on two as the whole run on two, and says so."""
    cores, said = sorted(os.sched_getaffinity(0)), ""
    for some in (cores[:1], cores[:2]):
        arguments = [",".join(map(str, some)), tmp_path / "part", tmp_path / "whole"]
        kept = {k: v for k, v in commands.environment(well=False).items() if "NPROC" not in k}
        said += subprocess.run(
            [*commands.measuring.python(), "-c", textwrap.dedent(RUN), *map(str, arguments)],
            env=kept,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    assert "· 1 thread ·" in said
    assert "began with 1 cores, and here are 2: it goes on bit for bit" in said
    config = json.loads((tmp_path / "part" / "config.json").read_text())
    assert config["threads"] == 1 and config["machine"]["cores"] == 1
    part, whole = (
        (tmp_path / name / "checkpoints" / "step_2048" / "arrays.safetensors").read_bytes()
        for name in ("part", "whole")
    )
    assert part == whole
