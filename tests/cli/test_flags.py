"""Flags as other libraries name them, flags that do not exist, and numbers as people write them."""

import dataclasses

import pytest
import tyro
from commands import here

from etude.algorithms import ALGORITHMS, algorithm_class
from etude.cli import aliases, flags
from etude.cli.main import Train


def message(directory, arguments: str) -> str:
    """The one line with which the arguments are refused."""
    done = here(*arguments.split(), cwd=directory)
    assert done.returncode == 2 and not done.stdout and not list(directory.iterdir())
    assert done.stderr.startswith("etude: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("ppo CartPole-v1 --gamma 0.9", "--gamma 0.9 is --discount 0.9 here"),
        ("ppo CartPole-v1 --gamma=0.9", "--gamma=0.9 is --discount=0.9 here"),
        ("ppo CartPole-v1 --gamma", "--gamma is --discount here"),
        ("ppo --gamma 0.9", "--gamma 0.9 is --discount 0.9 here"),
        ("ppo CartPole-v1 --lr 1e-3", "--lr 1e-3 is --learning-rate 1e-3 here"),
        ("ppo CartPole-v1 -lr 1e-3", "-lr 1e-3 is --learning-rate 1e-3 here"),
        ("ppo CartPole-v1 --total-timesteps 1e5", "--total-timesteps 1e5 is --steps 1e5 here"),
        ("ppo CartPole-v1 --total_timesteps=1e5", "--total_timesteps=1e5 is --steps=1e5 here"),
        ("ppo CartPole-v1 --ent-coef 0.01", "--ent-coef 0.01 is --entropy-coefficient 0.01 here"),
        ("ppo CartPole-v1 --ent_coef 0.01", "--ent_coef 0.01 is --entropy-coefficient 0.01 here"),
        ("ppo CartPole-v1 --n-envs 4", "--n-envs 4 is --num-envs 4 here"),
        ("ppo CartPole-v1 --n_steps 64", "--n_steps 64 is --rollout-length 64 here"),
        ("ppo CartPole-v1 --net-arch 64 64 --seed 1", "--net-arch 64 64 is --hidden 64 64 here"),
        ("ppo CartPole-v1 --norm-adv", "--norm-adv is --normalize-advantage here"),
        ("ppo CartPole-v1 --norm-adv False", "--norm-adv False is --no-normalize-advantage here"),
        ("ppo CartPole-v1 --no-norm-adv", "--no-norm-adv is --no-normalize-advantage here"),
        (
            "ppo CartPole-v1 --num-minibatches 4",
            "--num-minibatches 4 is --batch-size here (samples in a minibatch",
        ),
        (
            "dqn CartPole-v1 --learning-starts 100",
            "--learning-starts 100 is --warmup-steps 100 here",
        ),
        ("dqn CartPole-v1 --buffer-size 1000", "--buffer-size 1000 is --capacity 1000 here"),
        ("dqn CartPole-v1 --n-steps 3", "--n-steps 3 is --n-step 3 here"),
        ("dqn CartPole-v1 --train-freq 4", "--train-freq 4 is --rollout-length 4 here"),
        (
            "dqn CartPole-v1 --exploration-fraction 0.1",
            "--exploration-fraction 0.1 is --exploration-steps here (environment",
        ),
        (
            "sac Pendulum-v1 --ent-coef auto",
            "--ent-coef auto is --initial-temperature here (a number",
        ),
        ("trpo CartPole-v1 --target-kl 0.02", "--target-kl 0.02 is --kl-limit 0.02 here"),
        ("dqn CartPole-v1 --clip 0.2", "dqn has no clip, a hyperparameter of ppo"),
        ("dqn CartPole-v1 --clip-range 0.2", "dqn has no clip, as --clip-range is called in ppo"),
        (
            "ppo --env-id CartPole-v1",
            "the environment is the second word, as in `etude train ppo CartPole-v1`",
        ),
        (
            "--env-id CartPole-v1 ppo",
            "the environment is the second word, as in `etude train ppo CartPole-v1`",
        ),
        ("--algo ppo --env CartPole-v1", "the algorithm is the first word"),
        ("ppo CartPole-v1 --cuda", "--cuda has no counterpart: JAX uses the device that it finds"),
        (
            "ppo CartPole-v1 --discuont 0.9",
            "no flag is called --discuont, did you mean --discount?",
        ),
        ("ppo CartPole-v1 --xyzzy", "no flag is called --xyzzy; "),
        ("ppo CartPole-v1 extra", "'extra' belongs to no flag"),
    ],
)
def test_a_flag_of_another_library_is_answered_with_ours(tmp_path, arguments, expected):
    said = message(tmp_path, f"train {arguments}")
    assert (
        expected in said
        and f"`etude train {next(filter(ALGORITHMS.get, arguments.split()))} ENVIRONMENT --help`"
        in said
    )


def test_all_flags_are_answered_at_once(tmp_path):
    said = message(tmp_path, "train ppo CartPole-v1 --gamma 0.9 --lr=1e-3 --xyzzy")
    assert (
        "--gamma 0.9 is --discount 0.9 here; --lr=1e-3 is --learning-rate=1e-3 here; "
        "no flag is called --xyzzy" in said
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("resume run --total-timesteps 1e5", "--total-timesteps 1e5 is --steps 1e5 here"),
        ("evaluate run --env CartPole-v1", "--env CartPole-v1 is --environment CartPole-v1 here"),
        ("resume run --step 100", "no flag is called --step, did you mean --steps?"),
        ("evaluate run --epsodes 3", "no flag is called --epsodes, did you mean --episodes?"),
        ("watch run --seeds 3", "no flag is called --seeds, did you mean --seed?"),
        ("resume", "etude resume needs RUN"),
        ("evaluate run other", "'other' belongs to no flag"),
        ("evaluate run --episodes few", "--episodes is 'few'; it must be a whole number"),
        (
            "plan pendulum --iteration 3",
            "no flag is called --iteration, did you mean --iterations?",
        ),
        (
            "figure overestimation CartPole-v1 --stepz 3",
            "no flag is called --stepz, did you mean --steps?",
        ),
        ("algorithms --all", "no flag is called --all"),
    ],
)
def test_other_commands_answer_alike(tmp_path, arguments, expected):
    assert expected in message(tmp_path, arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--steps 1e5", "--steps 100000"),
        ("--steps 100_000", "--steps 100000"),
        ("--steps=1.5e3", "--steps 1500"),
        ("--hidden 64,64", "--hidden 64 64"),
        ("--hidden [64,64]", "--hidden 64 64"),
        ("--hidden 64 64", "--hidden 64 64"),
        ("--num_envs 4", "--num-envs 4"),
        ("--learning-rate 1e-3", "--learning-rate 1e-3"),
        ("--value-clip inf", "--value-clip inf"),
        ("--seed -3", "--seed -3"),
        ("--video True", "--video"),
        ("--video=false", "--no-video"),
        ("--no-video", "--no-video"),
        ("--backend jax", "--backend jax"),
        ("--options a=1 --options b=2", "--options a=1 --options b=2"),
    ],
)
def test_values_as_people_write_them(arguments, expected):
    words = ["ppo", "CartPole-v1"]
    for order in ([*words, *arguments.split()], [*arguments.split(), *words]):
        assert flags.prepare_train(order, Train, algorithm_class("ppo")(), "ppo") == [
            *words,
            *expected.split(),
        ]
    assert flags.prepare_train([*words, "--hidden"], Train, algorithm_class("ppo")(), "ppo") == [
        *words,
        "--hidden",
    ]


def test_names_are_all_words_that_follow_their_flag():
    """And numbers only numbers, so that positional arguments may follow them."""
    hints = {"task": tyro.conf.Positional[str], "names": tuple[str, ...], "sizes": tuple[int, ...]}
    prepare = lambda arguments: flags.prepare(arguments, hints, "see --help")
    assert prepare(["here", "--names", "a", "b,c"]) == ["here", "--names", "a", "b", "c"]
    assert prepare(["--sizes", "1", "2", "here"]) == ["here", "--sizes", "1", "2"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--steps many", "--steps is 'many'; it must be a whole number"),
        ("--steps 1.5", "--steps is '1.5'; it must be a whole"),
        ("--steps 1e999999999", "--steps is '1e999999999'"),
        ("--steps", "--steps needs a value: --steps NUMBER"),
        ("--learning-rate fast", "--learning-rate is 'fast'; it must be a number"),
        ("--hidden 64,x", "--hidden is 'x'; it must be a whole number"),
        ("--backend tpu", "--backend is 'tpu'; choose one of auto, jax"),
        ("--backend --seed 1", "--backend needs a value: --backend auto|jax"),
        ("--video=maybe", "--video is 'maybe'; write --video or --no-video"),
    ],
)
def test_values_that_cannot_be_read(tmp_path, arguments, expected):
    assert expected in message(tmp_path, f"train ppo CartPole-v1 {arguments}")


def test_numbers_reach_the_run(tmp_path):
    said = message(tmp_path, "train ppo CartPole-v1 --steps 1e1 --num-envs 0x")
    assert "--num-envs is '0x'" in said
    assert "steps is 10, less than one iteration" in message(
        tmp_path, "train --steps 1e1 ppo CartPole-v1"
    )


def test_help_has_the_names_elsewhere_and_names_its_words(tmp_path):
    done = here("train", "ppo", "CartPole-v1", "--help", cwd=tmp_path)
    said = " ".join(done.stdout.replace("│", " ").split())
    assert done.returncode == 0 and "ALGORITHM ENVIRONMENT" in said and "STR STR" not in said
    for names in (
        "SB3 and CleanRL: ent_coef",
        "SB3 and CleanRL: gamma",
        "SB3: clip_range; CleanRL: clip-coef",
        "SB3: n_steps",
    ):
        assert names in said
    resume = here("resume", "--help", cwd=tmp_path).stdout
    assert "RUN" in resume and "--steps INT" in resume and "None}" not in said + resume


def test_every_row_speaks_of_a_field():
    options = {field.name for field in dataclasses.fields(Train)}
    assert {row.field for row in aliases.RUN} <= options
    for row in aliases.ALIASES:
        having = aliases.algorithms_with(row.field)
        assert having, row
        assert set(row.algorithms.split()) <= set(having), row


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_name_elsewhere_means_one_field_of_an_algorithm(name):
    meant = {}
    for row in aliases.aliases_for(algorithm_class(name)):
        for other in aliases.alias_names(row):
            assert aliases.normalize_name(other) == other
            assert meant.setdefault(other, row.field) == row.field, (
                f"{other} is {meant[other]} and {row.field} of {name}"
            )


SB3 = {
    "ent_coef",
    "learning_starts",
    "tau",
    "clip_range",
    "n_steps",
    "vf_coef",
    "max_grad_norm",
    "gae_lambda",
    "gamma",
    "n_epochs",
    "buffer_size",
    "train_freq",
    "target_update_interval",
    "exploration_fraction",
    "exploration_initial_eps",
    "exploration_final_eps",
    "target_kl",
    "normalize_advantage",
    "use_sde",
    "sde_sample_freq",
    "policy_delay",
    "target_policy_noise",
    "target_noise_clip",
    "target_entropy",
    "batch_size",
    "learning_rate",
    "gradient_steps",
    "clip_range_vf",
    "total_timesteps",
}
CLEANRL = {
    "gamma",
    "tau",
    "learning_starts",
    "start_e",
    "end_e",
    "num_steps",
    "update_epochs",
    "num_minibatches",
    "clip_coef",
    "ent_coef",
    "vf_coef",
    "anneal_lr",
    "total_timesteps",
    "env_id",
    "buffer_size",
    "max_grad_norm",
    "norm_adv",
}


def test_the_names_that_people_search_for_are_there():
    rows = (*aliases.RUN, *aliases.ALIASES)
    assert {name for row in rows for name in row.sb3.split()} >= SB3
    assert {name for row in rows for name in row.cleanrl.split()} >= CLEANRL
