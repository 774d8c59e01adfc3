"""
Choice of the smoothing parameters from the normal equations alone.

A penalty's weight lambda_j is chosen on sums over the rows, so this costs the same for any number
of them. statsmodels' alpha is lambda / 2.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from gam_model._normal import penalised_square, residual_square, solve
from gam_model._progress import report

# Relative to the weight at which penalty and data count alike. Beyond, a curve is a line to all
# digits, or is not held back at all, and the equations only lose digits.
_SMALLEST, _LARGEST = 1e-6, 1e9
# Of the straight lines' weight where the scale is known, as that of 0 and 1 is: a slope whose
# standard deviation over the rows is 10 on the scale of the logit says all that can be said.
_SMALLEST_ON_LINES = 0.01
_LONGEST = 4.0  # longest step of log lambda
_LEVEL = 1e-4  # derivative by log lambda, about an effective degree of freedom, of no account
_STEPS = 10  # of the search, from weights that were found before
_STRAIGHT = 10  # times the weight at which penalty and data count alike
_FURTHEST = 20.0  # factor by which a weight falls at most from one working model to the next


def start_weights(normal, basis):
    """
    Weigh each term's penalty as much as its data.

    lambda_j = tr(gram_jj) / tr(S_j) over what is penalised, which follows the units of x_j and
    the number of rows.

    Parameters
    ----------
    normal : Normal
        The normal equations.
    basis : Basis
        Has the penalties.

    Returns
    -------
    ndarray of shape (n_penalties,)
        lambda_j, positive.
    """
    sizes = np.bincount(basis.members, basis.sizes, minlength=len(basis.owners))
    return basis.total(normal.gram.diagonal()) / sizes


class Smoothing(NamedTuple):
    """
    How the smoothing parameters are chosen.

    Parameters
    ----------
    scale : float or None
        The family's scale; None to estimate it.
    criterion : {"reml", "gcv"}
        What they are chosen by. The prior of straight lines is always chosen by the first.
    alpha : ndarray of shape (n_terms,) or None
        lambda / 2 of each term where they are given, else NaN.
    """

    scale: float | None
    criterion: str = "reml"
    alpha: np.ndarray | None = None

    @property
    def given(self):
        """Whether all weights are given, except that of the straight lines if penalised."""
        return self.alpha is not None and not np.isnan(self.alpha).any()

    def bound(self, reference, basis, hold=1.0):
        """
        Return the smallest and largest weights considered.

        Parameters
        ----------
        reference : Reference
            Says at which weights penalty and data count alike.
        basis : Basis
            Has the penalties.
        hold : float, default=1.0
            How much straight lines may be held back: 0 for not at all, 1 for without limit.

        Returns
        -------
        ndarray of shape (2, n_penalties)
            Positive; alike where the weight is given.
        """
        held = basis.owners < 0
        unit = np.append(reference.weights, reference.total * np.ones(held.sum()))
        # With few rows, almost unpenalised curves would interpolate the data.
        shortage = find_shortage(reference.n_rows, len(basis.curvature))
        low, high = _SMALLEST ** (1 - shortage) * unit, _LARGEST * unit
        if self.scale is not None:
            low = np.where(held, np.minimum(_SMALLEST_ON_LINES, unit), low)
        if hold < 1:
            high = np.where(held, np.maximum(unit * hold / (1 - hold), low), high)
        if self.alpha is not None:
            given = 2 * self.alpha[basis.owners]
            chosen = held | np.isnan(given)
            low, high = (np.where(chosen, end, given) for end in (low, high))
        return np.stack([low, high])

    def choose(self, normal, basis, bounds, weights, precision=None):
        """
        Choose the weights for one working model.

        Parameters
        ----------
        normal : Normal
            Its equations.
        basis : Basis
            Has the penalties.
        bounds : ndarray of shape (2, n_penalties)
            Least and greatest weights.
        weights : ndarray of shape (n_penalties,) or None
            Where to start.
        precision : float, optional
            Derivative by log lambda_j, about an effective degree of freedom, that ends the search
            by restricted likelihood; by default, where `weights` are given, a few steps suffice,
            as the working model changes in the next iteration.

        Returns
        -------
        ndarray of shape (n_penalties,)
            lambda_j.
        """
        if (bounds[0] == bounds[1]).all():
            return bounds[0]
        if weights is not None:
            low = np.minimum(weights, bounds[1] * (_STRAIGHT / _LARGEST)) / _FURTHEST
            bounds = np.stack([low.clip(*bounds), bounds[1]])
        if self.criterion == "gcv" and (basis.owners >= 0).all():
            return choose_by_gcv(normal, basis, bounds, weights)
        if precision is not None:
            how = {"tol": precision}
        else:
            how = {} if weights is None else {"tol": 1e-5, "max_iter": _STEPS}
        return choose_by_reml(normal, basis, self.scale, bounds, weights, **how)


def find_shortage(n_rows, n_coef):
    """
    Measure the shortage of rows for a model.

    Parameters
    ----------
    n_rows : float
        Number of rows.
    n_coef : int
        Number of coefficients.

    Returns
    -------
    float
        1 - n_rows / (2 n_coef), from 0 with two rows for each coefficient to 1 with none.
    """
    return max(0.0, 1 - n_rows / (2 * n_coef))


class Reml(NamedTuple):
    """
    Twice the negative restricted log-likelihood of a working model, by log lambda.

    value is known up to a constant; gradient has shape (n_penalties,), hessian
    (n_penalties, n_penalties); scale is the family's, or its estimate.
    """

    value: float
    gradient: np.ndarray
    hessian: np.ndarray
    scale: float


def measure_reml(normal, basis, scale, weights):
    """
    Work out the restricted likelihood of the working model.

    -2 l(lambda) = D / scale + log|gram + P| - log|P|+ ,  D = min_b |z - Bb|_W^2 + b'Pb,
    or with (n_rows - M) log D in place of D / scale if the scale is estimated, which is by
    D / (n_rows - M), with M the number of coefficients without a penalty.

    With few rows and an estimated scale there is a way to fit all of them, noise included, at
    next to no cost. So with less than two rows for each coefficient

    - n_rows / 2 (1 - n_rows / (2 n_coef)) log(1 - edf / n_rows)

    is added: a quarter of what generalised cross-validation takes for degrees of freedom, faded
    out as rows get more.

    Parameters
    ----------
    normal : Normal
        The normal equations.
    basis : Basis
        Has the penalties.
    scale : float or None
        The family's scale; None to estimate it.
    weights : ndarray of shape (n_penalties,)
        lambda_j.

    Returns
    -------
    Reml

    References
    ----------
    Wood (2011), "Fast stable restricted maximum likelihood and marginal likelihood estimation of
    semiparametric generalized linear models", Journal of the Royal Statistical Society B 73.
    """
    penalty = basis.penalize(weights)
    coef, inverse, determined, log_det = solve(normal, penalty)
    log_penalty, ranks, bends = basis.log_det(weights)
    distance = penalised_square(normal, coef)
    left = max(normal.n_rows - (determined.sum() - ranks.sum()), 1.0)
    phi = scale or distance / left
    bent = basis.weigh(weights, coef**2) / phi
    held = basis.weigh(weights, inverse.diagonal())
    pulls = coef[:, None] * basis.scatter(weights)
    hessian = (
        np.diag(bent + held)
        - 2 / phi * pulls.T @ inverse.dot(pulls)
        - weights * weights[:, None] * inverse.overlap(basis)
        - bends
    )
    value, gradient = log_det - log_penalty, bent + held - ranks
    if scale is not None:
        return Reml(float(value + distance / phi), gradient, hessian, phi)
    value += left * np.log(distance)
    hessian -= np.outer(bent, bent) / left
    price = find_shortage(normal.n_rows, len(coef)) / 2
    if price:
        room = max(normal.n_rows - determined.sum() + held.sum(), 1e-6)
        slope = (weights * (inverse.overlap(basis) @ weights) - held) / room
        price *= normal.n_rows
        value -= price * np.log(room)
        gradient = gradient + price * slope
        # Of its second derivatives, those that keep the search going downwards.
        hessian += price * (np.outer(slope, slope) + np.diag(abs(slope)))
    return Reml(float(value), gradient, hessian, phi)


def choose_by_reml(normal, basis, scale, bounds, weights=None, tol=1e-8, max_iter=100):
    """
    Maximise the restricted likelihood of the working model by Newton's method.

    Parameters
    ----------
    normal : Normal
        The normal equations.
    basis : Basis
        Has the penalties.
    scale : float or None
        The family's scale; None to estimate it.
    bounds : ndarray of shape (2, n_penalties)
        Least and greatest weights.
    weights : ndarray of shape (n_penalties,), optional
        Where to start.
    tol : float, default=1e-8
        Largest derivative by a log lambda_j, about an effective degree of freedom, that ends the
        search.
    max_iter : int, default=100
        Number of steps at most.

    Returns
    -------
    ndarray of shape (n_penalties,)
        lambda_j.
    """
    low, high = np.log(bounds)
    unit = start_weights(normal, basis)
    straight = np.maximum(np.log(_STRAIGHT * unit), high - np.log(_LARGEST / _STRAIGHT))
    # Start low enough: where all curves are straight, the gradient vanishes.
    at = np.log(unit) if weights is None else np.minimum(np.log(weights), straight)
    at = at.clip(low, high)
    here = measure_reml(normal, basis, scale, np.exp(at))
    for iteration in range(max_iter):
        report(**{"smoothing step": iteration + 1})
        free = ~((at <= low) & (here.gradient > 0) | (at >= high) & (here.gradient < 0))
        if not free.any() or abs(here.gradient[free]).max() < tol:
            break
        # Move nearly straight terms to the upper bound: their derivatives vanish as the weights
        # grow, and so do Newton's steps.
        level = free & (at > straight) & (here.gradient < 0) & (here.gradient > -_LEVEL)
        bent = free & ~level
        step = np.where(level, high - at, 0.0)
        if bent.any():
            step[bent] = _step(here.gradient[bent], here.hessian[np.ix_(bent, bent)])
        # The value is less precise than its derivatives: near the optimum only these are reliable.
        noise, steep = 1e-13 * abs(here.value), abs(here.gradient[free]).max()
        for _ in range(20):
            there = np.clip(at + step, low, high)
            found = measure_reml(normal, basis, scale, np.exp(there))
            flatter = abs(found.gradient[free]).max() <= 0.5 * steep
            if found.value <= here.value + (1e3 * noise if flatter else noise):
                break
            step /= 4
        else:
            break
        if found.value > here.value - noise and not flatter:
            break
        at, here = there, found
    return np.exp(at)


def _step(gradient, hessian):
    # In a flat valley, such as that of duplicate columns, further steps would only follow
    # rounding errors.
    values, vectors = np.linalg.eigh(hessian)
    size = np.maximum(abs(values), max(1e-5 * abs(values).max(), 1e-12))
    step = -vectors @ (vectors.T @ gradient / size)
    return step * min(1.0, _LONGEST / max(abs(step).max(), _LONGEST))


def estimate_scale(normal, solution, penalty):
    """
    Estimate the scale: Pearson's statistic over the residual degrees of freedom.

    phi = (z - Bb)' W (z - Bb) / (n_rows - edf),  edf = tr(inverse gram)

    Parameters
    ----------
    normal : Normal
        The normal equations.
    solution : Solution
        Theirs.
    penalty : ndarray of shape (n_coef,)
        Diagonal of the penalty.

    Returns
    -------
    float
        Not negative.
    """
    edf = solution.determined.sum() - penalty @ solution.inverse.diagonal()
    return residual_square(normal, solution.coef) / max(normal.n_rows - edf, 1.0)


def choose_by_gcv(normal, basis, bounds, weights=None):
    """
    Minimise the generalised cross-validation score of the working model.

    GCV = n_rows rss / (n_rows - edf)^2

    Parameters
    ----------
    normal : Normal
        The normal equations.
    basis : Basis
        Has the penalties.
    bounds : ndarray of shape (2, n_penalties)
        Least and greatest weights.
    weights : ndarray of shape (n_penalties,), optional
        Where to start.

    Returns
    -------
    ndarray of shape (n_penalties,)
        lambda_j.

    References
    ----------
    Craven and Wahba (1979), "Smoothing noisy data with spline functions", Numerische
    Mathematik 31.
    """
    unit = start_weights(normal, basis)
    # As in `measure_reml`: else all rows could be fitted, noise included.
    price = 2 * (1 + find_shortage(normal.n_rows, len(normal.moment)))

    def score(log_weights):
        weights = unit * np.exp(log_weights)
        penalty = basis.penalize(weights)
        coef, inverse, determined, _ = solve(normal, penalty)
        edf = determined.sum() - penalty @ inverse.diagonal()
        rss, left = residual_square(normal, coef), max(normal.n_rows - edf, 1e-3)
        # With respect to log lambda_j: of the coefficients, and of edf.
        turns = -inverse.dot(coef[:, None] * basis.scatter(weights))
        losses = weights * (inverse.overlap(basis) @ weights)
        losses -= basis.weigh(weights, inverse.diagonal())
        pull = (normal.gram.dot(coef) - normal.moment) @ turns
        return np.log(rss) - price * np.log(left), 2 * pull / rss + price * losses / left

    start = np.zeros(len(unit)) if weights is None else np.log(weights / unit)
    edges = np.log(bounds / unit)
    found = minimize(
        score,
        np.clip(start, *edges),
        jac=True,
        method="L-BFGS-B",
        bounds=edges.T,
        options={"ftol": 1e-13, "gtol": 1e-8},
    )
    return unit * np.exp(found.x)
