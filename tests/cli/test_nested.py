"""Kinds on the command line: chosen by a flag, with flags of their own, in any order."""

import itertools
import math

import pytest
from commands import here
from owner import Owner
from torsos import own

from etude.algorithms import algorithm_factory
from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.value.boltzmann import Boltzmann
from etude.algorithms.value.distributional_heads import CategoricalHead, QuantileHead
from etude.algorithms.value.dqn import DQN
from etude.algorithms.value.epsilon_greedy import EpsilonGreedy
from etude.algorithms.value.heads import ScalarHead
from etude.algorithms.value.rainbow import Rainbow
from etude.cli import flags
from etude.cli.main import Train
from etude.data.replay.prioritized import Prioritized
from etude.data.replay.uniform import Uniform
from etude.nn.noisy import NoisyLayers
from etude.nn.recurrent import GRU, LSTM
from etude.struct import replace


def parsed(default, arguments: str, name: str = "dqn"):
    """(options of the run, algorithm) from arguments, of which `default` are the defaults."""
    words = [name, "CartPole-v1", *arguments.split()]
    return flags.parse_train(Train(name, ""), default, name, "etude train", words, "")


@pytest.mark.parametrize(
    "order",
    [
        *itertools.permutations(["--replay prioritized", "--replay.alpha 0.6", "--steps 1e3"]),
        ["--replay=prioritized", "--replay.alpha=0.6", "--steps=1e3"],
        ["--replay.alpha=.6", "--steps 1_000", "--replay prioritized"],
        ["--replay uniform", "--replay.alpha 0.6", "--replay prioritized", "--steps 1000"],
    ],
    ids=" ".join,
)
def test_a_kind_and_its_flags_stand_in_any_order_among_the_others(order):
    run, chosen = parsed(DQN(), " ".join(order))
    assert run.steps == 1000 and (run.algorithm, run.environment) == ("dqn", "CartPole-v1")
    assert chosen == DQN(replay=Prioritized(alpha=0.6))


def test_flags_of_a_kind_may_precede_the_names_and_what_is_typed_with_underscores_is_read():
    words = ["--replay.beta_steps", "1e4", "--replay", "prioritized", "dqn", "CartPole-v1"]
    _, chosen = flags.parse_train(Train("dqn", ""), DQN(), "dqn", "etude train", words, "")
    assert chosen == DQN(replay=Prioritized(beta_steps=1e4))


TUNED = DQN(
    head=CategoricalHead(11, v_min=0.0, v_max=110.0),
    replay=Prioritized(alpha=0.7, beta_steps=5e4),
    exploration=EpsilonGreedy(final_epsilon=0.04),
    noisy=NoisyLayers(0.3),
)


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ("", {}),
        ("--replay prioritized --head categorical --noisy", {}),  # as they are
        ("--replay.beta 1", {"replay": Prioritized(alpha=0.7, beta=1.0, beta_steps=5e4)}),
        ("--head categorical --head.v-min -5", {"head": CategoricalHead(11, -5.0, 110.0)}),
        ("--head quantile", {"head": QuantileHead(51)}),  # and not 11
        ("--head scalar --head.loss-type squared", {"head": ScalarHead("squared")}),
        ("--replay uniform", {"replay": Uniform()}),
        (
            "--exploration boltzmann --exploration.final-temperature 0.2",
            {"exploration": Boltzmann(final_temperature=0.2)},
        ),
        ("--noisy.sigma 0.4", {"noisy": NoisyLayers(0.4)}),
        ("--noisy true", {}),
        ("--no-noisy", {"noisy": None}),
        ("--noisy=False", {"noisy": None}),
        ("--no-noisy --noisy", {}),
    ],
)
def test_a_preset_keeps_its_values_unless_another_kind_is_chosen(arguments, changes):
    """Another one has the defaults of its own."""
    assert parsed(TUNED, arguments)[1] == replace(TUNED, **changes)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--noisy", NoisyLayers()),
        ("--noisy --noisy.sigma 0.1", NoisyLayers(0.1)),
        ("--noisy.sigma 0.1 --noisy True", NoisyLayers(0.1)),
        ("--no-noisy", None),
        ("--no-noisy false", NoisyLayers()),
    ],
)
def test_a_kind_or_none_is_a_switch(arguments, expected):
    assert parsed(DQN(), arguments)[1] == DQN(noisy=expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--recurrent gru", GRU(4)),
        ("--recurrent lstm --recurrent.units 8", LSTM(8)),
        ("--recurrent none", None),
    ],
)
def test_one_of_several_kinds_or_none_is_a_choice(arguments, expected):
    assert parsed(PPO(recurrent=GRU(4)), arguments, "ppo")[1] == PPO(recurrent=expected)


def test_a_variant_is_changed_in_one_of_its_kinds():
    _, chosen = parsed(algorithm_factory("rainbow")(), "--head.num-atoms 11 --no-noisy", "rainbow")
    assert chosen == Rainbow(head=QuantileHead(11), noisy=None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--agent.learning-rate 1e-4", Owner(DQN(learning_rate=1e-4))),
        ("--agent ppo --agent.learning-rate 1e-4", Owner(PPO(learning_rate=1e-4))),
        ("--agent.clip 0.3 --weight 2 --agent ppo", Owner(PPO(clip=0.3), 2.0)),
        (
            "--agent.head categorical --agent.head.v-min 0",
            Owner(DQN(head=CategoricalHead(v_min=0.0))),
        ),
        (
            "--agent.recurrent.units 4 --agent.recurrent gru --agent ppo --agent.hidden 8 8",
            Owner(PPO(recurrent=GRU(4), hidden=(8, 8))),
        ),
        ("--agent.learning-rate-decay inf", Owner(DQN(learning_rate_decay=math.inf))),
        ("--agent.no-double --agent.noisy", Owner(DQN(double=False, noisy=NoisyLayers()))),
    ],
)
def test_an_algorithm_in_a_field_has_flags_with_its_path(arguments, expected):
    assert parsed(Owner(), arguments, "owner")[1] == expected


def message(directory, arguments: str, status: int = 2) -> str:
    """The one line with which the arguments are refused; nothing is written."""
    done = here("train", *arguments.split(), cwd=directory)
    assert done.returncode == status and not done.stdout and not list(directory.iterdir())
    assert done.stderr.startswith("etude: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("etude: ").split("; `etude train")[0].strip()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--replay.alpha 0.6", "--replay.alpha needs --replay prioritized"),
        ("--head.num-atoms 5", "--head.num-atoms needs --head categorical or quantile"),
        ("--noisy.sigma 0.1", "--noisy.sigma needs --noisy"),
        ("--replay uniform --replay.alpha 0.6", "--replay.alpha needs --replay prioritized"),
        ("--no-noisy --noisy.sigma 0.1", "--noisy.sigma needs --noisy"),
        (
            "--replay prioritized --replay uniform --replay.alpha 1",
            "--replay.alpha needs --replay prioritized",
        ),
        ("--replay prioritised", "--replay is 'prioritised'; choose one of uniform, prioritized"),
        ("--replay", "--replay needs a value: --replay uniform|prioritized"),
        ("--noisy=much", "--noisy is 'much'; write --noisy or --no-noisy"),
        ("--replay prioritized --replay.alpha big", "--replay.alpha is 'big'; it must be a number"),
        ("--replay prioritized --replay.alpha", "--replay.alpha needs a value"),
        ("--replay prioritized --replay.alpha -1", "replay.alpha is -1.0; it must be at least 0"),
        (
            "--head categorical --head.num-atoms 1.5",
            "--head.num-atoms is '1.5'; it must be a whole number",
        ),
        ("--head categorical --head.v-min 20", "head: v_min 20.0 is not below v_max 10.0"),
        ("--maximizer.elites 90", "elites is 90; of 32 samples"),
    ],
)
def test_what_a_kind_does_not_take_is_one_message(tmp_path, arguments, expected):
    assert message(tmp_path, f"dqn CartPole-v1 {arguments}").startswith(expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            "--replay prioritized --replay.alfa 0.6",
            "no flag is called --replay.alfa, did you mean --replay.alpha or",
        ),
        (
            "--replay.alfa 0.6",
            "no flag is called --replay.alfa, did you mean --replay.alpha (with --replay "
            "prioritized) or",
        ),
        ("--final-epsilon 0.1", "--final-epsilon 0.1 is --exploration.final-epsilon 0.1 here"),
        ("--end-e=0.1", "--end-e=0.1 is --exploration.final-epsilon=0.1 here"),
        ("--sigma 0.1", "--sigma 0.1 is --noisy.sigma 0.1 here, with --noisy"),
        (
            "--final-temperature 1",
            "--final-temperature 1 is --exploration.final-temperature 1 here, with --exploration "
            "boltzmann",
        ),
        ("--per-alpha .5", "--per-alpha .5 is --replay.alpha .5 here, with --replay prioritized"),
        ("--replay prioritized --per-alpha .5", "--per-alpha .5 is --replay.alpha .5 here"),
        (
            "--n-atoms 5",
            "--n-atoms 5 is --head.num-atoms 5 here, with --head categorical or quantile",
        ),
        ("--prioritized", "--prioritized is --replay here (one of uniform and prioritized)"),
        ("--planner.elites 4", "dqn has no planner.elites, a hyperparameter of pets and mpc"),
        ("--recurrent.units 4", "--recurrent.units needs --recurrent gru or lstm"),
    ],
)
def test_a_flag_of_another_path_is_answered_with_the_right_one(tmp_path, arguments, expected):
    said = message(tmp_path, f"dqn CartPole-v1 {arguments}")
    assert said.startswith(expected) and (
        "here" not in expected or said.removeprefix(expected) == ""
    )


def test_a_flag_in_the_field_of_a_field_is_explained_with_its_whole_path(capsys):
    for arguments, expected in (
        ("--agent.replay.alpha 1", "--agent.replay.alpha needs --agent.replay prioritized"),
        ("--agent.clip 0.1", "--agent.clip needs --agent ppo"),
        ("--agent ppo --agent.replay prioritized", "--agent.replay needs --agent dqn"),
        ("--clip 0.1", "--clip 0.1 is --agent.clip 0.1 here, with --agent ppo"),
    ):
        with pytest.raises(SystemExit):
            parsed(Owner(), arguments, "owner")
        assert capsys.readouterr().err.startswith(f"etude: {expected}; ")


def groups_of_help(directory, arguments: str) -> dict[str, str]:
    """The text of each group of flags in the help, without its frame."""
    done = here("train", *arguments.split(), "--help", cwd=directory)
    assert done.returncode == 0 and not done.stderr and not list(directory.iterdir())
    groups, title = {}, ""
    for line in done.stdout.splitlines():
        words = line.strip("╭─╮│ ")
        if words.endswith((" options", " arguments")) and "  " not in words:
            title = words
        groups[title] = f"{groups.get(title, '')} {' '.join(words.split())}"
    return groups


def test_help_shows_the_flags_of_the_kinds_that_are_chosen_in_groups_of_their_own(tmp_path):
    plain = groups_of_help(tmp_path, "dqn CartPole-v1")
    assert {"head options", "exploration options", "maximizer options"} < plain.keys()
    assert not {"replay options", "noisy options"} & plain.keys()
    for flag in ("--replay {uniform,prioritized}", "--noisy, --no-noisy", "--head {scalar,categ"):
        assert flag in plain["algorithm options"]
    assert "--exploration.final-epsilon FLOAT" in plain["exploration options"]
    assert "(default: 0.04; SB3: exploration_final_eps" in plain["exploration options"]
    assert not any("temperature FLOAT" in text or "v-min" in text for text in plain.values())

    other = groups_of_help(
        tmp_path, "dqn CartPole-v1 --exploration boltzmann --replay prioritized --noisy"
    )
    assert "--replay.alpha FLOAT" in other["replay options"]
    assert "default: 0.5; CleanRL: prioritized-replay-alpha" in other["replay options"]
    assert "--noisy.sigma FLOAT" in other["noisy options"]
    assert "--exploration.final-temperature FLOAT" in other["exploration options"]
    assert not any("epsilon FLOAT" in text for text in other.values() if "adam" not in text)


def test_code_has_no_flag_of_its_own_and_is_kept(tmp_path):
    """A torso is an option of the run, so it is in the help once."""
    default = Owner(agent=DQN(torso=own))
    _, algorithm = parsed(default, "--agent.hidden 8 --weight 2", "owner")
    assert algorithm == Owner(agent=DQN(hidden=(8,), torso=own), weight=2.0)
    options, _ = parsed(DQN(), "--torso torsos:own")
    assert options.torso == "torsos:own"
    groups = groups_of_help(tmp_path, "dqn CartPole-v1")
    assert [title for title, text in groups.items() if "torso" in text] == ["run options"]
