"""Early stopping: the rules, against sequences of evaluations that are judged by hand."""

import dataclasses
from types import SimpleNamespace

import pytest

from etude.runs.stopping import EarlyStop, EvaluationRecord, early_stops, record_from_json
from etude.storage.files import CorruptFile


def record_of(means, until=None, patience=None):
    """The record after evaluations with these means at the steps 10, 20, …"""
    record = EvaluationRecord()
    for i, mean in enumerate(means, 1):
        record = record.add(10 * i, mean, until, patience)
    return record


@pytest.mark.parametrize(
    ("means", "until", "patience", "best", "since_best", "stop"),
    [
        ([], 1.0, 1, (None, None), 0, None),
        ([3.0, 5.0, 4.0], None, None, (20, 5.0), 1, None),
        ([3.0, 5.0, 5.0, 6.0], 5.0, None, (40, 6.0), 0, ("until", 20)),
        ([3.0, 4.9], 5.0, None, (20, 4.9), 0, None),
        ([3.0, 3.0, 3.0], None, 2, (10, 3.0), 2, ("patience", 30)),
        ([3.0, 2.0, 4.0, 3.9], None, 2, (30, 4.0), 1, None),
        ([-2.0, -3.0, -1.0, 9.0], 8.0, 1, (40, 9.0), 0, ("patience", 20)),
        ([7.0, 6.0], 7.0, 1, (10, 7.0), 1, ("until", 10)),
    ],
    ids=lambda x: str(x).replace(" ", ""),
)
def test_the_rules(means, until, patience, best, since_best, stop):
    record = record_of(means, until, patience)
    assert (record.best_step, record.best_mean) == best
    assert record.since_best == since_best
    assert (None if record.rule is None else (record.rule, record.rule_step)) == stop
    assert record_from_json(dataclasses.asdict(record), 10 * len(means)) == record


@pytest.mark.parametrize(
    "change",
    [
        {"best_step": 21},
        {"best_step": -1},
        {"best_step": None},
        {"best_mean": "much"},
        {"best_mean": True},
        {"since_best": -1},
        {"since_best": 1.0},
        {"rule": "luck"},
        {"rule": None},
        {"rule_step": None},
        {"more": 1},
    ],
    ids=str,
)
def test_a_record_that_is_none_is_refused(change):
    values = dataclasses.asdict(record_of([1.0, 2.0], until=2.0)) | change
    with pytest.raises(CorruptFile, match="record of evaluations"):
        record_from_json(values, 20)
    with pytest.raises(CorruptFile, match="record of evaluations"):
        record_from_json([], 20)


def test_seeds_in_one_program_end_when_all_have_met_a_rule():
    stopped, going_on = record_of([4.0], until=3.0), record_of([2.0], until=3.0)
    with_rule, without = (
        SimpleNamespace(until=until, patience=None, evaluate_with=5) for until in (3.0, None)
    )
    stop = EarlyStop(7, "until", 10)
    assert early_stops(with_rule, (7, 8), [stopped, going_on]) == ()
    assert early_stops(with_rule, (7, 8), [stopped, stopped]) == (stop, EarlyStop(8, "until", 10))
    assert early_stops(without, (7,), [stopped]) == ()
    text = "at step 10: the mean return of 5 episodes reached 3"
    assert stop.text(with_rule) == text
