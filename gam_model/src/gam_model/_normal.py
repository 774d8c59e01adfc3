"""
Normal equations of one weighted least-squares problem, and their solution.

Levels of one categorical column never meet in a row, so their part of the equations is diagonal.
It is eliminated first, by a Schur complement: time and memory grow linearly with the levels.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cholesky, eigh, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import nnls

_SMALLEST_PIVOT = 1e-13  # of a matrix with a unit diagonal; below it, columns are collinear
_ROUNDING = 1e-12  # of z'Wz: what a difference of sums can't tell from 0


class Arrowhead(NamedTuple):
    """
    The symmetric matrix [[dense, cross'], [cross, diag(own)]].

    dense has shape (k, k), cross (m, k) and own (m,).
    """

    dense: np.ndarray
    cross: np.ndarray
    own: np.ndarray

    def diagonal(self):
        """Return the diagonal, an ndarray of shape (k + m,)."""
        return np.append(self.dense.diagonal(), self.own)

    def fill(self):
        """Return all of it, an ndarray of shape (k + m, k + m)."""
        return np.block([[self.dense, self.cross.T], [self.cross, np.diag(self.own)]])

    def dot(self, vector):
        """Multiply by an ndarray of shape (k + m,)."""
        k = len(self.dense)
        top, bottom = vector[:k], vector[k:]
        return np.append(
            self.dense @ top + self.cross.T @ bottom, self.cross @ top + self.own * bottom
        )


class Inverse(NamedTuple):
    """
    The inverse V of an arrowhead matrix.

    [[dense, -dense shift'], [-shift dense, diag(own) + shift dense shift']], with the shapes of
    `Arrowhead`: a row at level l is one of the dense part, less shift[l], with a variance of
    own[l] of its own.
    """

    dense: np.ndarray
    shift: np.ndarray
    own: np.ndarray

    def diagonal(self):
        """Return the diagonal, an ndarray of shape (k + m,)."""
        return np.append(self.dense.diagonal(), self.own + self._level_variances())

    def fill(self):
        """Return all of it, an ndarray of shape (k + m, k + m)."""
        return self.dot(np.eye(len(self.dense) + len(self.own)))

    def dot(self, vectors):
        """Multiply by an ndarray of shape (k + m, q)."""
        k = len(self.dense)
        top = self.dense @ (vectors[:k] - self.shift.T @ vectors[k:])
        return np.concatenate([top, self.own[:, None] * vectors[k:] - self.shift @ top])

    def overlap(self, basis):
        """
        Return tr(V S_j V S_k) for each two penalties.

        Parameters
        ----------
        basis : Basis
            Has the penalties S_j.

        Returns
        -------
        ndarray of shape (n_penalties, n_penalties)
        """
        k = len(self.dense)
        penalties = basis.scatter(np.ones(len(basis.owners)))[:k]
        overlap = penalties.T @ (self.dense**2 @ penalties)
        if len(self.own):
            last = np.flatnonzero(basis.owners == basis.last)[0]
            product = self.dense @ (self.shift.T @ self.shift)
            crossed = penalties.T @ np.einsum("ij,ji->i", product, self.dense)
            overlap[last] += crossed
            overlap[:, last] += crossed
            overlap[last, last] += (
                self.own @ self.own
                + 2 * self.own @ self._level_variances()
                + np.sum(product * product.T)
            )
        return overlap

    def sandwich(self, penalty):
        """Return the diagonal of V diag(penalty) V, an ndarray of shape (k + m,)."""
        k = len(self.dense)
        top, bottom = penalty[:k], penalty[k:]
        reach = self.shift @ self.dense
        shared = self.shift.T @ (bottom[:, None] * self.shift)
        return np.append(
            self.dense**2 @ top + bottom @ reach**2,
            reach**2 @ top
            + self.own * bottom * (self.own + 2 * self._level_variances())
            + np.einsum("ij,ij->i", reach @ shared, reach),
        )

    def _level_variances(self):
        return np.einsum("ij,ij->i", self.shift @ self.dense, self.shift)


class Normal(NamedTuple):
    """
    Normal equations of one weighted least-squares problem.

    With W the working weights and z the working response: gram = B'WB, an `Arrowhead`;
    moment = B'Wz; square = z'Wz; deviance is that of the coefficients at which W and z were worked
    out; means are those of the functions, by prior weight; n_rows is the number of rows.
    """

    gram: Arrowhead
    moment: np.ndarray
    square: float
    deviance: float
    means: np.ndarray
    n_rows: float

    @property
    def is_finite(self):
        """Whether no sum has overflowed."""
        sums = self.deviance, self.square, self.gram.dense.sum(), self.moment.sum()
        return bool(np.isfinite(sums).all())


def expand(family, link, eta, y, weight):
    """
    Work out the quadratic that P-IRLS puts in the place of the deviance.

    Parameters
    ----------
    family : Family
        Distribution of the response.
    link : Link
        Its link.
    eta, y, weight : ndarray of shape (n,)
        Where to expand, with the offset; response; prior weights.

    Returns
    -------
    working : ndarray of shape (n,)
        Working weights.
    residual : ndarray of shape (n,)
        Working residuals, z + offset - eta.
    deviance : float
        Sum over these rows.
    """
    mu = np.clip(link.inverse(eta), *family.bounds)
    slope, variance = link.derivative(mu), family.variance(mu)
    residual = slope * (y - mu if family.pull is None else family.pull(y, mu))
    working = weight / variance / slope**2
    deviance = float(weight @ family.unit_deviance(y, mu))
    if np.isfinite(family.bounds).all():
        # Of a row far on the wrong side it grows on, as its slope says.
        beyond = eta - np.clip(eta, *link.link(np.array(family.bounds)))
        if beyond.any():
            deviance -= 2 * float((working * residual) @ beyond)
    return working, residual, deviance


class Solution(NamedTuple):
    """
    Minimiser of square - 2 b'moment + b'(gram + diag(penalty)) b.

    inverse = (gram + diag(penalty))^-1, or the pseudo-inverse where columns are collinear;
    determined is the diagonal of inverse (gram + diag(penalty)), which then is less than 1;
    log_det is the logarithm of the determinant of gram + diag(penalty).
    """

    coef: np.ndarray
    inverse: Inverse
    determined: np.ndarray
    log_det: float


def solve(normal, penalty):
    """
    Solve (gram + diag(penalty)) b = moment.

    Parameters
    ----------
    normal : Normal
        The normal equations.
    penalty : ndarray of shape (n_coef,)
        Added to their diagonal; positive for what is eliminated.

    Returns
    -------
    Solution
        Of least norm, in units in which the matrix has a unit diagonal, if columns are collinear.
    """
    gram, k = normal.gram, len(normal.gram.dense)
    own = 1 / (gram.own + penalty[k:])
    shift = gram.cross * own[:, None]
    matrix = gram.dense + np.diag(penalty[:k])
    moment = normal.moment[:k]
    if len(own):
        matrix -= gram.cross.T @ shift
        moment = moment - shift.T @ normal.moment[k:]
    diagonal = matrix.diagonal()
    unit = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
    scaled = matrix * unit * unit[:, None]
    determined = np.ones(len(normal.moment))
    try:
        factor = cholesky(scaled, lower=True)
        pivots = factor.diagonal() ** 2
        if pivots.min() < _SMALLEST_PIVOT:
            raise LinAlgError
        inverse, _ = dpotri(factor, lower=True)
        inverse = inverse + inverse.T  # above the diagonal there are zeros
        inverse.flat[:: k + 1] /= 2
    except LinAlgError:
        values, vectors = eigh(scaled)
        good = values > _SMALLEST_PIVOT * values[-1]
        pivots, vectors = values[good], vectors[:, good]
        inverse = (vectors / pivots) @ vectors.T
        determined[:k] = np.einsum("ij,ij->i", vectors, vectors)
    coef = inverse @ (unit * moment)
    coef += inverse @ (unit * moment - scaled @ coef)  # what the inverse's rounding left
    coef = unit * coef
    log_det = np.log(pivots).sum() - 2 * np.log(unit).sum() - np.log(own).sum()
    return Solution(
        np.append(coef, own * normal.moment[k:] - shift @ coef),
        Inverse(inverse * unit * unit[:, None], shift, own),
        determined,
        float(log_det),
    )


def satisfy(solution, constraints):
    """
    Return the coefficients under which the equations lose least, of those within constraints.

    The minimum of (b - coef)' V^-1 (b - coef) over A b >= 0 is at b = coef + V A'm, where m is not
    negative and m'A V A'm + 2 m'A coef least.

    Parameters
    ----------
    solution : Solution
        The unconstrained one, coef, with V its inverse.
    constraints : ndarray of shape (n_constraints, n_coef)
        A.

    Returns
    -------
    ndarray of shape (n_coef,)

    References
    ----------
    Lawson and Hanson (1995), "Solving Least Squares Problems", chapter 23.
    """
    slack = constraints @ solution.coef
    if not (slack < 0).any():
        return solution.coef
    reach = solution.inverse.dot(constraints.T)
    metric = constraints @ reach
    unit = 1 / np.sqrt(metric.diagonal())
    metric = metric * unit * unit[:, None] + _SMALLEST_PIVOT * len(unit) * np.eye(len(unit))
    root = cholesky(metric)
    pull, _ = nnls(root, -solve_triangular(root, slack * unit, trans="T"))
    return solution.coef + reach @ (unit * pull)


def residual_square(normal, coef):
    """
    Work out (z - Bb)' W (z - Bb) from the sums.

    Parameters
    ----------
    normal : Normal
        The normal equations.
    coef : ndarray of shape (n_coef,)
        Any coefficients.

    Returns
    -------
    float
        At least 1e-12 of z'Wz; what is smaller is the rounding of the sums.
    """
    rss = normal.square - 2 * coef @ normal.moment + coef @ normal.gram.dot(coef)
    return float(max(rss, _ROUNDING * normal.square))


def penalised_square(normal, coef):
    """
    Work out (z - Bb)' W (z - Bb) + b' penalty b at the minimiser.

    Parameters
    ----------
    normal : Normal
        The normal equations.
    coef : ndarray of shape (n_coef,)
        Their solution.

    Returns
    -------
    float
        Plus 1e-10 of z'Wz: no fit is so exact that smoothing could be chosen by what it leaves.
    """
    return float(max(normal.square - coef @ normal.moment, 0) + max(1e-10 * normal.square, 1e-200))
