"""A learning curve is drawn, whatever is missing; its colors tell what is on it."""

import math
import sys
from unittest import mock

import matplotlib
import numpy as np
import pytest
from PIL import Image

from etude.reporting import figures, statistics

BLUE, EMBER, INK = (37, 99, 168), (200, 85, 61), (31, 41, 51)
STEPS = np.arange(1, 31) * 1000
RETURNS = np.linspace(10, 400, 30) + np.random.default_rng(0).normal(0, 20, (4, 30))
EVALUATION = statistics.summarize_returns(np.random.default_rng(1).normal(380, 30, (4, 10)))


def draw(tmp_path, *arguments, **options):
    figures.draw_learning_curve(tmp_path / "curve.png", *arguments, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    with Image.open(tmp_path / "curve.png") as image:
        assert image.format == "PNG" and image.size == (1440, 840)
        return np.asarray(image.convert("RGB"))


def has(pixels, color):
    return bool((np.abs(pixels.astype(int) - color) <= 2).all(-1).any())


@pytest.mark.slow
def test_all_of_it(tmp_path):
    pixels = draw(tmp_path, STEPS, RETURNS, EVALUATION, "DQN on CartPole-v1", "4 seeds")
    assert has(pixels, BLUE) and has(pixels, EMBER) and has(pixels, INK)
    for edge in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]):
        assert (edge == 255).all()  # nothing is cut off
    np.testing.assert_array_equal(
        pixels, draw(tmp_path, STEPS, RETURNS, EVALUATION, "DQN on CartPole-v1", "4 seeds")
    )


@pytest.mark.slow
def test_returns_in_the_millions_and_hundredths_fit(tmp_path):
    for scale in (1e-3, 1e4, -1e4):
        evaluation = {"iqm": 380 * scale, "ci95": sorted((370 * scale, 390 * scale))}
        pixels = draw(tmp_path, STEPS * 1000, RETURNS * scale, evaluation, "title")
        assert (pixels[:, :8] == 255).all() and (pixels[:, -8:] == 255).all()


def test_one_seed_without_evaluation(tmp_path):
    pixels = draw(tmp_path, STEPS, RETURNS[:1])
    assert has(pixels, BLUE) and not has(pixels, EMBER)


def test_missing_episodes(tmp_path):
    returns = RETURNS.copy()
    returns[:, :3], returns[1, 5:], returns[2], returns[3, ::2] = (
        math.nan,
        math.nan,
        math.nan,
        math.inf,
    )
    assert has(draw(tmp_path, STEPS, returns, EVALUATION), BLUE)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_single_row_is_a_point(tmp_path, seeds):
    assert has(draw(tmp_path, STEPS[:1], RETURNS[:seeds, :1]), BLUE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "returns"),
    [
        (STEPS, np.full((2, 30), math.nan)),
        (STEPS[:1], [[math.nan]]),
        ([], [[], []]),
        ([0], [[1.0]]),
    ],
)
def test_next_to_nothing_still_gives_a_figure(tmp_path, steps, returns):
    pixels = draw(tmp_path, steps, returns, None, "Nothing yet")
    assert len(np.unique(pixels @ np.array([65536, 256, 1]))) > 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "evaluation",
    [
        {"iqm": 380.0, "ci95": [380.0, 380.0]},
        {"iqm": 380.0, "ci95": ["nan", "nan"]},
        {"iqm": 0.0, "ci95": [0.0, 0.0]},
        {"iqm": "1e300", "ci95": ["-inf", "inf"]},
    ],
)
def test_an_evaluation_without_spread_is_a_point(tmp_path, evaluation):
    assert has(draw(tmp_path, STEPS, RETURNS, evaluation), EMBER)


def test_an_unknown_evaluation_is_left_out(tmp_path):
    assert not has(draw(tmp_path, STEPS, RETURNS, {"iqm": "nan", "ci95": ["nan", "nan"]}), EMBER)


@pytest.mark.slow
def test_titles_are_plain_text(tmp_path):
    draw(tmp_path, STEPS, RETURNS, EVALUATION, r"$\frac{", "a_b^c $ \\")


def test_no_global_state_of_matplotlib_is_touched(tmp_path, monkeypatch):
    """As little as pyplot, which is state, is there to be imported."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    settings = lambda: {
        name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"
    }
    before = settings()
    draw(tmp_path, [1, 2], [[1, 2], [2, 3]], {"iqm": 2, "ci95": [1, 3]})
    assert settings() == before


def test_long_runs_are_thinned_to_means():
    steps, returns = np.arange(1.0, 1001), np.tile(np.arange(1000.0), (2, 1))
    returns[0, :7] = math.nan
    thin_steps, thin = figures._downsample(steps, returns)
    assert thin.shape == (2, 200) and thin_steps[0] == 5 and thin_steps[-1] == 1000
    assert thin[1, 0] == 2.0 and math.isnan(thin[0, 0]) and thin[0, 1] == 8.0
    odd_steps, odd = figures._downsample(steps[:203], returns[:, :203])
    assert odd.shape == (2, 102) and odd_steps[-1] == 203 and odd[1, -1] == 202.0


def test_curves_are_straight_between_values_and_level_after():
    nan = math.nan
    filled = figures._interpolate(np.arange(6.0), np.array([nan, 1.0, nan, 3.0, nan, nan]))
    np.testing.assert_array_equal(filled, [nan, 1, 2, 3, 3, 3])


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (1234567.0, None, "1,234,567"),
        (0.25, None, "0.25"),
        (-1500.5, None, "−1,500.5"),
        (0.0, None, "0"),
        (-0.0, None, "0"),
        (-1e-12, None, "0"),
        (100.0, None, "100"),
        (0.5, 2, "0.50"),
        (-0.0, 1, "0.0"),
        (-20000, 0, "−20,000"),
        (-1e300, 0, "−1e+300"),
    ],
)
def test_numbers_as_written(value, decimals, text):
    assert figures.format_thousands(value, decimals) == text


def test_evaluations_in_training_are_points(tmp_path):
    """On an axis of their own beside a loss; one of several seeds has stopped early."""
    means = np.full((2, 3), 300.0)
    means[1, 2] = math.nan
    options = dict(loss="bellman loss", title="title", evaluations=(STEPS[[9, 19, 29]], means))
    assert has(draw(tmp_path, STEPS, RETURNS[:2], **options), EMBER)


@pytest.mark.parametrize(
    ("deterministic", "loss", "words"),
    [
        (True, "", "; deterministic evaluation"),
        (False, "", "; stochastic evaluation"),
        (True, "bellman loss", "; deterministic return 3 (95 % 2 to 4)"),
    ],
)
def test_the_figure_says_which_policy_was_evaluated(tmp_path, deterministic, loss, words):
    evaluation = {"iqm": 3.0, "ci95": [2.0, 4.0], "deterministic": deterministic}
    with mock.patch.object(figures, "finish_figure") as save:
        figures.draw_learning_curve(tmp_path, STEPS, RETURNS, evaluation, "title", "seeds", loss)
    assert save.call_args.args[3:] == ("title", f"seeds{words}")


def test_curves_of_seeds_come_to_the_steps_of_all():
    first, second = (np.array([10, 20, 30]), [1.0, 2.0, 3.0]), (np.array([10, 25]), [4.0, 5.0])
    steps, curves = figures.on_common_steps([first, second])
    assert steps.tolist() == [10, 20, 25, 30]
    expected = [[1, 2, math.nan, 3], [4, math.nan, 5, math.nan]]
    np.testing.assert_array_equal(curves, expected)
