"""The original path: the same model, fitted by statsmodels' GLMGam."""

import warnings

import numpy as np

from gam_model._solver import Fit, Normal, Solution


def fit_glmgam(basis, block, totals, alpha):
    """
    Fit a gaussian additive model with identity link by statsmodels.

    Parameters
    ----------
    basis : Basis
        Has the knots of each term.
    block : Block
        All rows.
    totals : Totals
        Theirs.
    alpha : ndarray of shape (n_terms,)
        Penalty weight of each term, as statsmodels means it.

    Returns
    -------
    Fit
        As the stream's; its deviance is that of the solution.
    """
    # Here and not above: serving a fitted model must not pay for, or need, statsmodels.
    from statsmodels.gam.generalized_additive_model import GLMGam, penalized_wls
    from statsmodels.gam.smooth_basis import BSplines
    from statsmodels.tools.sm_exceptions import SingularMatrixWarning

    X, y, weight, _ = block
    terms = basis.terms
    bases = BSplines(
        X[:, [term.feature for term in terms]],
        df=[term.n_splines for term in terms],
        degree=[term.degree for term in terms],
        knot_kwds=[{"all_knots": term.knots} for term in terms],
    )
    model = GLMGam(y, exog=np.ones((len(y), 1)), smoother=bases, alpha=alpha.tolist())
    with warnings.catch_warnings():
        # Collinear columns are no error: the solution of least norm predicts as well as any.
        warnings.simplefilter("ignore", SingularMatrixWarning)
        # P-IRLS with an identity link is this one step; GLMGam.fit has no answer to an exact fit.
        penalty = model.penal.penalty_matrix(alpha=model.alpha)
        step = penalized_wls(y, model.exog, penalty, weight)
    weighed, turn = model.exog * weight[:, None], basis.turn
    means = np.zeros(basis.width)
    means[basis.kept[1:]] = weighed[:, 1:].sum(axis=0) / totals.n_rows
    normal = Normal(
        gram=turn.T @ (model.exog.T @ weighed) @ turn,
        moment=turn.T @ (weighed.T @ y),
        square=float(weight @ y**2),
        deviance=float(weight @ (y - model.exog @ step.params) ** 2),
        means=means,
        n_rows=totals.n_rows,
    )
    inverse = turn.T @ step.normalized_cov_params @ turn
    return Fit(normal, 2 * alpha, Solution(turn.T @ step.params, inverse))
