"""The examples compute what they say, and run."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import pytest
from filling import call, filled

import etude
from etude.nn.custom_torso import make_custom_torso
from etude.spaces import Box, Composite

SIMBA = Path(etude.__file__).parents[2] / "examples/simba.py"


@pytest.fixture(scope="module")
def simba():
    return runpy.run_path(str(SIMBA), run_name="simba")


def layer_norm(norm, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return norm.weight * x + norm.bias


def dense(layer, x):
    return x @ layer.weight.T + layer.bias


def test_simba_is_a_residual_network(simba):
    """Of an observation and an action, as critics have it, against NumPy."""
    space = Composite((Box((3,)), Box((2,))))
    make = lambda key, space: simba["SimBa"](key, space, width=4, num_blocks=2)
    torso = filled(lambda: make_custom_torso(make, jax.random.key(0), space))
    rng = np.random.default_rng(0)
    pair = tuple(rng.normal(size=(5, n)).astype(np.float32) for n in (3, 2))
    network = jax.device_get(torso.network)
    x = dense(network.embedding, np.concatenate(pair, -1))
    for block in network.blocks:
        hidden = np.maximum(dense(block.expand, layer_norm(block.norm, x)), 0)
        assert hidden.shape == (5, 16)
        x = x + dense(block.shrink, hidden)
    expected = layer_norm(network.norm, x)
    np.testing.assert_allclose(call(torso, pair), expected, rtol=1e-4, atol=1e-5)


def test_simba_is_compared_with_the_plain_network(simba, capsys):
    evaluation = {"iqm": 1.0, "ci95": (0.5, 1.5)}
    with mock.patch.object(
        etude, "train", return_value=SimpleNamespace(summary={"evaluation": evaluation})
    ) as train:
        simba["compare"]("ppo", None, 3)
    assert [call.kwargs["torso"] for call in train.mock_calls] == [None, simba["SimBa"]]
    assert all(call.kwargs["steps"] == 100_000 for call in train.mock_calls)
    said = capsys.readouterr().out.splitlines()
    assert said[1] == ("ppo on LunarLander-v3, SimBa: IQM 1.0, 95 % interval 0.5 to 1.5, 3 seeds")


@pytest.mark.system
def test_simba_trains(simba, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    simba["compare"]("sac", 150, 1, evaluation_episodes=2, progress=False)
    assert capsys.readouterr().out.count("IQM") == 2
