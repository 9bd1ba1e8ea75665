"""The commands of `etude figure` for planning on models."""

import dataclasses
from typing import Any

from etude.cli import flags
from etude.cli.console import enable_cache


def _horizon_and_replanning(arguments: list[str]) -> None:
    """`etude figure horizon-and-replanning`: returns by planning horizon and replanning interval"""

    @dataclasses.dataclass
    class HorizonAndReplanning:
        """Plan on the true model of Pendulum-v1 with several horizons and replanning intervals, and
        draw the returns. A measurement that was stopped goes on."""

        horizons: tuple[int, ...] = (5, 10, 15, 20, 30, 40)
        """steps of a plan, each 5 or more"""
        seeds: int = 10
        """seeds of starts and planners"""
        episodes: int = 4
        """episodes of each seed"""
        samples: int = 50
        """plans in an iteration of a search"""
        out: str | None = None
        """the output directory; default runs/horizon_and_replanning"""

    options = flags.parse(HorizonAndReplanning, "etude figure horizon-and-replanning", arguments)
    enable_cache()
    from etude.studies.horizon_and_replanning import measure_horizon_and_replanning

    directory, measured = measure_horizon_and_replanning(**vars(options))
    _print_summaries(measured["intervals"], "horizon")
    print(f"drawn   {directory / 'horizon_and_replanning.png'}")


def _action_dimension(arguments: list[str]) -> None:
    """`etude figure action-dimension`: what planners of samples reach by dimension of actions"""

    @dataclasses.dataclass
    class ActionDimension:
        """Plan for point masses of several dimensions with the same number of samples, and draw the
        share of LQR's optimum. A measurement that was stopped goes on."""

        dimensions: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
        """numbers of elements of an action"""
        samples: int = 400
        """plans of a search, of four iterations together"""
        seeds: int = 20
        """seeds of the start and of the search"""
        out: str | None = None
        """the output directory; default runs/action_dimension"""

    options = flags.parse(ActionDimension, "etude figure action-dimension", arguments)
    enable_cache()
    from etude.studies.action_dimension import measure_action_dimension

    directory, measured = measure_action_dimension(**vars(options))
    _print_summaries(measured["planners"], "dimension")
    print(f"drawn   {directory / 'action_dimension.png'}")


def _distribution_shift(arguments: list[str]) -> None:
    """`etude figure distribution-shift`: what plans on a learned model promise and get"""

    @dataclasses.dataclass
    class DistributionShift:
        """Fit a model to random steps, plan on it with versions 0.5, 1.0 and 1.5 of model-based
        learning, and draw predicted minus achieved returns. A measurement that was stopped goes
        on."""

        fits: int = 6
        """fits of the model, each before an episode"""
        seeds: int = 8
        """seeds of each version"""
        out: str | None = None
        """the output directory; default runs/distribution_shift"""

    options = flags.parse(DistributionShift, "etude figure distribution-shift", arguments)
    enable_cache()
    from etude.studies.distribution_shift import measure_distribution_shift

    directory, measured = measure_distribution_shift(**vars(options))
    _print_summaries(measured["versions"], "episode")
    print(f"drawn   {directory / 'distribution_shift.png'}")


def _model_error(arguments: list[str]) -> None:
    """`etude figure model-error`: errors of models by steps ahead"""

    @dataclasses.dataclass
    class ModelError:
        """Predict linear systems and Pendulum-v1 with models that err, and draw the errors by steps
        ahead. A measurement that was stopped goes on."""

        steps: tuple[int, ...] = (400, 1_600, 6_400)
        """environment steps that a network is fitted to, at most 8,000"""
        seeds: int = 8
        """networks for each number of steps"""
        out: str | None = None
        """the output directory; default runs/model_error"""

    options = flags.parse(ModelError, "etude figure model-error", arguments)
    enable_cache()
    from etude.studies.model_error import measure_model_error

    directory, measured = measure_model_error(**vars(options))
    _print_summaries(
        {f"{int(count):,} steps": curve for count, curve in measured["pendulum"].items()}, "ahead"
    )
    print(f"drawn   {directory / 'model_error.png'}")


def _system_identification(arguments: list[str]) -> None:
    """`etude figure system-identification`: equations with fitted constants, and a network"""

    @dataclasses.dataclass
    class SystemIdentification:
        """Fit the right equations, wrong ones and a network to noisy steps, and draw the errors of
        the constants and those of the models by steps ahead. A measurement that was stopped goes
        on."""

        steps: tuple[int, ...] = (50, 100, 200, 500, 1_000)
        """environment steps that are fitted"""
        seeds: int = 5
        """seeds of the steps, their noise, and the fits"""
        out: str | None = None
        """the output directory; default runs/system_identification"""

    options = flags.parse(SystemIdentification, "etude figure system-identification", arguments)
    enable_cache()
    from etude.studies.system_identification import measure_system_identification

    directory, measured = measure_system_identification(**vars(options))
    for environment, products in measured["constants"].items():
        print(f"{environment}: relative error of what the motion tells")
        _print_summaries(products, "steps", digits=5)
    print("Pendulum-v1: error of the models by steps ahead")
    _print_summaries(measured["errors"], "ahead", digits=5)
    print(f"drawn   {directory / 'system_identification.png'}")


def _calibration(arguments: list[str]) -> None:
    """`etude figure calibration`: whether a model is as right as it says, where its plans lead"""

    @dataclasses.dataclass
    class Calibration:
        """Play a noisy pendulum by PETS, and draw how right its model is beside what it says,
        before and after it was fitted to where its plans led."""

        fits: int = 5
        """fits of the model, after each of which an episode is played"""
        seeds: int = 5
        """seeds of PETS"""
        out: str | None = None
        """the output directory; default runs/calibration"""

    options = flags.parse(Calibration, "etude figure calibration", arguments)
    enable_cache()
    from etude.studies.calibration import measure_calibration

    directory, measured = measure_calibration(**vars(options))
    _print_summaries(measured["coverage"], "level")
    for name, found in measured["error"].items():
        low, high = found["ci95"]
        print(f"{name:28}error {found['iqm']:.3f} ({low:.3f} to {high:.3f})")
    print(f"drawn   {directory / 'calibration.png'}")


def _model_uncertainty(arguments: list[str]) -> None:
    """`etude figure model-uncertainty`: the noise that models expect, and their doubt in a gap"""

    @dataclasses.dataclass
    class ModelUncertainty:
        """Fit a single network, ensembles and a network with random weights to data with a gap, and
        draw the noise that each expects and its doubt. A measurement that was stopped goes on."""

        rows: int = 4_000
        """steps that a model is fitted to"""
        seeds: int = 5
        """seeds of data and fits"""
        out: str | None = None
        """the output directory; default runs/model_uncertainty"""

    options = flags.parse(ModelUncertainty, "etude figure model-uncertainty", arguments)
    enable_cache()
    from etude.studies.model_uncertainty import measure_model_uncertainty

    directory, measured = measure_model_uncertainty(**vars(options))
    for task, kinds in measured["tasks"].items():
        for name, measures in kinds.items():
            for measure, found in measures.items():
                low, high = found["ci95"]
                print(
                    f"{task:10}{name:20}{measure:20}{found['iqm']:9.3f} ({low:.3f} to {high:.3f})"
                )
    print(f"drawn   {directory / 'model_uncertainty.png'}")


def _risk(arguments: list[str]) -> None:
    """`etude figure risk`: walks past an unknown field by how much their plans mind risk"""

    @dataclasses.dataclass
    class Risk:
        """Walk to a goal past a field that the model does not know, with plans that mind risk more
        or less, and draw paths and returns. A measurement that was stopped goes on."""

        risk_aversion: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
        """standard deviations that are taken off the mean return of a plan"""
        seeds: int = 10
        """seeds of members, fields and search"""
        episodes: int = 10
        """episodes of each seed"""
        out: str | None = None
        """the output directory; default runs/risk"""

    options = flags.parse(Risk, "etude figure risk", arguments)
    enable_cache()
    from etude.studies.risk import measure_risk

    directory, measured = measure_risk(**vars(options))
    for degree, found in measured["risk_aversion"].items():
        low, high = found["ci95"]
        print(
            f"risk aversion {degree:4} return {found['iqm']:.2f} ({low:.2f} to {high:.2f}), spread "
            f"{found['spread']:.2f}, {found['inside']:.1f} steps in the field"
        )
    print(f"drawn   {directory / 'risk.png'}")


def _print_summaries(curves: dict[str, Any], x_name: str, digits: int = 3) -> None:
    """Print the number over seeds of each curve at each x, with its interval."""
    for name, curve in curves.items():
        for x in sorted(curve, key=float):
            numbers = curve[x]["iqm"], *curve[x]["ci95"]
            center, low, high = (f"{number:.{digits}f}" for number in numbers)
            print(f"{name:28}{x_name} {x:>4} {center:>10} ({low} to {high})")


PLANNING_FIGURES = {
    "horizon-and-replanning": _horizon_and_replanning,
    "action-dimension": _action_dimension,
    "distribution-shift": _distribution_shift,
    "model-error": _model_error,
    "calibration": _calibration,
    "model-uncertainty": _model_uncertainty,
    "system-identification": _system_identification,
    "risk": _risk,
}
