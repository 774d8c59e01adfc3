"""Anchors: the widest rule on a row's features under which the model's answer stays the same."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from explainers._rules import choose, count_all, first_rule, search

_FORMAT, _VERSION = "explainers.AnchorExplainer", 1


@dataclass(frozen=True)
class Anchor:
    """
    A rule that holds for one row, and how well it speaks for the model.

    Parameters
    ----------
    names : tuple of str
        The rule's predicates, in the order of the features; all must hold. No predicate is the
        rule that holds for every row.
    precision : float
        Share of the background rows under the rule to which the model gives the row's answer;
        its lower confidence bound where one was asked for.
    coverage : float
        Share of the background rows under the rule.
    support : int
        Number of background rows under the rule.
    threshold : float
        The precision that was asked for.
    found : bool
        Whether `precision` reaches `threshold`; if not, no rule does, and this is the most
        precise one.
    held_out_precision : float or None
        The share as in `precision`, among held-out rows; None where none is under the rule.

    Examples
    --------
    >>> ages, answers = [[20], [30], [40], [50]], ["no", "no", "yes", "yes"]
    >>> anchor = AnchorExplainer(["Age"]).fit(ages, answers).explain([45], "yes")
    >>> " and ".join(anchor.names)
    'Age > 30'
    >>> anchor.precision, anchor.coverage, anchor.support
    (1.0, 0.5, 2)
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
    Anchor rules over a background whose predictions are known.

    For a row x with answer y, and over the rules A that hold for x, `explain` finds

        argmax coverage(A)  subject to  precision(A) >= threshold,
        coverage(A) = n(A) / n,    precision(A) = k(A) / n(A),

    where n(A) of the n background rows are under A, and the model answers k(A) of them with y.
    A rule has at most one predicate per feature: an equality for a categorical one, and for a
    numeric one an interval between quantiles of the background, open to one side or bounded on
    both.

    Ties in coverage go to the more precise rule, then to the shorter, then to the one whose
    features come first, so equal input gives an equal anchor. The model is never asked.

    Parameters
    ----------
    feature_names : sequence of str, optional
        Names of the columns; x0, x1, ... if not given.
    categorical_names : mapping of int to sequence of str, optional
        Column of a categorical feature -> its categories. Rows hold the categories' positions.
    quantiles : sequence of float, default=(25, 50, 75)
        Percentages at which numeric features are cut. The cuts are values of the background
        (the inverse of its empirical distribution), and so the same on every machine.
    max_rules : int, default=262144
        Up to so many candidate rules of one row are all counted. Beyond, a beam search looks for
        a good rule, which need not be the best; its counts are as exact.
    beam : int, default=32
        Number of rules that the beam search carries from one length to the next.

    Attributes
    ----------
    background_ : ndarray of shape (n_background, n_features), float64
        The rows among which rules are searched and counted.
    predictions_ : ndarray of shape (n_background,)
        The model's answers to them.
    held_out_ : ndarray of shape (n_held_out, n_features), float64
        The rows on which precision is measured again.
    held_out_predictions_ : ndarray of shape (n_held_out,)
        The model's answers to them.
    cuts_ : list of ndarray
        Cuts of each feature, in its units; empty for categorical and constant ones.

    Notes
    -----
    Missing values (NaN) are a category of their own, also of a numeric feature: a row with one
    may get the predicate "Age is missing", and an interval holds for no missing value. A
    predicate that holds for every background row, as any on a constant feature, or for none, as
    a category that only the request knows, is no candidate. Where the background knows one answer
    only, the anchor is the empty rule, with precision 1 for that answer and 0 for any other.

    A precision is measured on the rows that chose its rule and flatters it a little, and more so
    if the model has learned from these rows. Hold rows out to see by how much, or ask for
    a `confidence`.

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
    >>> explainer.fit(X, answers).explain([25, 0], "no", threshold=0.99)
    ... # doctest: +NORMALIZE_WHITESPACE
    Anchor(names=('Status = single',), precision=1.0, coverage=0.5, support=40, threshold=0.99,
           found=True, held_out_precision=None)
    >>> explainer.explain([52, 1], "yes", threshold=0.99).names
    ('Age > 29', 'Status = married')
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
        Learn the quantiles of a background, and what the model answers to it.

        Parameters
        ----------
        background : array-like of shape (n_samples, n_features)
            Rows of numbers; of a categorical feature, positions of categories. NaN is missing.
        predictions : array-like of shape (n_samples,)
            The model's answer to each row: labels, as numbers or text.
        held_out : float or (array-like, array-like), default=0.0
            Rows on which the precision of every anchor is measured again: either a share of the
            background, in [0, 1), which is then not searched, or rows and predictions apart;
            best rows from which the model has not learned.

        Returns
        -------
        AnchorExplainer
            Itself.

        Raises
        ------
        ValueError
            If the shapes do not fit together, or a cell is no position of a category.
        """
        background = np.asarray(background, dtype=float)
        if background.ndim != 2 or 0 in background.shape:
            raise ValueError(f"background must be (n_samples, n_features), got {background.shape}")
        names, p = self.feature_names, background.shape[1]
        if names is not None and len(names) != p:
            raise ValueError(f"there are {len(names)} feature_names for {p} columns")
        for j in self.categorical_names or {}:
            if j not in range(p):
                raise ValueError(f"categorical_names has {j!r}, which is no index of {p} columns")
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
            # RandomState's stream is frozen: the same rows are held out by every NumPy.
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

    def explain(self, row, prediction, threshold=0.95, confidence=None):
        """
        Find the anchor of one row.

        Parameters
        ----------
        row : array-like of shape (n_features,)
            As a row of the background.
        prediction : label
            The model's answer to the row.
        threshold : float, default=0.95
            Precision that the rule must reach, in (0, 1).
        confidence : float, optional
            In [0.5, 1): put the one-sided Clopper-Pearson lower bound at this confidence,

                the (1 - confidence) quantile of Beta(k, n - k + 1)    (0 if k = 0),

            in the place of k / n. It holds for a rule chosen without looking at the counts; the
            search looks at many. Needs SciPy.

        Returns
        -------
        Anchor
            The rule of the largest coverage that reaches the threshold; if none does, the most
            precise one, with ``found=False``.

        Raises
        ------
        ValueError
            If the threshold or the confidence is out of range, or the row has another length or a
            category that is not known.

        References
        ----------
        Clopper and Pearson (1934). The use of confidence or fiducial limits illustrated in the
        case of the binomial. Biometrika 26.
        """
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {threshold!r}")
        if confidence is not None and not 0.5 <= confidence < 1:
            raise ValueError(f"confidence must lie in [0.5, 1), got {confidence!r}")
        row = np.asarray(row, dtype=float)
        if row.shape != (len(self._names),):
            raise ValueError(f"row must have shape ({len(self._names)},), got {row.shape}")
        if isinstance(prediction, str) != (self.predictions_.dtype.kind == "U"):
            raise ValueError(
                f"prediction {prediction!r} and the background's, such as "
                f"{self.predictions_.tolist()[0]!r}, are not both text or both numbers"
            )
        row_bins = self._to_bins(self._as_rows(row))[:, 0]
        candidates = [self._list_ranges(j, b) for j, b in enumerate(row_bins.tolist())]
        agrees = self.predictions_ == prediction
        score = _precision if confidence is None else partial(_lower_bound, confidence=confidence)
        if np.prod([1.0 + len(ranges) for ranges in candidates]) <= self.max_rules:
            n, k, shape = count_all(self._bins, agrees, candidates)
            ties, value = choose(n, k, score, threshold)
            rules = np.column_stack(np.unravel_index(ties, shape))
        else:
            n, k, rules = search(self._bins, agrees, candidates, score, threshold, self.beam)
            ties, value = choose(n, k, score, threshold)
            rules = rules[ties]
        rule = [(j, *candidates[j][i - 1]) for j, i in enumerate(first_rule(rules)) if i]
        support = int(n[ties[0]])
        return Anchor(
            names=tuple(self._describe(*predicate) for predicate in rule),
            precision=value,
            coverage=support / len(self.background_),
            support=support,
            threshold=float(threshold),
            found=value >= threshold,
            held_out_precision=self._measure_held_out(rule, prediction),
        )

    def save(self, path):
        """
        Write the fitted explainer to a file: arrays and text, no pickle.

        Parameters
        ----------
        path : str or Path
            Where to write NumPy's npz.
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
            One that explains as the saved one does.

        Raises
        ------
        ValueError
            If the file is no explainer, or of a version that is not known here.
        """
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as content:
                arrays = dict(content)
            header = json.loads(str(arrays["header"]))
        except (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
            raise ValueError(f"{path} is no saved {cls.__name__}") from None
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

    def _as_rows(self, rows):
        rows = np.array(rows, dtype=float).reshape(-1, len(self._names))
        for j, levels in self._levels.items():
            column = rows[:, j]
            unknown = ~(np.isnan(column) | np.isin(column, np.arange(len(levels))))
            if unknown.any():
                raise ValueError(
                    f"{self._names[j]!r} is {column[unknown][0]:g}, which is no position among "
                    f"its {len(levels)} categories"
                )
        return rows

    def _cut(self, j):
        column = self.background_[:, j]
        column = column[~np.isnan(column)]
        if j in self._levels or not len(column):
            return np.empty(0)
        cuts = np.unique(np.percentile(column, self.quantiles, method="inverted_cdf"))
        return cuts[cuts < column.max()]  # nothing lies above a cut at the maximum

    def _to_bins(self, rows):
        """Turn values into the numbers of their categories or intervals; missing is the last."""
        bins = np.empty(rows.shape[::-1], dtype=np.int32)
        for j, column in enumerate(rows.T):
            if j in self._levels:
                bins[j] = np.nan_to_num(column, nan=len(self._levels[j]))
            else:  # NaN is sorted behind the cuts, where the last interval is
                bins[j] = np.searchsorted(self.cuts_[j], column) + np.isnan(column)
        return bins

    def _list_ranges(self, j, b):
        """List the ranges of bins around bin b that some background rows are in, and some not."""
        last = len(self.cuts_[j])
        if j in self._levels or b > last:  # a category, or missing
            ranges = [(b, b)]
        else:
            ranges = [(low, high) for low in range(b + 1) for high in range(b, last + 1)]
        below = self._below[j]
        rows = {(low, high): below[high + 1] - below[low] for low, high in ranges}
        useful = [bounds for bounds in ranges if 0 < rows[bounds] < len(self.background_)]
        return sorted(useful, key=lambda bounds: (-rows[bounds], bounds))

    def _describe(self, j, low, high):
        name, cuts = self._names[j], self.cuts_[j]
        if j in self._levels:
            levels = self._levels[j]
            return f"{name} = {levels[low]}" if low < len(levels) else f"{name} is missing"
        if low > len(cuts):
            return f"{name} is missing"
        text = name if low == 0 else f"{_format(cuts[low - 1])} < {name}"
        if high < len(cuts):
            return f"{text} <= {_format(cuts[high])}"
        return f"{name} > {_format(cuts[low - 1])}" if low else f"{name} is not missing"

    def _measure_held_out(self, rule, prediction):
        under = np.ones(len(self.held_out_), dtype=bool)
        for j, low, high in rule:
            under &= (self._held_out_bins[j] >= low) & (self._held_out_bins[j] <= high)
        if not under.any():
            return None
        return float((self.held_out_predictions_[under] == prediction).mean())


def _as_labels(predictions, n):
    labels = np.array(list(predictions))  # text out of pandas is text here, and no object
    if labels.shape != (n,):
        raise ValueError(f"there are predictions of shape {labels.shape} for {n} rows")
    if labels.dtype.kind not in "biufU":
        raise ValueError(f"predictions must be numbers or text, got {labels.dtype}")
    return labels


def _format(value):
    """Write a cut so that it reads back as the same number."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _precision(n, k):
    return k / n


def _lower_bound(n, k, confidence):
    try:
        from scipy.special import betaincinv
    except ImportError:
        raise ImportError(
            "a confidence needs SciPy; pip install 'explainers[confidence]'"
        ) from None
    bound = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, 1 - confidence), 0.0)
    return np.floor(bound * 1e9) / 1e9  # down, and past the digits in which machines may differ
