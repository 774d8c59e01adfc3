"""
Streamed penalised least squares, and penalised iteratively reweighted least squares on top of it.

    minimise  sum_i w_i d(y_i, mu_i) + sum_j lambda_j b_j' S_j b_j
    with      g(mu_i) = offset_i + b_0 + sum_j B_j(x_ij) b_j

Rows pass by in chunks and leave only sums behind, so memory does not grow with their number.
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cholesky, eigh
from scipy.linalg.lapack import dpotri
from sklearn.exceptions import ConvergenceWarning

from gam_model._rows import CHUNK

_SEPARATED = 1e-4  # of the deviance at the start: what is left where the classes are told apart
_SMALLEST_PIVOT = 1e-13  # of a matrix with a unit diagonal; below it, columns are collinear


class Normal(NamedTuple):
    """
    Normal equations of one weighted least-squares problem.

    With W the working weights and z the working response: gram = B'WB, moment = B'Wz,
    square = z'Wz; deviance is that of the coefficients at which W and z were worked out; means
    are those of all columns of the basis, and n_rows the number of rows, by prior weight.
    """

    gram: np.ndarray
    moment: np.ndarray
    square: float
    deviance: float
    means: np.ndarray
    n_rows: float


class Solution(NamedTuple):
    """
    Minimiser of square - 2 b'moment + b'(gram + diag(penalty)) b.

    inverse = (gram + diag(penalty))^-1, or the pseudo-inverse where columns are collinear.
    """

    coef: np.ndarray
    inverse: np.ndarray


def accumulate(rows, family, link, coef=None):
    """
    Sum up the normal equations of one P-IRLS step.

    w = weight / (g'(mu)^2 V(mu)),  z = eta - offset + g'(mu) (y - mu)

    Parameters
    ----------
    rows : Rows
        Passed over once.
    family : Family
        Distribution of the response.
    link : Link
        Its link.
    coef : ndarray of shape (n_coef,), optional
        Where to expand; by default where the family starts.

    Returns
    -------
    Normal
        The sums over all rows.

    References
    ----------
    Wood (2017), "Generalized Additive Models", 2nd edition, section 6.1.1.
    """
    basis = rows.basis
    full = None if coef is None else basis.expand(coef)
    gram, moment = np.zeros((basis.width, basis.width)), np.zeros(basis.width)
    means, square, deviance = np.zeros(basis.width), 0.0, 0.0
    design = np.empty((CHUNK, basis.width))
    for columns, values, y, weight, offset in rows:
        if full is None:
            mu = np.clip(family.start(y, rows.mean), *family.bounds)
            eta = link.link(mu)
        else:
            eta = offset + full[0] + np.einsum("ij,ij->i", full[columns], values)
            mu = np.clip(link.inverse(eta), *family.bounds)
        slope = link.derivative(mu)
        root = np.sqrt(weight / family.variance(mu)) / abs(slope)
        z = root * (eta - offset + slope * (y - mu))
        deviance += float(weight @ family.unit_deviance(y, mu))
        B = design[: len(y)]
        B.fill(0.0)
        B[:, 0] = root
        np.put_along_axis(B, columns, values * root[:, None], axis=1)
        gram += B.T @ B
        moment += B.T @ z
        square += float(z @ z)
        prior = values * weight[:, None]
        means += np.bincount(columns.ravel(), prior.ravel(), minlength=basis.width)
    kept, turn = basis.kept, basis.turn
    gram, moment = turn.T @ gram[np.ix_(kept, kept)] @ turn, turn.T @ moment[kept]
    return Normal(gram, moment, square, deviance, means / rows.n_rows, rows.n_rows)


def solve(normal, penalty):
    """
    Solve (gram + diag(penalty)) b = moment.

    Parameters
    ----------
    normal : Normal
        The normal equations.
    penalty : ndarray of shape (n_coef,)
        Added to their diagonal.

    Returns
    -------
    Solution
        Of least norm, in units in which the matrix has a unit diagonal, if columns are collinear.
    """
    matrix = normal.gram + np.diag(penalty)
    diagonal = matrix.diagonal()
    unit = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
    scaled = matrix * unit * unit[:, None]
    try:
        factor = cholesky(scaled, lower=True)
        if factor.diagonal().min() ** 2 < _SMALLEST_PIVOT:
            raise LinAlgError
        inverse, _ = dpotri(factor, lower=True)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
    except LinAlgError:
        values, vectors = eigh(scaled)
        good = values > _SMALLEST_PIVOT * values[-1]
        inverse = (vectors[:, good] / values[good]) @ vectors[:, good].T
    coef = inverse @ (unit * normal.moment)
    coef += inverse @ (unit * normal.moment - scaled @ coef)  # what the inverse's rounding left
    return Solution(unit * coef, inverse * unit * unit[:, None])


class Fit(NamedTuple):
    """Where P-IRLS ended: the last step's equations, penalty weights and solution."""

    normal: Normal
    weights: np.ndarray
    solution: Solution


def iterate(rows, family, link, choose, coef=None, tol=1e-10, max_iter=200):
    """
    Fit by penalised iteratively reweighted least squares.

    Parameters
    ----------
    rows : Rows
        Passed over once a step; one step is all if the family is gaussian with identity link.
    family : Family
        Distribution of the response.
    link : Link
        Its link.
    choose : callable
        Takes a step's `Normal`, and the weights before (None at first); returns the weights
        lambda_j, an ndarray of shape (n_penalties,).
    coef : ndarray of shape (n_coef,), optional
        Where to start.
    tol : float, default=1e-10
        Change of the coefficients, relative to themselves, that ends the iteration; so do classes
        that are told apart.
    max_iter : int, default=200
        Number of passes after which it ends with a `ConvergenceWarning`.

    Returns
    -------
    Fit
        Normal, weights and solution of the last step; the deviance is that of its start.
    """
    normal, weights = accumulate(rows, family, link, coef), None
    if family.name == "gaussian" and link.name == "identity":
        weights = choose(normal, None)
        return Fit(normal, weights, solve(normal, rows.basis.penalize(weights)))
    initial = normal.deviance
    for _ in range(max_iter):
        weights = choose(normal, weights)
        penalty = rows.basis.penalize(weights)
        solution = solve(normal, penalty)
        step, size = solution.coef, normal.gram.diagonal() + penalty
        before = np.inf if coef is None else normal.deviance + penalty @ coef**2
        for _ in range(30):
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                normal = accumulate(rows, family, link, step)
            after = normal.deviance + penalty @ step**2
            if np.isfinite(after) and after <= before + 1e-10 * abs(before):
                break
            if coef is None:  # the first step has nothing to fall back to but the mean
                coef = np.zeros_like(step)
                coef[0] = link.link(rows.mean)
            step = (coef + step) / 2
        change = np.inf if coef is None else size @ (step - coef) ** 2
        coef = step
        # Of separable classes eta would go on towards infinity for as long as one lets it.
        separated = family.name == "binomial" and normal.deviance <= _SEPARATED * initial
        if separated or change <= tol**2 * (size @ coef**2):
            return Fit(normal, weights, solution._replace(coef=coef))
    warnings.warn(
        f"the fit has not settled in {max_iter} steps; are the classes separable, or is alpha "
        "too small?",
        ConvergenceWarning,
        stacklevel=3,
    )
    return Fit(normal, weights, solution._replace(coef=coef))
