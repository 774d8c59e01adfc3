"""What the owner of a trained model should look at before trusting it, in one place."""

import contextlib
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from program_toolkit.limits import FAR

if TYPE_CHECKING:
    from gam_model import AdditiveModel
    from program_toolkit.scores import Scores

_WORSE = 0.1  # of R^2 or of the area under the ROC curve, between training and test
_SHARE = 0.01  # of the rows, below which nothing is reported
_CONCURVITY = 0.9  # R^2 of one feature's curve, explained by the others'
_WIDTH = 88


class Checks(contextlib.AbstractContextManager):
    """Findings, including the warnings raised inside its `with` block.

    A warning is printed when it comes, once, and shown again in `box`. Those for programmers,
    such as DeprecationWarning, go their usual way.

    Attributes
    ----------
    findings : list of str
        One sentence each, in the order in which they came.
    """

    def __init__(self) -> None:
        self.findings: list[str] = []

    def __enter__(self) -> "Checks":
        """Start recording warnings."""
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        for category in (UserWarning, RuntimeWarning):
            warnings.simplefilter("always", category)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:
            if issubclass(category, (UserWarning, RuntimeWarning)):
                self.add(str(message))
            else:
                usual(message, category, *where, **how)

        warnings.showwarning = show
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop recording warnings."""
        self._caught.__exit__(*error)

    def add(self, *findings: str) -> None:
        """Print and keep findings, each once."""
        for finding in findings:
            finding = " ".join(finding.split())
            if finding not in self.findings:
                print(f"warning: {finding}", flush=True)
                self.findings.append(finding)

    def box(self) -> str:
        """Return the findings as text in a frame; nothing where there are none."""
        if not self.findings:
            return ""
        lines = ["Check this"]
        for number, finding in enumerate(self.findings, 1):
            start = f"{number}. "
            lines += textwrap.wrap(
                finding, _WIDTH - 4, initial_indent=start, subsequent_indent=" " * len(start)
            )
        width = max(map(len, lines))
        rule = f"+{'-' * (width + 2)}+"
        return "\n".join([rule, *(f"| {line.ljust(width)} |" for line in lines), rule])


def check_terms(model: "AdditiveModel", X: np.ndarray) -> list[str]:
    """Find features without an effect, and effects that the others could replace.

    Parameters
    ----------
    model : AdditiveModel
    X : ndarray of float64, shape (n, p)
        Training rows as the model reads them; a sample will do.
    """
    findings = []
    curved = {term.name for term in model.terms}
    if flat := [name for name in model.features if name not in curved]:
        findings.append(f"{_list(flat)}: no effect, as constant in training or left out")
    values = model.contributions(X)
    values -= values.mean(axis=0)
    size = np.sqrt(np.mean(values**2, axis=0))
    kept = np.flatnonzero(size > 1e-6 * size.max(initial=0))
    if len(kept) > 1 and len(X) > 2 * len(kept):
        values = values[:, kept] / size[kept]
        alike = []
        for k, j in enumerate(kept):
            others = np.delete(values, k, axis=1)
            left = values[:, k] - others @ np.linalg.lstsq(others, values[:, k])[0]
            if np.mean(left**2) < 1 - _CONCURVITY:
                alike.append(model.features[j])
        if alike:
            findings.append(
                f"{_list(alike)}: the effects follow from one another by more than "
                f"{_CONCURVITY:.0%} (concurvity), so how it is divided between them is arbitrary"
            )
    return findings


def check_scores(train: "Scores", test: "Scores | None") -> list[str]:
    """Find signs of trouble in the predictions of training and test rows."""
    findings = []
    for split, scores in (("training", train), ("test", test)):
        if scores is None:
            continue
        if scores.beyond > _SHARE * scores.n:
            findings.append(
                f"{scores.beyond} of {scores.n} predictions on {split} rows lie outside the range "
                f"of the target in training, {train.low:g} to {train.high:g}; another family or "
                "link may fit it better"
            )
    if test is None:
        return findings
    before, after = train.metrics(), test.metrics()
    for name, words in (("auc", "the area under the ROC curve"), ("r2", "R^2")):
        if name in before and name in after:
            if before[name] - after[name] > _WORSE:
                findings.append(
                    f"{words} is {after[name]:.3f} on test rows and {before[name]:.3f} on "
                    "training rows: the model has learned what does not hold elsewhere, or the "
                    "rows differ"
                )
            break
    for counts, words in (
        (test.unknown, "levels that training has not seen"),
        (test.far, f"values further than {FAR:g} times the training range outside of it"),
    ):
        if counts:
            shown = ", ".join(
                f"{name!r} ({rows} of {test.n} rows)" for name, rows in counts.items()
            )
            findings.append(f"the test rows hold {words}: {shown}")
    return findings


def _list(names: Sequence[str]) -> str:
    more = len(names) - 5
    return ", ".join(map(repr, names[:5])) + (f" and {more} more" if more > 0 else "")
