"""Plans on the problems, as files and pictures."""

import json
from pathlib import Path
from types import SimpleNamespace

import imageio.v2 as imageio
import jax
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.planning.planners import CEM, DDP, ILQR, Collocation, GradientShooting, MultipleShooting
from etude.planning.problems import DoubleIntegrator
from etude.planning.trajectory.ilqr import simulate_controls
from etude.reporting import plan_figures
from etude.struct import replace
from etude.studies import plan as plans
from etude.studies.plan import (
    GAMES,
    PROBLEMS,
    PlannedPath,
    PlanSettings,
    earlier_paths,
    find_path,
    most_visited,
    plan,
)

KEY = jax.random.key(0)
SHORT = replace(DoubleIntegrator(), horizon=6)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    return plan("double-integrator", out=tmp_path_factory.mktemp("plan"))


@pytest.mark.slow
def test_a_plan_is_written_as_it_was_found(planned):
    directory, found = planned
    told = json.loads((directory / "plan.json").read_text())
    assert told == found and told["solved"] and told["planner"] == "ilqr"
    problem = PROBLEMS["double-integrator"]
    states, costs = simulate_controls(
        problem, np.float32(told["states"][0]), np.float32(told["controls"])
    )
    np.testing.assert_allclose(told["states"], states, atol=1e-4)
    assert (
        told["cost"] == pytest.approx(float(costs.sum()), rel=1e-4)
        and told["cost"] == told["costs"][-1]
    )
    assert (np.diff(told["costs"]) <= 1e-6).all()
    with pytest.raises(InvalidInput, match="holds a plan already; give another --out"):
        plan("double-integrator", out=directory)


@pytest.mark.slow
def test_it_is_drawn_and_filmed(planned):
    directory, found = planned
    assert imageio.imread(directory / "plan.png").shape[:2] == (1080, 1800)
    film = imageio.get_reader(directory / "motion.mp4")
    assert film.count_frames() == len(found["states"]) + 10  # a second of the last
    first, last = (np.asarray(film.get_data(i), int) for i in (0, len(found["states"])))
    assert np.abs(first - last).max() > 100  # the block has moved


@pytest.mark.slow
def test_tree_search_draws_its_tree(tmp_path):
    directory, found = plan("tic-tac-toe", iterations=50, out=tmp_path)
    assert sum(found["visits"]) == 50 and found["action"] == int(np.argmax(found["visits"]))
    assert json.loads((directory / "plan.json").read_text()) == found
    assert imageio.imread(directory / "tree.png").shape[:2] == (1080, 1800)


def cost_of(problem, start, controls):
    return float(simulate_controls(problem, start, controls)[1].sum())


@pytest.mark.slow
@pytest.mark.parametrize("planner", [CEM(elites=5), ILQR(), GradientShooting()], ids=type)
def test_the_history_is_that_of_the_costs(planner):
    """And a guess that is better than what was found is kept."""
    path = find_path(SHORT, PlanSettings(planner, 8, 40), KEY)
    assert len(path.costs) == len(path.history) and path.costs[-1] < path.costs[0]
    assert (np.abs(path.controls) <= 2).all()
    for i in (0, 1, -1):
        cost = cost_of(SHORT, path.states[0], path.history[i])
        assert path.costs[i] == pytest.approx(cost, rel=1e-4)
    assert cost_of(SHORT, path.states[0], path.controls) <= path.costs.min() * 1.0001
    at_goal = replace(SHORT, start_range=0.0)
    kept = find_path(at_goal, PlanSettings(CEM(elites=2, std=1.0), 2, 4), KEY)
    if isinstance(planner, CEM):
        assert (kept.controls == 0).all() and (kept.costs == kept.costs[0]).all()


def test_a_film_shows_plans_on_the_way():
    """Of the iterations that lowered the cost: the guess, the first, one in the middle."""
    costs = np.array([9.0, 9, 5, 5, 4, 3, 3])
    path = PlannedPath(np.zeros((3, 2)), np.zeros((2, 1)), costs, np.zeros((7, 2, 1)))
    earlier = earlier_paths(SHORT, path)
    assert [*earlier] == [0, 2, 4] and all(states.shape == (3, 2) for states in earlier.values())
    assert earlier_paths(SHORT, path._replace(costs=costs[:1], history=path.history[:1])) == {}


@pytest.mark.parametrize(
    "problem, planner",
    [
        pytest.param("double-integrator", "cem", marks=pytest.mark.slow),
        # iLQR solves these in the tests of the problems too
        pytest.param("cart-pole", None, marks=pytest.mark.system),
        pytest.param("acrobot", None, marks=pytest.mark.system),
    ],
)
def test_the_examples_of_the_readme_reach_their_goal(problem, planner, tmp_path):
    """With the defaults and each of the first seeds."""
    page = (Path(plans.__file__).parents[3] / "README.md").read_text()
    assert " ".join(["etude plan", problem, *(["--planner", planner] if planner else [])]) in page
    for seed in range(2 if planner else 1):
        out = tmp_path / str(seed)
        assert plan(problem, planner, seed=seed, video=False, out=out)[1]["solved"]


@pytest.fixture(scope="module")
def exact():
    return find_path(SHORT, PlanSettings(ILQR(), 50), KEY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "planner", [DDP(), MultipleShooting(), GradientShooting(), Collocation()], ids=type
)
def test_all_who_use_derivatives_agree(exact, planner):
    """Collocation's controls change within a step, so that its path costs a little less, or more
    where it is held."""
    found = find_path(SHORT, PlanSettings(planner, 500), KEY)
    assert found.states.shape == (7, 2) and found.controls.shape == (6, 1)
    assert found.costs[-1] == pytest.approx(
        float(exact.costs[-1]), rel=0.15 if isinstance(planner, Collocation) else 1e-3
    )


def test_what_is_drawn_of_a_tree_hangs_together():
    """The root leads to 1 and 3, and 1 leads to 2; node 4 was never visited."""
    children = np.zeros((5, 2), int)
    children[0], children[1, 1] = (3, 1), 2
    tree = SimpleNamespace(
        children=children,
        visits=np.array([9, 6, 2, 3, 0]),
        return_sum=-np.array([1.0, 3.0, -2.0, 0.0, 0.0]),
    )
    found = dict(most_visited(tree))
    assert found == {1: (0, 1, 6, 0.5), 2: (1, 1, 2, -1.0), 3: (0, 0, 3, 0.0)}
    places = plan_figures.layout_tree(found)
    assert (
        places[3][0] < places[1][0] == places[2][0]
        and places[0][0] == (places[1][0] + places[3][0]) / 2
    )
    assert [places[node][1] for node in range(4)] == [0, -1, -2, -1]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_has_its_names_and_is_seen_whole(name, tmp_path, monkeypatch):
    """At both ends of a path, what is drawn lies within the picture, and two states look
    different."""
    problem = PROBLEMS[name]
    start = np.asarray(problem.initial_state(KEY))
    states, controls = np.stack([start, start + 0.5]), np.zeros((1, len(problem.low)))
    assert tuple(map(len, plan_figures.LABELS[name])) == (len(start), len(problem.low))
    plan_figures.draw_path(
        tmp_path / "plan.png",
        plan_figures.LABELS[name],
        problem,
        PlannedPath(states, controls, np.ones(2), None),
        name,
        "",
    )
    (left, right), (bottom, top) = plan_figures.plot_limits(name, problem, states)
    drawn = []
    monkeypatch.setattr(
        plan_figures, "draw_disc", lambda axes, x, y, radius, color, alpha: drawn[-1].append((x, y))
    )
    axes = SimpleNamespace(plot=lambda xs, ys, **style: drawn[-1].extend(zip(xs, ys, strict=True)))
    for state in states:
        drawn.append([])
        plan_figures.draw_state(axes, name, problem, state)
        assert all(left < x < right and bottom < y < top for x, y in drawn[-1])
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"problem": "cartpole"},
            "no problem is called 'cartpole'; there are double-integrator, .*cart-pole",
        ),
        (
            {"problem": "car", "planner": "astar"},
            "planner is 'astar'; choose one of random-shooting, cem, icem",
        ),
        (
            {"problem": "car", "planner": "mcts"},
            "mcts does not plan on car: mcts searches the games tic-tac-toe",
        ),
        ({"problem": "tic-tac-toe", "planner": "cem"}, "cem does not plan on tic-tac-toe"),
        ({"problem": "car", "iterations": -1}, "iterations is -1; it must be at least 0"),
        ({"problem": "car", "samples": 5, "planner": CEM()}, "elites is 10; of 5 samples"),
    ],
)
def test_what_cannot_be_planned_is_refused(asked, words, tmp_path):
    with pytest.raises(InvalidInput, match=words):
        plan(**asked, out=tmp_path / "plan")
    assert not (tmp_path / "plan").exists() and set(GAMES).isdisjoint(plans.PROBLEMS)
