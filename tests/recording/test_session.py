"""What commands do in each phase of a session."""

import pytest

from etude.recording.session import Interventions, Session


def playing(**settings):
    session = Session(10, **settings)
    session.press_control()
    return session


def test_an_episode_waits_for_a_key_and_is_kept_or_tried_again_with_the_same_seed():
    session = Session(10)
    assert (session.phase, session.seed, session.is_step_due) == ("ready", 10, False)
    session.press_control()
    assert session.is_step_due
    session.add_step(1.5, False, None)
    session.add_step(-1.0, True, True)
    assert (session.phase, session.total_return, session.success) == ("over", 0.5, True)
    assert not session.is_step_due and session.decision is None
    session.command("discard")
    assert session.take_decision() == "discard"
    assert (session.phase, session.seed, session.kept, session.steps) == ("ready", 10, 0, 0)
    session.press_control()
    session.add_step(1.0, False, None)
    session.command("keep")  # in its middle
    assert session.take_decision() == "keep"
    assert (session.phase, session.seed, session.kept, session.success) == ("ready", 11, 1, None)


def test_a_decision_stands_whatever_follows_before_it_is_taken():
    for command, phase in (("stop", "stopped"), ("discard", "ready"), ("keep", "ready")):
        session = playing()
        session.add_step(1.0, False, None)
        session.command("keep")
        session.command(command)
        assert session.take_decision() == "keep"
        assert (session.phase, session.kept) == (phase, 1)


def test_nothing_of_no_steps_is_kept_or_discarded():
    session = Session()
    session.command("discard")
    assert session.decision is None
    session.command("keep")
    assert session.decision is None and session.phase == "playing"


def test_space_pauses_and_a_full_stop_takes_single_steps():
    session = playing()
    session.command("pause")
    session.command("step")
    session.command("step")
    assert session.is_step_due and session.phase == "paused"
    session.add_step(0.0, False, None)
    session.add_step(0.0, False, None)
    assert not session.is_step_due
    session.command("pause")
    assert session.is_step_due
    session.lose_focus()
    assert session.phase == "paused" and not session.is_step_due


def test_with_a_step_for_each_key_none_is_taken_without():
    session = Session(step_per_key=True)
    session.press_control()
    session.press_control()
    assert session.single_steps == 2
    session.add_step(0.0, True, None)
    assert session.single_steps == 0  # what was pressed too much is for no other episode
    session.press_control()
    assert not session.is_step_due


@pytest.mark.parametrize(("is_over", "decision", "kept"), [(True, "keep", 1), (False, "stop", 0)])
def test_esc_keeps_whole_episodes_and_nothing_else(is_over, decision, kept):
    session = playing(episodes=5)
    session.add_step(1.0, is_over, None)
    session.command("stop")
    assert session.take_decision() == decision
    assert (session.phase, session.kept) == ("stopped", kept)
    session.command("pause")
    assert session.phase == "stopped"


def test_it_stops_after_the_episodes_that_were_asked_for():
    session = playing(episodes=1)
    session.add_step(1.0, True, None)
    session.command("keep")
    session.take_decision()
    assert session.phase == "stopped"


def test_a_person_takes_over_and_gives_back():
    round = Interventions()
    round.add_step()
    round.command("take over")
    round.press_control()
    assert round.is_step_due and round.has_control
    round.add_step()
    round.add_step()
    round.command("take over")
    round.add_step()
    assert (round.steps, round.labels) == (4, 2)
    round.command("step")
    assert round.phase == "paused" and round.is_step_due
    round.begin_round()
    assert (round.steps, round.labels, round.phase, round.single_steps) == (0, 0, "ready", 0)
    round.command("take over")
    round.command("stop")
    assert (round.phase, round.has_control) == ("stopped", False)
    round.begin_round()
    assert round.phase == "stopped"


def test_in_turns_a_person_takes_a_step_for_each_key_and_the_learner_goes_on():
    round = Interventions(step_per_key=True, has_control=True)
    round.press_control()
    assert round.is_step_due
    round.add_step()
    assert not round.is_step_due
    round.press_control()
    round.press_control()
    assert round.single_steps == 2
    round.command("take over")
    assert round.is_step_due and not round.single_steps
    round.press_control()
    assert not round.single_steps
    round.add_step()
    assert (round.steps, round.labels) == (2, 1)
    round.command("take over")
    assert not round.is_step_due
