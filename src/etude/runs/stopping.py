"""Early stopping: what the evaluations of a seed have shown, and the rules that end training."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple, get_args

from etude.runs.settings import Settings
from etude.storage.files import CorruptFile

Rule = Literal["until", "patience"]


class EarlyStop(NamedTuple):
    """Why the training of a seed ended early."""

    seed: int
    rule: Rule
    step: int  # of the evaluation at which the rule was met

    def text(self, settings: Settings) -> str:
        """Where the rule was met, and why."""
        reason = (
            f"the mean return of {settings.evaluate_with} episodes reached {settings.until:g}"
            if self.rule == "until"
            else f"{settings.patience} evaluations in a row were no better"
        )
        return f"at step {self.step:,}: {reason}"


@dataclasses.dataclass(frozen=True)
class EvaluationRecord:
    """What the evaluations of one seed have shown so far; it is kept in checkpoints."""

    best_step: int | None = None
    best_mean: float | None = None
    since_best: int = 0  # evaluations since the best one
    rule: Rule | None = None  # the first rule that was met
    rule_step: int | None = None

    def add(
        self, step: int, mean: float, until: float | None, patience: int | None
    ) -> "EvaluationRecord":
        """The record with one more evaluation; of equal ones the first is the best."""
        is_better = self.best_mean is None or mean > self.best_mean
        record = dataclasses.replace(self, since_best=self.since_best + 1)
        if is_better:
            record = dataclasses.replace(self, best_step=step, best_mean=mean, since_best=0)
        if record.rule is None and until is not None and mean >= until:
            return dataclasses.replace(record, rule="until", rule_step=step)
        if record.rule is None and patience is not None and record.since_best >= patience:
            return dataclasses.replace(record, rule="patience", rule_step=step)
        return record


def record_from_json(values: Any, step: int) -> EvaluationRecord:
    """The record that a checkpoint of `step` holds; raises CorruptFile for anything else."""
    names = {field.name for field in dataclasses.fields(EvaluationRecord)}
    if not isinstance(values, dict) or set(values) != names:
        raise CorruptFile(f"a checkpoint's record of evaluations is {values!r:.80}")
    means = values["best_mean"]
    steps = (values["best_step"], values["rule_step"])
    is_valid = (
        all(x is None or (type(x) is int and 0 <= x <= step) for x in steps)
        and (means is None or (type(means) in (int, float) and math.isfinite(means)))
        and (values["best_step"] is None) == (means is None)
        and (values["rule_step"] is None) == (values["rule"] is None)
        and (values["rule"] is None or values["rule"] in get_args(Rule))
        and type(values["since_best"]) is int
        and values["since_best"] >= 0
    )
    if not is_valid:
        raise CorruptFile(f"a checkpoint's record of evaluations is {values!r:.200}")
    return EvaluationRecord(**values)


def early_stops(
    settings: Settings, seeds: tuple[int, ...], records: list[EvaluationRecord]
) -> tuple[EarlyStop, ...]:
    """Why a job ended early: the rule of every seed; () as long as one of them has met none."""
    if settings.until is None and settings.patience is None:
        return ()
    stops = tuple(
        EarlyStop(seed, record.rule, record.rule_step)
        for seed, record in zip(seeds, records, strict=True)
        if record.rule is not None and record.rule_step is not None
    )
    return stops if len(stops) == len(seeds) else ()
