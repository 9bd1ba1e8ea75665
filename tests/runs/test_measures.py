"""What an algorithm measures at the end of an episode, in all that reports an evaluation."""

import csv
import json
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etude
from etude.algorithms.control.random_policy import Random
from etude.environments.protocol import StepResult
from etude.runs.display import evaluation_rows
from etude.runs.evaluation import evaluate_policies, summarize_measure
from etude.runs.options import RunOptions
from etude.runs.train import resolve_settings
from etude.spaces import Box, Discrete
from etude.struct import static


class Ends:
    """One step an episode; at its end is 1, 2 or 6, and before it 0."""

    observation_space, action_space = Box((1,)), Discrete(2)

    def reset(self, key):
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, state, action, key):
        end = jnp.array([1.0, 2.0, 6.0])[jax.random.randint(key, (1,), 0, 3)]
        return end, StepResult(end, jnp.float32(0), jnp.bool_(True), jnp.bool_(False))


@etude.algorithm
class Measured:
    """Random actions, and two numbers of the last observation."""

    rollout_length: int = static(1)
    learns: ClassVar[bool] = False
    init, act, update = Random.init, Random.act, Random.update

    def final_measures(self, state: Any, memory: Any, observation: Any) -> dict[str, Any]:
        return {"end": observation[:, 0], "double": 2 * observation[:, 0]}


def test_an_evaluation_tells_it_beside_the_return():
    settings = resolve_settings(Measured(), Ends(), RunOptions(steps=2))
    state = Random().init(jax.random.key(0), settings.outline().spec)
    evaluations = evaluate_policies(settings, {"last": [state] * 2}, 5, False, 0, None)
    ((_, evaluation),) = evaluations
    end, double = (evaluation["measures"][name] for name in ("end", "double"))
    assert all(1 <= x <= 6 for x in end["per_seed"] + end["medians"])
    np.testing.assert_allclose(double["per_seed"], np.multiply(end["per_seed"], 2))
    shown = dict(evaluation_rows(evaluation | {"which": "last"}))
    assert "final end, IQM" in shown and "median of each seed" in shown["final double, IQM"]


@pytest.mark.system
def test_a_run_tells_it_beside_the_return(tmp_path):
    run = etude.train(
        Measured(),
        Ends(),
        steps=2,
        seeds=2,
        evaluate_every=1,
        evaluate_with=5,
        evaluation_episodes=5,
        out=tmp_path / "run",
        progress=False,
    )
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    for name in ("evaluation", "evaluation_best"):
        measures = summary[name]["measures"]
        assert set(measures) == {"end", "double"}
        assert all(1 <= x <= 6 for x in measures["end"]["per_seed"] + measures["end"]["medians"])
        np.testing.assert_allclose(
            measures["double"]["per_seed"], np.multiply(measures["end"]["per_seed"], 2)
        )
    with open(tmp_path / "run/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert 1 <= float(row["evaluation_end"]) <= 6
        assert float(row["evaluation_double"]) == pytest.approx(2 * float(row["evaluation_end"]))
    assert len(rows) == 4
    assert list(run.evaluate(5)["measures"]) == ["double", "end"]


def test_a_measure_is_summarized_by_seed():
    summary = summarize_measure([np.array([1.0, 2.0, 6.0]), np.array([2.0, 2.0, 8.0])])
    assert summary["per_seed"] == [3, 4] and summary["iqm"] == 3.5
    assert summary["medians"] == [2, 2]
