"""Anchors: the rule of largest coverage under which the model's answer stays the same."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from explainers._predicates import describe, find_rows
from explainers._rules import choose, count_all, first_rule, search

_SKEWED = 0.75  # share of distinct values in one interval from which cuts are added
_FORMAT, _VERSION = "explainers.AnchorExplainer", 1


@dataclass(frozen=True)
class Anchor:
    """
    A rule that holds for one row, and its precision and coverage.

    Parameters
    ----------
    names : tuple of str
        The rule's predicates, in the order of the features; all must hold. Empty for the rule
        that holds for every row.
    precision : float
        Share of the background rows under the rule to which the model gives the row's answer,
        or, unless ``confidence=None`` or ``threshold=1``, its lower confidence bound.
    coverage : float
        Share of the background rows under the rule.
    support : int
        Number of background rows under the rule.
    threshold : float
        The requested precision.
    found : bool
        Whether `precision` reaches `threshold`. If not, no rule does, and this is the most
        precise one.
    held_out_precision : float or None
        The share as in `precision`, among held-out rows; None if none is under the rule.

    Examples
    --------
    >>> ages, answers = [[age] for age in range(20, 60)], ["no"] * 20 + ["yes"] * 20
    >>> anchor = AnchorExplainer(["Age"]).fit(ages, answers).explain([45], "yes", confidence=None)
    >>> " and ".join(anchor.names)
    'Age > 39'
    >>> anchor.precision, anchor.coverage, anchor.support
    (1.0, 0.5, 20)
    """

    names: tuple[str, ...]
    precision: float
    coverage: float
    support: int
    threshold: float
    found: bool
    held_out_precision: float | None = None


class AnchorExplainer:
    r"""
    Anchor explanations from a background with known predictions.

    For a row x with answer y, and over the rules A that hold for x, `explain` finds

        argmax coverage(A)  subject to  precision(A) >= threshold,
        coverage(A) = n(A) / n,    precision(A) = k(A) / n(A),

    where n(A) of the n background rows satisfy A, and k(A) of these have the answer y.
    A rule has at most one predicate per feature: an equality for a categorical feature, and a
    one-sided or two-sided interval between quantiles of the background for a numeric one.

    Ties in coverage are broken by higher precision, then fewer predicates, then the order of the
    features, so equal input gives an equal anchor. The model is never called.

    Parameters
    ----------
    feature_names : sequence of str, optional
        Names of the columns; x0, x1, ... if not given.
    categorical_names : mapping of int to sequence of str, optional
        Column of a categorical feature -> its categories. Rows contain positions in this list.
    quantiles : sequence of float, default=(25, 50, 75)
        Percentages at which numeric features are cut. The cuts are values of the background
        (the inverse of its empirical distribution), and so the same on every machine. If three
        quarters of a feature's distinct values lie between two cuts, as when most rows are zero
        or a long tail has few rows, the quantiles of its distinct values become cuts, too.
    max_rules : int, default=262144
        Maximum number of candidate rules of a row that are all counted. Beyond it, a beam search
        finds a good rule, not necessarily the best; its counts are exact, too.
    beam : int, default=32
        Number of rules that the beam search keeps from one length to the next.

    Attributes
    ----------
    background_ : ndarray of shape (n_background, n_features), float64
        The rows on which rules are searched and counted.
    predictions_ : ndarray of shape (n_background,)
        The model's answers to them.
    held_out_ : ndarray of shape (n_held_out, n_features), float64
        The rows on which precision is measured independently.
    held_out_predictions_ : ndarray of shape (n_held_out,)
        The model's answers to them.
    cuts_ : list of ndarray
        Cuts of each feature, in its units; empty for categorical and constant ones.

    Notes
    -----
    Missing values (NaN) are a separate category, also of numeric features: a row with one may get
    the predicate "Age is missing", and no interval contains a missing value. A predicate that
    holds for every background row, such as any on a constant feature, or for none, such as a
    category absent from the background, is not a candidate. If the background has only one
    answer, the anchor is the empty rule.

    Precision is measured on the rows on which the rule was chosen, so it is biased upwards, more
    so if the model was trained on these rows. By default a lower confidence bound is therefore
    reported; use held-out rows for an independent estimate.

    References
    ----------
    Ribeiro, Singh and Guestrin (2018). Anchors: high-precision model-agnostic explanations. AAAI.
    The rule maximises their equation (6) under (4), with the background's distribution for their
    perturbation distribution and counts for their samples.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[a, s] for a in range(20, 60) for s in (0, 1)], dtype=float)
    >>> answers = np.where((X[:, 0] > 29) & (X[:, 1] == 1), "yes", "no")
    >>> explainer = AnchorExplainer(["Age", "Status"], {1: ["single", "married"]})
    >>> explainer.fit(X, answers).explain([25, 0], "no", threshold=1)
    ... # doctest: +NORMALIZE_WHITESPACE
    Anchor(names=('Status = single',), precision=1.0, coverage=0.5, support=40, threshold=1.0,
           found=True, held_out_precision=None)
    >>> explainer.explain([52, 1], "yes", threshold=0.9).names
    ('Age > 29', 'Status = married')
    >>> explainer.measure(["Age > 25", "Status = married"], "yes", confidence=None).precision
    0.8823529411764706
    """

    def __init__(
        self,
        feature_names: Sequence[str] | None = None,
        categorical_names: Mapping[int, Sequence[str]] | None = None,
        quantiles: Sequence[float] = (25, 50, 75),
        max_rules: int = 2**18,
        beam: int = 32,
    ):
        self.feature_names = feature_names
        self.categorical_names = categorical_names
        self.quantiles = quantiles
        self.max_rules = max_rules
        self.beam = beam

    def fit(self, background, predictions, held_out=0.0):
        """
        Store a background and the model's answers to it, and compute the cuts.

        Parameters
        ----------
        background : array-like of shape (n_samples, n_features)
            Numbers; for categorical features, positions of categories. NaN is missing.
        predictions : array-like of shape (n_samples,)
            The model's answer to each row: labels, as numbers or text.
        held_out : float or (array-like, array-like), default=0.0
            Rows on which the precision of every anchor is measured again: either a share of the
            background, in [0, 1), which is then excluded from the search, or separate rows and
            predictions, preferably rows on which the model was not trained.

        Returns
        -------
        AnchorExplainer
            Itself.

        Raises
        ------
        ValueError
            If the shapes do not match, or a cell is text or not the position of a category.
        """
        background = _as_numbers(background, self.feature_names)
        if background.ndim != 2 or 0 in background.shape:
            raise ValueError(f"background must be (n_samples, n_features), got {background.shape}")
        names, p = self.feature_names, background.shape[1]
        if names is not None and len(names) != p:
            raise ValueError(f"there are {len(names)} feature_names for {p} columns")
        for j in self.categorical_names or {}:
            if j not in range(p):
                raise ValueError(
                    f"categorical_names has {j!r}, which is not an index of {p} columns"
                )
        if not all(0 < q < 100 for q in self.quantiles):
            raise ValueError(f"quantiles must lie between 0 and 100, got {self.quantiles}")
        self._names = [f"x{j}" for j in range(p)] if names is None else list(map(str, names))
        self._levels = {j: list(map(str, v)) for j, v in (self.categorical_names or {}).items()}
        background = self._as_rows(background)
        predictions = _as_labels(predictions, len(background))
        if isinstance(held_out, tuple):
            rows = self._as_rows(held_out[0])
            answers = _as_labels(held_out[1], len(rows))
        elif 0 <= held_out < 1:
            # RandomState's stream is frozen: every version of NumPy holds out the same rows.
            order = np.random.RandomState(0).permutation(len(background))
            out = np.isin(np.arange(len(order)), order[: int(held_out * len(order))])
            rows, answers = background[out], predictions[out]
            background, predictions = background[~out], predictions[~out]
        else:
            raise ValueError(f"held_out must be a share in [0, 1) or a tuple, got {held_out!r}")
        self.background_, self.predictions_ = background, predictions
        self.held_out_, self.held_out_predictions_ = rows, answers
        self.cuts_ = [self._cut(j) for j in range(p)]
        self._bins = self._to_bins(background)
        self._held_out_bins = self._to_bins(rows)
        self._below = [
            np.append(0, np.cumsum(np.bincount(b, minlength=len(self._levels.get(j, c)) + 2)))
            for j, (b, c) in enumerate(zip(self._bins, self.cuts_, strict=True))
        ]
        return self

    def explain(self, row, prediction, threshold=0.95, confidence=0.95, min_support=10):
        """
        Find the anchor of one row.

        Parameters
        ----------
        row : array-like of shape (n_features,)
            In the format of the background.
        prediction : label
            The model's answer to the row.
        threshold : float, default=0.95
            Precision that the rule must reach, in (0, 1]. No confidence bound reaches 1, so a
            threshold of 1 applies to the share k / n.
        confidence : float or None, default=0.95
            In [0.5, 1): use the one-sided Clopper-Pearson lower bound at this confidence,

                the (1 - confidence) quantile of Beta(k, n - k + 1)    (0 if k = 0),

            as the precision; None for k / n itself. The bound holds for a rule chosen
            independently of the counts, whereas the search compares many.
        min_support : int, default=10
            Minimum number of background rows under a rule; the empty rule is exempt.

        Returns
        -------
        Anchor
            The rule of the largest coverage that reaches the threshold; if none does, the most
            precise one, with ``found=False``.

        Raises
        ------
        ValueError
            If a threshold, confidence or min_support is out of range, the row has another length,
            text or an unknown category, or no background row has this answer.

        References
        ----------
        Clopper and Pearson (1934). The use of confidence or fiducial limits illustrated in the
        case of the binomial. Biometrika 26.
        """
        score = self._score(threshold, confidence)
        if not min_support >= 1:
            raise ValueError(f"min_support must be 1 or more, got {min_support!r}")
        row = _as_numbers(row, self._names)
        if row.shape != (len(self._names),):
            raise ValueError(f"row must have shape ({len(self._names)},), got {row.shape}")
        agrees = self._agree(prediction)
        floor = min(min_support, len(agrees))
        row_bins = self._to_bins(self._as_rows(row))[:, 0]
        candidates = [self._list_ranges(j, b) for j, b in enumerate(row_bins.tolist())]
        if np.prod([1.0 + len(ranges) for ranges in candidates]) <= self.max_rules:
            n, k, shape = count_all(self._bins, agrees, candidates)
            ties, value = choose(n, k, score, threshold, floor)
            rules = np.column_stack(np.unravel_index(ties, shape))
        else:
            n, k, rules = search(
                self._bins, agrees, candidates, score, threshold, floor, self.beam
            )
            ties, value = choose(n, k, score, threshold, floor)
            rules = rules[ties]
        rule = [(j, *candidates[j][i - 1]) for j, i in enumerate(first_rule(rules)) if i]
        support = int(n[ties[0]])
        held_out = np.ones(len(self.held_out_), dtype=bool)
        for j, low, high in rule:
            held_out &= (self._held_out_bins[j] >= low) & (self._held_out_bins[j] <= high)
        return Anchor(
            names=tuple(
                describe(self._names[j], self._levels.get(j), self.cuts_[j], low, high)
                for j, low, high in rule
            ),
            precision=value,
            coverage=support / len(self.background_),
            support=support,
            threshold=float(threshold),
            found=bool(value >= threshold),
            held_out_precision=self._measure_held_out(held_out, prediction),
        )

    def measure(self, rule, prediction, threshold=0.95, confidence=0.95):
        """
        Measure a given rule on the background and on held-out rows.

        Parameters
        ----------
        rule : sequence of str
            Predicates in the format of `Anchor.names`, all of which must hold: "Age <= 37",
            "20 < Age <= 37", "Age > 20", "Job = clerk", "Age is missing", "Age is not missing".
            Numbers need not be cuts.
        prediction : label
            The answer that the rule should imply.
        threshold, confidence : float
            As for `explain`.

        Returns
        -------
        Anchor
            With the given rule.

        Raises
        ------
        ValueError
            If a predicate or the label is unknown, no background row is under the rule, or the
            threshold or confidence is out of range.
        """
        score = self._score(threshold, confidence)
        agrees = self._agree(prediction)
        if isinstance(rule, str):
            raise ValueError(f"a rule is a list of predicates, got the text {rule!r}")
        under, held_out = (
            np.logical_and.reduce(
                [np.ones(len(rows), dtype=bool)]
                + [find_rows(text, rows, self._names, self._levels) for text in rule]
            )
            for rows in (self.background_, self.held_out_)
        )
        support = int(under.sum())
        if not support:
            raise ValueError(f"no background row is under the rule {' and '.join(rule)}")
        value = float(score(np.array([support]), np.array([(under & agrees).sum()]))[0])
        return Anchor(
            names=tuple(rule),
            precision=value,
            coverage=support / len(self.background_),
            support=support,
            threshold=float(threshold),
            found=bool(value >= threshold),
            held_out_precision=self._measure_held_out(held_out, prediction),
        )

    def save(self, path):
        """
        Write the fitted explainer to a file: arrays and text, no pickle.

        Parameters
        ----------
        path : str or Path
            File to write, in NumPy's npz format.
        """
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "feature_names": self._names,
            "categorical_names": self._levels,
            "quantiles": list(map(float, self.quantiles)),
            "max_rules": self.max_rules,
            "beam": self.beam,
        }
        with Path(path).open("wb") as file:
            np.savez_compressed(
                file,
                header=np.array(json.dumps(header)),
                background=self.background_,
                predictions=self.predictions_,
                held_out=self.held_out_,
                held_out_predictions=self.held_out_predictions_,
            )

    @classmethod
    def load(cls, path):
        """
        Read what `save` wrote.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        AnchorExplainer
            Equivalent to the saved one.

        Raises
        ------
        ValueError
            If the file is not a saved explainer, or has an unsupported version.
        """
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as content:
                arrays = dict(content)
            header = json.loads(str(arrays["header"]))
        except (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
            raise ValueError(f"{path} is not a saved {cls.__name__}") from None
        if (header.get("format"), header.get("version")) != (_FORMAT, _VERSION):
            raise ValueError(
                f"{path} is {header.get('format')!r}, version {header.get('version')!r}; this is "
                f"{_FORMAT!r}, version {_VERSION}: fit the explainer again"
            )
        explainer = cls(
            feature_names=header["feature_names"],
            categorical_names={int(j): v for j, v in header["categorical_names"].items()},
            quantiles=header["quantiles"],
            max_rules=header["max_rules"],
            beam=header["beam"],
        )
        return explainer.fit(
            arrays["background"],
            arrays["predictions"],
            held_out=(arrays["held_out"], arrays["held_out_predictions"]),
        )

    def _score(self, threshold, confidence):
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], got {threshold!r}")
        if confidence is not None and not 0.5 <= confidence < 1:
            raise ValueError(f"confidence must lie in [0.5, 1), got {confidence!r}")
        if confidence is None or threshold == 1:
            return _precision
        return partial(_lower_bound, confidence=confidence)

    def _agree(self, prediction):
        """Return a mask of the background rows with an answer, of which there must be some."""
        known = self.predictions_
        if isinstance(prediction, str) != (known.dtype.kind == "U"):
            raise ValueError(
                f"prediction {prediction!r} and the background's, such as "
                f"{known.tolist()[0]!r}, are not both text or both numbers"
            )
        agrees = known == prediction
        if not agrees.any():
            labels = ", ".join(map(repr, np.unique(known).tolist()[:20]))
            raise ValueError(
                f"prediction {prediction!r} is not the answer to any background row; "
                f"those are {labels}"
            )
        return agrees

    def _as_rows(self, rows):
        rows = _as_numbers(rows, self._names).reshape(-1, len(self._names))
        for j, levels in self._levels.items():
            column = rows[:, j]
            unknown = ~(np.isnan(column) | np.isin(column, np.arange(len(levels))))
            if unknown.any():
                raise ValueError(
                    f"{self._names[j]!r} is {column[unknown][0]:g}, which is not a position among "
                    f"its {len(levels)} categories"
                )
        return rows

    def _cut(self, j):
        column = self.background_[:, j]
        column = column[~np.isnan(column)]
        if j in self._levels or not len(column):
            return np.empty(0)
        cuts, values = _find_cuts(column, self.quantiles), np.unique(column)
        values_of_bin = np.bincount(cuts.searchsorted(values))
        if values_of_bin.max() > _SKEWED * len(values):
            cuts = np.union1d(cuts, _find_cuts(values, self.quantiles))
        return cuts

    def _to_bins(self, rows):
        """Convert values to the numbers of their categories or intervals; the last is missing."""
        bins = np.empty(rows.shape[::-1], dtype=np.int32)
        for j, column in enumerate(rows.T):
            if j in self._levels:
                bins[j] = np.nan_to_num(column, nan=len(self._levels[j]))
            else:  # NaN sorts after all cuts, into the last interval
                bins[j] = np.searchsorted(self.cuts_[j], column) + np.isnan(column)
        return bins

    def _list_ranges(self, j, b):
        """List the ranges of bins around bin b that contain some, but not all, background rows."""
        last = len(self.cuts_[j])
        if j in self._levels or b > last:  # a category, or missing
            ranges = [(b, b)]
        else:
            ranges = [(low, high) for low in range(b + 1) for high in range(b, last + 1)]
        below = self._below[j]
        rows = {(low, high): below[high + 1] - below[low] for low, high in ranges}
        useful = [bounds for bounds in ranges if 0 < rows[bounds] < len(self.background_)]
        return sorted(useful, key=lambda bounds: (-rows[bounds], bounds))

    def _measure_held_out(self, under, prediction):
        if not under.any():
            return None
        return float((self.held_out_predictions_[under] == prediction).mean())


def _as_numbers(rows, names):
    """Convert rows to float64; raise an error that names a text cell."""
    try:
        return np.array(rows, dtype=float)
    except (TypeError, ValueError) as error:
        cells = np.array(rows, dtype=object)
        for position, cell in np.ndenumerate(cells):
            if not isinstance(cell, str):
                continue
            j = position[-1]
            name = f"column {j}" if names is None or j >= len(names) else repr(names[j])
            raise ValueError(
                f"{name} contains the text {cell!r}; encode categories as positions in the rows, "
                "and pass their names as categorical_names"
            ) from None
        raise ValueError(f"rows must be numeric: {error}") from None


def _find_cuts(values, quantiles):
    cuts = np.unique(np.percentile(values, quantiles, method="inverted_cdf"))
    return cuts[cuts < values.max()]  # no value is above a cut at the maximum


def _as_labels(predictions, n):
    labels = np.array(list(predictions))  # converts text of dtype object to str
    if labels.shape != (n,):
        raise ValueError(f"predictions have shape {labels.shape}, but there are {n} rows")
    if labels.dtype.kind not in "biufU":
        raise ValueError(f"predictions must be numbers or text, got {labels.dtype}")
    return labels


def _precision(n, k):
    return k / n


def _lower_bound(n, k, confidence):
    try:
        from scipy.special import betaincinv
    except ImportError:
        raise ImportError(
            "a confidence bound needs SciPy; install it, or pass confidence=None"
        ) from None
    bound = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, 1 - confidence), 0.0)
    return np.floor(bound * 1e9) / 1e9  # rounded down, so that all machines agree
