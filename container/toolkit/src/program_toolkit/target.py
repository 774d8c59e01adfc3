"""What a target is: a number, or one of two classes, and which of them counts as 1."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from program_toolkit.channels import JobError
from program_toolkit.table import is_missing, read_number, shorten

_YES = {"yes", "y", "true", "t", "positive", "pos"}  # what counts as 1 unless told otherwise
_FEW = 10  # different whole numbers: so few may be codes


@dataclass(frozen=True)
class Target:
    """What has been learned of a target.

    Parameters
    ----------
    column : str
        Name of its column in quotes, or its number.
    family : str
        Distribution of the model.
    classes : tuple of (str or float), or None
        The two labels, that of 0 and that of 1; None for numbers.
    remark : str, optional
        What its owner should check.
    """

    column: str
    family: str
    classes: tuple | None = None
    remark: str | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return _name(self.column)

    @property
    def label(self) -> str:
        """What a report calls it."""
        return self.column.strip("'") if self.column.startswith("'") else f"column {self.column}"

    def show(self, label: str | float) -> str:
        """Return a label as a hyperparameter has it."""
        return label if isinstance(label, str) else f"{label:g}"

    def read(self, y: np.ndarray) -> np.ndarray:
        """Return the target as numbers.

        Parameters
        ----------
        y : ndarray of float64, or of str as objects, shape (n,)

        Returns
        -------
        ndarray of float64, shape (n,)

        Raises
        ------
        JobError
            If a model of this target does not know a value.
        """
        if self.classes is None:
            return y if y.dtype != object else _read_numbers(y, self.name)
        numbers = isinstance(self.classes[0], float)
        if numbers and y.dtype == object:
            y = _read_numbers(y, self.name)
        if not numbers and y.dtype != object:
            y = np.array([f"{value:g}" for value in y], dtype=object)
        ones = y == self.classes[1]
        odd = ~(ones | (y == self.classes[0]))
        if odd.any():
            row = int(odd.argmax())
            raise JobError(
                f"{self.name} is {_show(y[row])} in row {row + 1}; the classes are "
                + " and ".join(map(_show, self.classes))
            )
        return ones.astype(np.float64)


def learn_target(
    column: str, chunks: Iterable[np.ndarray], family: str = "auto", positive: str | None = None
) -> Target:
    """Find out what a target is.

    Parameters
    ----------
    column : str
        Name of its column in quotes, or its number.
    chunks : iterable of ndarray of (float64, or str as objects)
        Its values.
    family : str
        Distribution of the model; "auto" is binomial for two labels and for 0 and 1, else
        gaussian.
    positive : str, optional
        The label that counts as 1.

    Returns
    -------
    Target

    Raises
    ------
    JobError
        If it is text, but not of two labels; or the family or the positive label doesn't fit.
    """
    name = _name(column)
    seen: dict = {}  # value -> its first row
    n_rows, text = 0, False
    for y in chunks:
        text |= y.dtype == object
        values, at = np.unique(y.astype(str) if y.dtype == object else y, return_index=True)
        for value, row in zip(values.tolist(), at.tolist(), strict=True):
            seen.setdefault(value, n_rows + row + 1)
        n_rows += len(y)
        if not text and len(seen) > _FEW:
            break
    if text and all(read_number(label) is not None for label in seen):  # Parquet has such columns
        seen, text = {float(label): row for label, row in seen.items()}, False
    classes, remark = None, None
    if text:
        classes = _check_labels(name, seen)
        if family not in ("auto", "binomial"):
            raise JobError(
                f"{name} has the labels {_show(classes[0])} and {_show(classes[1])}, and "
                f"family={family} needs numbers; leave family at auto"
            )
    elif len(seen) == 2 and (family == "binomial" or (family == "auto" and set(seen) == {0, 1})):
        classes = tuple(sorted(seen))
    elif family == "auto" and _may_be_codes(seen, n_rows):
        shown = ", ".join(map(_show, sorted(seen)))
        remark = (
            f"{name} has only {len(seen)} different values, {shown}, and was modelled as a "
            "number; if they are classes, keep two of them and set family=binomial; if not, set "
            "family=gaussian"
        )
    if classes is None:
        if positive is not None:
            raise JobError(f"positive={positive} is for two classes, and {name} holds numbers")
        return Target(column, "gaussian" if family == "auto" else family, None, remark)
    one = _find_positive(name, classes, positive)
    zero = classes[0] if one == classes[1] else classes[1]
    return Target(column, "binomial", (zero, one))


def _name(column: str) -> str:
    return f"the target, column {column},"


def _may_be_codes(values: Collection[float], n_rows: int) -> bool:
    few = 1 < len(values) <= _FEW and n_rows >= 5 * len(values)
    return few and all(value.is_integer() for value in values)


def _check_labels(name: str, seen: dict[str, int]) -> tuple[str, ...]:
    labels = [label for label in seen if not is_missing(label)]
    words = [label for label in labels if read_number(label) is None]
    if len(words) < len(labels) or len(labels) < 2:  # numbers and a slip, or all of one kind
        row, label = min((seen[label], label) for label in words or seen)
        raise JobError(
            f"{name} is text, {shorten(label)} in row {row}; expected numbers or two labels"
        )
    if len(labels) < len(seen):
        row = min(row for label, row in seen.items() if is_missing(label))
        raise JobError(f"{name} is missing in row {row}; drop it first")
    if len(labels) > 2:
        listed = ", ".join(map(shorten, sorted(labels)[:5])) + (", ..." if len(labels) > 5 else "")
        raise JobError(
            f"{name} has {len(labels)} labels, {listed}; this program models a number or two "
            "classes: keep two of them, or train a model for each"
        )
    return tuple(sorted(labels))


def _find_positive(name: str, classes: tuple, positive: str | None) -> str | float:
    if positive is None:
        yes = [label for label in classes if str(label).lower() in _YES]
        return yes[0] if len(yes) == 1 else classes[1]
    for label in classes:
        number = {"true": 1.0, "false": 0.0}.get(positive.lower(), read_number(positive))
        if label in (positive, number):
            return label
    raise JobError(
        f"positive={positive} is not a label of {name} which has "
        + " and ".join(map(_show, classes))
    )


def _read_numbers(y: np.ndarray, name: str) -> np.ndarray:
    numbers = [read_number(cell) for cell in y]
    if None in numbers:
        row = numbers.index(None)
        raise JobError(f"{name} is text, {shorten(y[row])} in row {row + 1}; expected numbers")
    return np.array(numbers)


def _show(value: str | float) -> str:
    return shorten(value) if isinstance(value, str) else f"{value:g}"
