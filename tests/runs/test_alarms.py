"""Warnings about metrics that are finite, each given once."""

import math

from etude.runs.alarms import MetricAlarms


def test_an_explosion_that_stays_finite_is_warned_of_once():
    alarms = MetricAlarms()
    assert alarms.check({"q_loss": [1e9, math.nan], "q_value": [-3.0, 2.0]}, 100) == []
    (text,) = alarms.check({"q_loss": [1.0, 8.7e20], "q_value": [0.0, 0.0]}, 200)
    assert "q_loss is 8.7e+20 at step 200" in text and "smaller learning rate" in text
    (text,) = alarms.check({"q_loss": [1e30, 1e30], "q_value": [-2e11, 0.0]}, 300)
    assert "q_value is 2e+11" in text
    assert alarms.check({"q_loss": [1e30], "q_value": [1e30]}, 400) == []


def test_returns_may_be_of_any_size():
    metrics = {"episode_return": [-1e12], "episode_length": [1e11], "evaluation_return": [-2e10]}
    assert MetricAlarms().check(metrics, 1) == []


def test_mass_on_the_ends_of_the_support_is_warned_of_above_a_half():
    alarms = MetricAlarms()
    assert alarms.check({"support_edge_mass": [0.5]}, 1) == []
    (text,) = alarms.check({"support_edge_mass": [0.2, 0.75]}, 2)
    assert "support_edge_mass is 0.75 at step 2" in text and "--head.v-min" in text
    assert alarms.check({"support_edge_mass": [0.9]}, 3) == []
