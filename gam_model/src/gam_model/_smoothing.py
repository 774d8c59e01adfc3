"""
How smooth each term should be: smoothing parameters from the normal equations alone.

A penalty's weight lambda_j is chosen on sums over the rows, so this costs the same for any number
of them. statsmodels' alpha is lambda / 2.
"""

import numpy as np
from scipy.optimize import minimize

from gam_model._solver import solve

# Relative to the weight at which penalty and data count alike. Beyond, a curve is a line to all
# digits, or is not held back at all, and the equations only lose digits.
_SMALLEST, _LARGEST = 1e-6, 1e9


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
    data, firsts = normal.gram.diagonal(), [own.start for own in basis.penalties]
    penalised = np.add.reduceat(np.where(basis.curvature > 0, data, 0.0), firsts)
    return penalised / np.add.reduceat(basis.curvature, firsts)


def _is_saturated(normal):
    # With fewer rows than coefficients some smoothness fits any noise, and there is nothing to
    # choose by; the start stays.
    return normal.n_rows <= len(normal.moment)


def choose_by_reml(normal, basis, scale, weights=None, tol=1e-5, max_iter=200):
    """
    Maximise the restricted likelihood of the working model by Fellner-Schall updates.

    lambda_j <- scale (rank S_j / lambda_j - tr(V S_j)) / (b_j' S_j b_j) lambda_j,
    with V = (gram + penalty)^-1

    Parameters
    ----------
    normal : Normal
        The normal equations.
    basis : Basis
        Has the penalties.
    scale : float or None
        The family's scale; None to estimate it, as residual sum of squares / (n_rows - edf).
    weights : ndarray of shape (n_penalties,), optional
        Where to start.
    tol : float, default=1e-5
        Change of every log lambda_j that ends the updates.
    max_iter : int, default=200
        Number of updates at most.

    Returns
    -------
    ndarray of shape (n_penalties,)
        lambda_j.

    References
    ----------
    Wood and Fasiolo (2017), "A generalized Fellner-Schall method for smoothing parameter
    optimization", Biometrics 73, equation 4.
    """
    unit = start_weights(normal, basis)
    if _is_saturated(normal):
        return unit if weights is None else weights
    low, high = _SMALLEST * unit, _LARGEST * unit
    weights = unit if weights is None else weights
    firsts = [own.start for own in basis.penalties]
    ranks = np.add.reduceat(basis.curvature > 0, firsts, dtype=float)
    for _ in range(max_iter):
        coef, inverse = solve(normal, basis.penalize(weights))
        phi = scale or estimate_scale(normal, coef, inverse)
        bent = np.add.reduceat(basis.curvature * coef**2, firsts)
        freed = ranks - weights * np.add.reduceat(basis.curvature * inverse.diagonal(), firsts)
        with np.errstate(divide="ignore", invalid="ignore"):
            updated = phi * freed / bent
        updated = np.clip(np.where(np.isfinite(updated), updated, high), low, high)
        change = abs(np.log(updated / weights)).max()
        weights = updated
        if change < tol:
            break
    return weights


def estimate_scale(normal, coef, inverse):
    """
    Estimate the scale: Pearson's statistic over the residual degrees of freedom.

    phi = (z - Bb)' W (z - Bb) / (n_rows - edf),  edf = tr(inverse gram)

    Parameters
    ----------
    normal : Normal
        The normal equations.
    coef : ndarray of shape (n_coef,)
        Their solution.
    inverse : ndarray of shape (n_coef, n_coef)
        (gram + penalty)^-1.

    Returns
    -------
    float
        Not negative.
    """
    edf = np.sum(inverse * normal.gram)
    return residual_square(normal, coef) / max(normal.n_rows - edf, 1.0)


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
    rss = normal.square - 2 * coef @ normal.moment + coef @ normal.gram @ coef
    return float(max(rss, 1e-12 * normal.square))


def choose_by_gcv(normal, basis, weights=None):
    """
    Minimise the generalised cross-validation score of the working model.

    GCV = n_rows rss / (n_rows - edf)^2

    Parameters
    ----------
    normal : Normal
        The normal equations.
    basis : Basis
        Has the penalties.
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
    if _is_saturated(normal):
        return unit if weights is None else weights
    firsts = [own.start for own in basis.penalties]

    def score(log_weights):
        weights = unit * np.exp(log_weights)
        coef, inverse = solve(normal, basis.penalize(weights))
        influence = inverse @ normal.gram
        rss, left = residual_square(normal, coef), normal.n_rows - influence.trace()
        # With respect to log lambda_j: of the coefficients, and of the diagonal of the influence.
        turns = -inverse * basis.penalize(weights) * coef
        losses = -(influence @ inverse).diagonal() * basis.penalize(weights)
        pull = (normal.gram @ coef - normal.moment) @ turns
        slope = np.add.reduceat(2 * pull / rss + 2 * losses / left, firsts)
        return np.log(rss) - 2 * np.log(left), slope

    start = np.zeros(len(unit)) if weights is None else np.log(weights / unit)
    edges = (np.log(_SMALLEST), np.log(_LARGEST))
    found = minimize(
        score,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[edges] * len(unit),
        options={"ftol": 1e-13, "gtol": 1e-8},
    )
    return unit * np.exp(found.x)
