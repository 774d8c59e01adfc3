"""Which hyperparameters a tuning job tries: a grid, at random, or by what it has seen."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from local_mode.wire import refuse

_RANGES = "HyperParameterTuningJobConfig.ParameterRanges."


class Range(NamedTuple):
    """The values of a hyperparameter.

    Numbers have a scale, on which they are uniform: a pair of functions, to it and back.
    """

    name: str
    values: list[str] | None  # of a category
    low: float = 0
    high: float = 0
    is_integer: bool = False
    scale: tuple[Callable[[float], float], Callable[[float], float]] | None = None

    def at(self, part: float) -> str:
        """Return the value at a part of the range, from 0 up to 1."""
        if self.values is not None:
            return self.values[min(int(part * len(self.values)), len(self.values) - 1)]
        to, back = self.scale  # type: ignore[misc]
        margin = 0.5 if self.is_integer and self.scale is _SCALES["Linear"] else 0
        low, high = to(self.low - margin), to(self.high + margin)
        value = min(max(back(low + part * (high - low)), self.low), self.high)
        return str(round(value)) if self.is_integer else repr(value)


class Search:
    """What is tried next: a method of its own, or at random.

    Parameters
    ----------
    ranges : list of Range
    seed : int, optional
    """

    def __init__(self, ranges: list[Range], seed: int | None = None):
        self._ranges = ranges
        self._random = random.Random(seed)
        self.names = {item.name for item in ranges}

    def ask(self) -> dict[str, str] | None:
        """Return what is tried next, or None when everything was."""
        return {item.name: item.at(self._random.random()) for item in self._ranges}

    def tell(self, tried: Mapping[str, str], value: float | None) -> None:
        """Take an objective's value, or None if the job has none."""


class _Grid(Search):
    """Every combination of the categories once, as SageMaker has it."""

    def __init__(self, ranges: list[Range]):
        super().__init__(ranges)
        self._left: Iterator = itertools.product(*(item.values or [] for item in ranges))
        self.size = math.prod(len(item.values or []) for item in ranges)

    def ask(self) -> dict[str, str] | None:
        values = next(self._left, None)
        if values is None:
            return None
        return {item.name: value for item, value in zip(self._ranges, values, strict=True)}


class _Bayesian(Search):
    """A tree of Parzen estimators, of what was seen and of what is still running.

    SageMaker's own method is a Gaussian process; neither promises what it tries.
    """

    def __init__(self, ranges: list[Range], seed: int | None, maximize: bool):
        super().__init__(ranges, seed)
        try:
            import optuna
        except ImportError:
            raise refuse(
                "Strategy Bayesian needs optuna on this machine: pip install optuna; or use "
                "Random or Grid"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(
                seed=seed, multivariate=True, constant_liar=True, n_startup_trials=3
            ),
            direction="maximize" if maximize else "minimize",
        )
        distributions = optuna.distributions
        self._space = {
            item.name: distributions.FloatDistribution(0, 1)
            if item.values is None
            else distributions.CategoricalDistribution(item.values)
            for item in ranges
        }
        self._failed = optuna.trial.TrialState.FAIL
        self._trials: list[tuple[dict[str, str], Any]] = []

    def ask(self) -> dict[str, str] | None:
        trial = self._study.ask(self._space)
        tried = {
            item.name: item.at(trial.params[item.name])
            if item.values is None
            else trial.params[item.name]
            for item in self._ranges
        }
        self._trials.append((tried, trial))
        return tried

    def tell(self, tried: Mapping[str, str], value: float | None) -> None:
        number = next(k for k, (asked, _) in enumerate(self._trials) if asked is tried)
        trial = self._trials.pop(number)[1]
        if value is None:
            self._study.tell(trial, state=self._failed)
        else:
            self._study.tell(trial, value)


def make_search(config: Mapping[str, Any]) -> Search:
    """Return the search that a tuning job's configuration asks for.

    Raises
    ------
    ApiError
        If it asks for what is not supported, or its ranges are not right.
    """
    strategy, seed = config["Strategy"], config.get("RandomSeed")
    given = config.get("ParameterRanges") or {}
    if given.get("AutoParameters"):
        raise refuse(f"{_RANGES}AutoParameters is not supported on this machine; give ranges")
    ranges = [
        Range(item["Name"], item["Values"]) for item in given.get("CategoricalParameterRanges", [])
    ]
    for kind in ("Integer", "Continuous"):
        ranges += [
            _read(item, kind == "Integer") for item in given.get(f"{kind}ParameterRanges", [])
        ]
    names = [item.name for item in ranges]
    if not ranges:
        raise refuse(f"{_RANGES[:-1]} must have a range")
    if len(set(names)) < len(names):
        raise refuse(f"{_RANGES[:-1]} has a hyperparameter twice: {', '.join(names)}")
    if strategy == "Random":
        return Search(ranges, seed)
    if strategy == "Bayesian":
        objective = config.get("HyperParameterTuningJobObjective") or {}
        return _Bayesian(ranges, seed, objective.get("Type") == "Maximize")
    if strategy == "Hyperband":
        raise refuse(
            "Strategy Hyperband is not supported on this machine; use Bayesian, Random or Grid"
        )
    if any(item.values is None for item in ranges):
        raise refuse("Strategy Grid takes CategoricalParameterRanges only")
    grid = _Grid(ranges)
    most = config["ResourceLimits"].get("MaxNumberOfTrainingJobs")
    if most is not None and most != grid.size:
        raise refuse(
            f"Strategy Grid has {grid.size} combinations, and MaxNumberOfTrainingJobs is {most}; "
            "give their number, or leave it out"
        )
    return grid


def _read(item: Mapping[str, str], is_integer: bool) -> Range:
    path, scaling = f"{_RANGES}{item['Name']}", item.get("ScalingType", "Auto")
    try:
        low, high = float(item["MinValue"]), float(item["MaxValue"])
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low <= high) or (
        is_integer and not (low.is_integer() and high.is_integer())
    ):
        kind = "integers" if is_integer else "numbers"
        raise refuse(
            f"{path} must go from MinValue to MaxValue, which are {kind}, got "
            f"{item['MinValue']} and {item['MaxValue']}"
        )
    if scaling == "Logarithmic" and low <= 0:
        raise refuse(f"{path}: ScalingType Logarithmic needs MinValue > 0, got {low:g}")
    if scaling == "ReverseLogarithmic" and (is_integer or low < 0 or high >= 1):
        raise refuse(
            f"{path}: ScalingType ReverseLogarithmic needs a continuous range within 0 <= x < 1"
        )
    return Range(item["Name"], None, low, high, is_integer, _SCALES[scaling])


_LINEAR = (float, float)
_SCALES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "Auto": _LINEAR,
    "Linear": _LINEAR,
    "Logarithmic": (math.log, math.exp),
    "ReverseLogarithmic": (lambda x: -math.log1p(-x), lambda y: -math.expm1(-y)),
}
