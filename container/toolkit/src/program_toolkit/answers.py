"""Answers to bytes: the media types that every program writes, and which of them a client gets."""

import functools
import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from program_toolkit.payload import CSV, JSON, JSONLINES, NPY, parse_media_type
from program_toolkit.table import PayloadError, shorten


@dataclass(frozen=True)
class Explanation:
    """The parts of each prediction: ``base + sum of values = prediction``, row by row.

    Parameters
    ----------
    base : float
        The mean prediction over the training rows.
    values : dict of str to ndarray of float64, shape (n,)
        SHAP values of each feature.
    scale : {"response", "link"}
        The scale on which the sum holds.
    interactions : dict of str to ndarray of float64, shape (n,)
        What two features do together, by "a & b"; half of it is in the SHAP value of either.
    """

    base: float
    values: dict[str, np.ndarray]
    scale: str = "response"
    interactions: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """Predictions, what belongs to each of them, and the explanation for those who ask.

    Parameters
    ----------
    prediction : ndarray of float64 or str, shape (n,)
        Numbers or labels.
    explain : callable, optional
        Returns the `Explanation`, or a mapping of further columns that explain the rows; called
        only if the client accepts one.
    columns : mapping of str to (ndarray or sequence), each of length n
        What JSON and JSON lines carry beside each prediction, such as its probability.
    by_line : bool
        Whether JSON is written as JSON lines, because the request came so.
    warnings : callable, optional
        Returns what the answer should be taken with care for, one sentence a kind, and the rows
        that it is about, a mapping of str to (ndarray of bool, shape (n,)). Called only for JSON
        and JSON lines, which carry the sentences where there are any.
    """

    prediction: np.ndarray
    explain: Callable[[], Explanation | Mapping[str, Sequence]] | None = None
    columns: Mapping[str, Sequence] = field(default_factory=dict)
    by_line: bool = False
    warnings: Callable[[], Mapping[str, np.ndarray]] | None = None


def encode(answer: Answer, accept: str | None, explained: bool = False) -> tuple[bytes, str]:
    """Write an answer in the best media type that the client accepts.

    Parameters
    ----------
    answer : Answer
    accept : str or None
        The Accept header; JSON where it is absent. The parameter ``explain=true`` asks for the
        explanation, which JSON and JSON lines can carry, ``explain=false`` for none.
    explained : bool
        Whether JSON and JSON lines carry the explanation where the client says nothing of it.

    Returns
    -------
    body : bytes
    content_type : str

    Raises
    ------
    PayloadError
        406 if nothing that the client accepts can be written here.
    """
    media, parameters = negotiate(accept)
    if media == JSON and answer.by_line:
        media = JSONLINES
    if media == NPY and answer.prediction.dtype.kind not in "fiub":
        raise PayloadError(
            f"the predictions are labels, and {NPY} carries numbers; accept one of "
            + ", ".join(name for name in _ENCODERS if name != NPY),
            status=406,
        )
    asked, can_explain = parameters.get("explain"), media in (JSON, JSONLINES)
    if asked == "true" and not can_explain:
        raise PayloadError(
            f"{media} cannot carry an explanation; accept {JSON}; explain=true", status=406
        )
    if asked == "true" and answer.explain is None:
        raise PayloadError("this model explains nothing; drop explain=true", status=406)
    by_default = explained and can_explain and asked != "false" and answer.explain is not None
    wanted = answer.explain if asked == "true" or by_default else None
    explanation = wanted() if wanted else None
    return _ENCODERS[media](answer, explanation), media


@functools.lru_cache(maxsize=64)
def negotiate(
    accept: str | None, offers: tuple[str, ...] | None = None
) -> tuple[str, Mapping[str, str]]:
    """Choose the media type of the answer.

    Parameters
    ----------
    accept : str or None
        The Accept header; JSON where it is absent.
    offers : tuple of str, optional
        The media types to choose from, the one that a wildcard means first; by default those that
        `encode` writes.

    Returns
    -------
    media : str
    parameters : mapping of str to str
        What the client wrote beside it, as in ``application/json; explain=true; top_k=5``, in
        lower case.

    Raises
    ------
    PayloadError
        406 if nothing that the client accepts can be written here.
    """
    offers = tuple(_ENCODERS) if offers is None else offers
    choices = [parse_media_type(choice) for choice in (accept or JSON).split(",")]
    refused = {choice[0] for choice in choices if _quality(choice) == 0}
    for media, parameters in sorted(choices, key=_quality, reverse=True):
        for offered in offers:
            kind = offered.partition("/")[0]
            if media in {offered, f"{kind}/*", "*/*", ""} - refused and offered not in refused:
                return offered, parameters
    raise PayloadError(
        f"Accept {shorten(accept)} cannot be met; accept one of " + ", ".join(offers), status=406
    )


def _quality(choice: tuple[str, Mapping[str, str]]) -> float:
    try:
        quality = float(choice[1].get("q", 1))
    except ValueError:
        return 0
    return quality if 0 <= quality <= 1 else 0


def _to_npy(answer: Answer, _: object) -> bytes:
    prediction = np.ascontiguousarray(answer.prediction, dtype="<f8")
    return _write_npy_header(prediction.shape) + prediction.tobytes()


@functools.lru_cache(maxsize=64)
def _write_npy_header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def _to_csv(answer: Answer, _: object) -> bytes:
    if answer.prediction.dtype.kind in "fiub":
        return join_lines(map(repr, answer.prediction.tolist()))
    return join_lines(map(_quote, answer.prediction))


def _quote(label: str) -> str:
    # csv.writer does not quote a lone carriage return.
    if label and not any(special in label for special in ',"\r\n'):
        return label
    return '"' + label.replace('"', '""') + '"'


def _to_json(answer: Answer, explanation: Explanation | Mapping | None) -> bytes:
    content: dict[str, Any] = _collect(answer, explanation)
    if isinstance(explanation, Explanation):
        content["shap_base"] = explanation.base
        content["shap_values"] = explanation.values
        if explanation.interactions:
            content["interaction_values"] = explanation.interactions
        content["scale"] = explanation.scale
    if answer.warnings and (warnings := answer.warnings()):
        content["warnings"] = list(warnings)
    return _dump(content)


def _to_jsonlines(answer: Answer, explanation: Explanation | Mapping | None) -> bytes:
    columns = _collect(answer, explanation)
    if isinstance(explanation, Explanation):
        n = len(answer.prediction)
        columns["shap_base"] = [explanation.base] * n
        columns["shap_values"] = _by_row(explanation.values)
        if explanation.interactions:
            columns["interaction_values"] = _by_row(explanation.interactions)
        columns["scale"] = [explanation.scale] * n
    warnings = answer.warnings() if answer.warnings else {}
    if warnings:
        marked = zip(*warnings.values(), strict=True)
        columns["warnings"] = [list(itertools.compress(warnings, row)) for row in marked]
    lines: Iterable[dict[str, Any]] = (
        dict(zip(columns, row, strict=True))
        for row in zip(*map(_to_list, columns.values()), strict=True)
    )
    if warnings:
        lines = ({k: v for k, v in row.items() if k != "warnings" or v} for row in lines)
    return b"".join(_dump(line) + b"\n" for line in lines)


def _by_row(columns: Mapping[str, np.ndarray]) -> list[dict[str, float]]:
    rows = zip(*map(_to_list, columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _collect(answer: Answer, explanation: Explanation | Mapping | None) -> dict[str, Any]:
    columns: dict[str, Any] = {"prediction": answer.prediction, **answer.columns}
    if isinstance(explanation, Explanation):
        numbers = np.array(
            list(explanation.values.values())
        )  # at once, as it must be quick for one row
        _check_finite({"shap_base": [explanation.base], "shap_values": numbers})
    else:
        columns |= explanation or {}
    _check_finite(columns)
    return columns


def _check_finite(columns: Mapping[str, Any]) -> None:
    # JSON has no word for the others, and orjson would write null.
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            finite = column.dtype.kind != "f" or np.isfinite(column).all()
        else:
            finite = all(math.isfinite(cell) for cell in column if isinstance(cell, float))
        if not finite:
            raise ValueError(f"{name!r} of the answer holds a number that is not finite")


def _dump(content: dict) -> bytes:
    # Ten times as fast as the standard library's, which an explanation of many rows asks for.
    return orjson.dumps(content, default=np.ndarray.tolist, option=orjson.OPT_SERIALIZE_NUMPY)


def _to_list(column: Any) -> list[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else list(column)


def join_lines(lines: Iterable[str]) -> bytes:
    """Join lines to a body, each with a line end."""
    return "".join(f"{line}\n" for line in lines).encode()


# In the order in which a wildcard chooses.
_ENCODERS: dict[str, Callable[[Answer, Explanation | Mapping | None], bytes]] = {
    JSON: _to_json,
    CSV: _to_csv,
    JSONLINES: _to_jsonlines,
    NPY: _to_npy,
}
