"""The fitted model, frozen: an intercept, one centred function per feature, and pairs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from gam_model._links import LINKS
from gam_model._pairs import PairTerm
from gam_model._terms import LevelTerm, SmoothTerm

FORMAT = "gam_model.AdditiveModel"
VERSION = 4
_PLAIN = 2  # version of a file without the arguments below, which older readers can read
_SINCE_3 = frozenset({"atoms"})
_CHUNK = 16_384  # rows: bounds memory, and a column fits in a core's cache


@dataclass(frozen=True, eq=False)
class AdditiveModel:
    """
    A fitted additive model for serving, without the estimator's validation.

    g(mu) = eta(x) = intercept + sum_j f_j(x_j) + sum_jk f_jk(x_j, x_k) + offset, summed in the
    order of `terms` and `pairs`, so that a row's answer is the same to the last bit whichever rows
    come with it.

    Parameters
    ----------
    intercept : float
        Mean eta over the training rows.
    terms : sequence of SmoothTerm or LevelTerm
        The functions; a feature without a term contributes 0.
    features : sequence of str
        Names of the columns of X.
    link : str, default="identity"
        Name of the link g.
    pairs : sequence of PairTerm, default=()
        What two features do together.

    Examples
    --------
    >>> square = SmoothTerm(1, "age", knots=[0, 0, 0, 1, 1, 1], coef=[0, 0, 1])
    >>> model = AdditiveModel(intercept=10.0, terms=[square], features=["id", "age"])
    >>> model.predict([[7.0, 0.5]])
    array([10.25])
    >>> model.contributions([[7.0, 0.5]])
    array([[0.  , 0.25]])
    """

    intercept: float
    terms: Sequence
    features: Sequence[str]
    link: str = "identity"
    pairs: Sequence = ()

    def __post_init__(self):
        """Freeze the sequences."""
        for name in ("terms", "features", "pairs"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def levels(self):
        """Levels of each categorical feature, a dict of str to tuple: code k is the k-th."""
        return {term.name: term.levels for term in self.terms if isinstance(term, LevelTerm)}

    @property
    def missing(self):
        """Names of the features that had missing cells in training, a list of str."""
        return [term.name for term in self.terms if term.missing is not None]

    @property
    def pair_names(self):
        """Name of each of `pairs`, a list of str such as "a & b"."""
        return [pair.name for pair in self.pairs]

    @property
    def units(self):
        """What each feature of days is, a dict of str to "date" or "duration"."""
        smooth = (term for term in self.terms if isinstance(term, SmoothTerm))
        return {term.name: term.unit for term in smooth if term.unit}

    @property
    def unused(self):
        """Names of the features without a term, a list of str; their values are ignored."""
        used = {term.feature for term in self.terms}
        return [name for j, name in enumerate(self.features) if j not in used]

    def eta(self, X, offset=None):
        """
        Predict on the scale of the link.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Numbers: codes for categorical features, days since 1970-01-01 UTC for dates, NaN for
            missing cells.
        offset : array-like of shape (n_samples,), optional
            Added to eta, as the log of the exposure with the log link; by default 0.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            eta, on the scale of the link.

        Raises
        ------
        ValueError
            If `X` or `offset` has another shape, or `X` lies outside the training range and
            extrapolate="error".
        """
        X = self._as_rows(X)
        if len(X) == 1:
            (row,), total = X.tolist(), self.intercept
            for term in self.terms:
                total += term.at(row[term.feature])
            for pair in self.pairs:
                j, k = pair.features
                total += pair.at(row[j], row[k])
            eta = np.array([total])
            return eta if offset is None else eta + _as_offset(offset, 1)
        eta = np.full(len(X), self.intercept)
        for start in range(0, len(X), _CHUNK):
            rows = slice(start, start + _CHUNK)
            columns = np.ascontiguousarray(X[rows].T)
            for term in self.terms:
                eta[rows] += term(columns[term.feature])
            for pair in self.pairs:
                j, k = pair.features
                eta[rows] += pair(columns[j], columns[k])
        return eta if offset is None else eta + _as_offset(offset, len(X))

    def predict(self, X, offset=None):
        """
        Predict the mean response.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `eta`.
        offset : array-like of shape (n_samples,), optional
            As in `eta`.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            mu, in the units of y; finite.

        Raises
        ------
        ValueError
            As for `eta`; also if the mu of a row is not finite, as beyond the pole of the inverse
            link, or where the log link overflows.
        """
        eta, link = self.eta(X, offset), LINKS[self.link]
        # Fast path for a single row, which is common and where NumPy is slow.
        if not (link.reaches(eta.item()) if len(eta) == 1 else link.reaches(eta).all()):
            self._refuse_unreached(X, eta, link)
        return link.inverse(eta)

    def contributions(self, X):
        """
        Split each prediction into the contributions of the features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `eta`.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float64
            f_j(x_ij), and half of each pair's function, on the scale of the link; `intercept`
            plus the sum of a row is its eta.

        Raises
        ------
        ValueError
            As `eta`.

        Notes
        -----
        These are the SHAP values with the training rows as background. Of a pair, feature j gets

            1/2 [f_jk(x_j, x_k) - mean_b f_jk(b_j, x_k) + mean_b f_jk(x_j, b_k) - mean_b f_jk(b)]

        over the rows b. As the function's average over either feature is a constant c, and its
        mean over the rows 0, both get half of f_jk(x_j, x_k).
        """
        X = self._as_rows(X)
        values = np.zeros(X.shape)
        if len(X) == 1:
            (row,), (contributions,) = X.tolist(), values
            for term in self.terms:
                contributions[term.feature] = term.at(row[term.feature])
            for pair in self.pairs:
                j, k = pair.features
                half = pair.at(row[j], row[k]) / 2
                contributions[j] += half
                contributions[k] += half
            return values
        for start in range(0, len(X), _CHUNK):
            rows = slice(start, start + _CHUNK)
            columns = np.ascontiguousarray(X[rows].T)
            for term in self.terms:
                values[rows, term.feature] = term(columns[term.feature])
            for pair in self.pairs:
                j, k = pair.features
                half = pair(columns[j], columns[k]) / 2
                values[rows, j] += half
                values[rows, k] += half
        return values

    def interaction_contributions(self, X):
        """
        Evaluate what features contribute in pairs.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `eta`.

        Returns
        -------
        ndarray of shape (n_samples, n_pairs), float64
            f_jk(x_ij, x_ik) of each of `pairs`, on the scale of the link. `contributions` has half
            of it in either feature; without these halves, a feature's own f_j is left.

        Raises
        ------
        ValueError
            If `X` has another shape.
        """
        X = self._as_rows(X)
        values = np.empty((len(X), len(self.pairs)))
        for column, pair in zip(values.T, self.pairs, strict=True):
            j, k = pair.features
            column[:] = pair(X[:, j], X[:, k])
        return values

    def _refuse_unreached(self, X, eta, link):
        row = int(link.reaches(eta).argmin())
        parts = self.contributions(np.asarray(X, dtype=float)[[row]])[0]
        cause = ""
        if parts.any():
            j = int(np.nanargmax(np.where(np.isnan(parts), np.inf, abs(parts))))
            cause = f", most of it from {self.features[j]!r}"
        low, high = link.domain
        raise ValueError(
            f"row {row} is so far outside the training range that its mean is not finite: its eta "
            f"is {eta[row]:g}{cause}, but link={self.link!r} needs {low:g} < eta < {high:g}"
        )

    def _as_rows(self, X):
        X = np.asarray(X, dtype=float)
        if X.ndim != 2 or X.shape[1] != len(self.features):
            raise ValueError(f"X must have shape (n_samples, {len(self.features)}), got {X.shape}")
        return X

    def save(self, path):
        """
        Save the model as JSON, which needs no pickle and loads in any later version.

        Parameters
        ----------
        path : str or Path
            The file; its usual ending is .json.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "gam.json")
        >>> AdditiveModel(2.5, terms=[], features=["age"]).save(path)
        >>> AdditiveModel.load(path).predict([[41.0]])
        array([2.5])
        """
        Path(path).write_text(self.to_json(), encoding="utf-8")

    def to_json(self):
        """
        Return the text of the file that `save` writes.

        Returns
        -------
        str
            JSON, with a line end.
        """
        terms = [_describe(term) for term in self.terms]
        version = _PLAIN if all(_SINCE_3.isdisjoint(term) for term in terms) else 3
        cyclic = any(term.get("extrapolate") == "cyclic" for term in terms)
        terms += [_describe_pair(pair) for pair in self.pairs]
        content = {
            "format": FORMAT,
            "version": VERSION if self.pairs or cyclic else version,
            "link": self.link,
            "intercept": self.intercept,
            "features": list(self.features),
            "terms": terms,
        }
        text = json.dumps(
            content, allow_nan=False, separators=(",", ":"), default=np.ndarray.tolist
        )
        return text + "\n"

    @classmethod
    def load(cls, path):
        """
        Read a model that `save` wrote.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        AdditiveModel
            Its predictions are bit for bit those of the saved model.

        Raises
        ------
        ValueError
            If the file is not such a model, or of a newer version.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise KeyError("format")
            if content["version"] > VERSION:
                raise ValueError(
                    f"{path} has version {content['version']} of the format, this gam_model "
                    f"reads up to {VERSION}; install a newer gam_model"
                )
            kinds = {"smooth": SmoothTerm, "levels": LevelTerm, "pair": PairTerm}
            terms = [kinds[term.pop("kind")](**term) for term in content["terms"]]
            pairs = [term for term in terms if isinstance(term, PairTerm)]
            terms = terms[: len(terms) - len(pairs)]  # pairs come last
            return cls(content["intercept"], terms, content["features"], content["link"], pairs)
        except (KeyError, TypeError, AttributeError, UnicodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a model that gam_model saved: {error!r}") from error


def _describe(term):
    """Return what is saved of a term; what is newer than the format's version 2, where it is."""
    kind = "levels" if isinstance(term, LevelTerm) else "smooth"
    values = {field.name: getattr(term, field.name) for field in fields(term)}
    return {"kind": kind} | {
        name: value for name, value in values.items() if name not in _SINCE_3 or value is not None
    }


def _describe_pair(pair):
    """Return what is saved of a pair."""
    values = {field.name: getattr(pair, field.name) for field in fields(pair)}
    margins = [margin.describe() for margin in pair.margins]
    return {"kind": "pair"} | values | {"margins": margins}


def _as_offset(offset, n_rows):
    offset = np.asarray(offset, dtype=float)
    if offset.shape != (n_rows,):
        raise ValueError(f"offset must have shape ({n_rows},), got {offset.shape}")
    return offset
