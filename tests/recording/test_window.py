"""The window itself, with SDL's dummy driver and posted events: what is played, kept and drawn."""

import gymnasium
import numpy as np
import pytest
from hands import Hands, pygame

from etude.errors import EnvironmentFault, InvalidInput
from etude.recording import play, window
from etude.recording.controls import make_controls
from etude.recording.play import Pace, play_in_window
from etude.recording.session import Session
from etude.recording.window import Panel, Window, check_screen
from etude.spaces import Box, Discrete, EnvironmentSpec

PLANE = Box((2,), low=-1.0, high=1.0)


class Walk(gymnasium.Env):
    """A random start, and the sum of what was done since; three steps to the end."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1000}  # noqa: RUF012
    observation_space = gymnasium.spaces.Dict(
        {"place": gymnasium.spaces.Box(-9, 9, (2,), np.float32)}
    )

    def __init__(self, num_steps=3, picture=(40, 60, 3)):
        self.num_steps, self.picture = num_steps, np.zeros(picture, np.uint8)
        self.picture[:, : picture[1] // 2] = 200
        self.place = np.zeros(2, np.float32)  # one array, which every observation shares

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        self.place[:] = self.np_random.normal(size=2)
        return {"place": self.place}, {}

    def step(self, action):
        if np.any(np.asarray(action) == 3):
            raise ArithmeticError("too much")
        self.time += 1
        self.place += np.float32(action)
        info = {"is_success": bool(self.place[0] > 0)}
        return (
            {"place": self.place},
            float(np.sum(action)),
            self.time == self.num_steps,
            False,
            info,
        )

    def render(self):
        return self.picture


@pytest.fixture(autouse=True)
def dummy(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def played(script, *, space=None, keys="left=1,right=2,left+right=3,none=0", env=None, **options):
    """(the kept episodes, the window, the session) of a script."""
    space = space or Discrete(4)
    settings = dict(step_per_key=True) | options
    hands, session = Hands(script), Session(7, **settings)
    controls = make_controls(EnvironmentSpec(Box((1,)), space), keys, 1.0)
    with hands:
        episodes = [
            *play_in_window(
                env or Walk(), hands, controls, session, speed=100.0, max_steps=5, title="Walk"
            )
        ]
    return episodes, hands, session


def test_kept_episodes_are_what_the_environment_gives_by_hand():
    """One is discarded, tried again from the same seed, and the next has the next seed; the last,
    which is not whole, is gone."""
    script = ["left", "right", "Backspace", "left", "left", "right", "Enter"]
    script += ["right", "right", "Enter", "left", "Esc"]
    episodes, hands, session = played(script)
    assert [episode.seed for episode in episodes] == [7, 8] and session.kept == 2
    assert [episode.actions.tolist() for episode in episodes] == [[1, 1, 2], [2, 2]]
    for episode in episodes:
        env = Walk()
        seen, _ = env.reset(seed=episode.seed)
        places = [seen["place"].copy()]
        for action in episode.actions:
            places.append(env.step(action)[0]["place"].copy())
        np.testing.assert_array_equal(episode.observations["place"], places)
        np.testing.assert_array_equal(episode.rewards, episode.actions)
        assert episode.success == (places[-1][0] > 0)
    assert episodes[0].terminations.tolist() == [False, False, True]
    assert not episodes[0].truncations.any()
    assert not episodes[1].terminations.any()
    assert episodes[1].truncations.tolist() == [False, True]  # kept in its middle
    assert "Walk – episode 3, 2 kept" in {title for _, title in hands.seen}


def test_the_next_episode_begins_after_the_kept_one_is_taken():
    """So what is kept can be on the disk before."""
    began = []

    class Counted(Walk):
        def reset(self, **options):
            began.append(options["seed"])
            return super().reset(**options)

    controls = make_controls(EnvironmentSpec(Box((1,)), Discrete(4)), "left=1,none=0", 1.0)
    script = ["left", "Enter", "left", "Enter"]
    episodes = play_in_window(
        Counted(), Hands(script), controls, Session(0, True), max_steps=5, title=""
    )
    assert next(episodes).seed == 0 and began == [0]
    assert next(episodes).seed == 1 and began == [0, 1]


def test_keys_that_are_held_together_and_a_time_limit():
    episodes, _, _ = played(
        [["+left"], ["+right"], "", ["-left", "-right"], "left", "left", "left", "Enter"],
        keys="left=1,right=2,left+right=0,none=0",
        env=Walk(num_steps=99),
    )
    assert episodes[0].actions.tolist() == [1, 0, 1, 1, 1]
    assert episodes[0].truncations.tolist() == [False] * 4 + [True]


def test_time_goes_by_without_keys_until_the_window_loses_the_keyboard(monkeypatch):
    now = iter(range(10_000))
    monkeypatch.setattr(play.time, "monotonic", lambda: next(now))
    lost = pygame.event.Event(pygame.WINDOWFOCUSLOST)
    episodes, hands, _ = played(
        ["+left", "", lost, "", "", ".", "Enter"], env=Walk(num_steps=99), step_per_key=False
    )
    # the key is released with the keyboard; a full stop takes one more step
    assert episodes[0].actions.tolist() == [1, 1, 0]
    assert [panel.status for panel, _ in hands.seen][3:6] == ["paused"] * 3


def test_the_mouse_and_sticks_move_a_box():
    right_down = pygame.event.Event(
        pygame.MOUSEMOTION, pos=(600, 400), rel=(0, 0), buttons=(0, 0, 0)
    )
    hands, session = Hands([[right_down, "Space"], ".", "Enter"]), Session()
    spec = EnvironmentSpec(Box((1,)), PLANE)
    with hands:
        hands.show(np.zeros((400, 600, 3), np.uint8), Panel("", "paused", "", "", (), ()), "")
        env = Walk(picture=(400, 600, 3))
        options = dict(speed=0.001, max_steps=9, title="")
        controls = make_controls(spec, None, 1.0, mouse=True)
        (episode,) = play_in_window(env, hands, controls, session, **options)
    np.testing.assert_allclose(episode.actions[0], [1, -1])
    leaning = pygame.event.Event(pygame.JOYAXISMOTION, axis=1, value=-0.75)
    episodes, _, _ = played([[leaning], "Enter"], space=PLANE, keys=None)
    np.testing.assert_allclose(episodes[0].actions, [[0, 0.75]])


def test_a_failing_environment_is_named_with_seed_and_step():
    with pytest.raises(EnvironmentFault, match="ArithmeticError: too much .step 3 of its episode"):
        played(["left", ["+left", "+right"]])

    class Blind(Walk):
        def render(self):
            return None

    with pytest.raises(InvalidInput, match="draws no rgb_array pictures"):
        played(["left"], env=Blind())


def test_delays_are_not_caught_up_with(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(play.time, "monotonic", lambda: now[0])
    pace = Pace(10.0)
    pace.advance()
    assert pace.seconds_left() == pytest.approx(0.1)
    now[0] = 5.03
    assert pace.seconds_left() == 0
    pace.advance()
    assert pace.seconds_left() == pytest.approx(0.1)
    now[0] = 5.2  # late by less than a step: the mean pace is kept
    pace.advance()
    assert pace.seconds_left() == pytest.approx(0.03)


def test_the_picture_is_scaled_and_the_strip_below_it_is_legible():
    panel = Panel(
        "press a key: the learner plays", "waiting", "return -1234.5    step 30,000",
        "facts", tuple(f"key {i}: {i}" for i in range(30)), ("Esc  stop",),
    )  # fmt: skip
    shown = Window()
    with shown:
        shown.show(Walk().render(), panel, "Walk-v0")
        assert pygame.display.get_caption()[0] == "Walk-v0"
        width, height = shown.screen.get_size()
        left, right = (shown.screen.get_at((x, 100))[:3] for x in (200, 400))
        assert (left, right) == ((200, 200, 200), (0, 0, 0))
        assert shown.area.size == (420, 280) and height > 280 + 100  # scaled by a whole number
        status = shown.large.size(panel.status)[0] + window.MARGIN + 22
        assert status + shown.large.size(panel.numbers)[0] + window.MARGIN < width
        lines = shown._wrapped(panel.keys, width)
        assert len(lines) > 1 and "    ".join(lines).split() == " ".join(panel.keys).split()
        assert all(shown.font.size(line)[0] <= width for line in lines)
        # what is drawn ends within the window
        bottom = pygame.surfarray.array3d(shown.screen)[:, height - 6 :]
        assert (bottom == window.STRIP).all()


def test_without_a_screen_there_is_a_way_out(monkeypatch):
    for variable in (*window.DISPLAYS, "SDL_VIDEODRIVER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(window.sys, "platform", "linux")
    with pytest.raises(InvalidInput, match="no screen here .*DISPLAY is not set.; do else"):
        check_screen("do else")
    # SDL then draws where nobody sees it
    monkeypatch.setenv("DISPLAY", ":9999")
    with pytest.raises(InvalidInput, match="no screen answers here .DISPLAY is :9999.; do else"):
        check_screen("do else")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    check_screen("do else")
