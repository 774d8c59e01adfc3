"""The part of JSONPath that batch transform has for its filters."""

import re
from typing import Any

from local_mode.wire import refuse

_NAME = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_STEP = re.compile(
    rf"""\.(?P<name>[^.\[\]*'"\s]+)"""
    rf"""|\[\s*(?P<names>(?:{_NAME})(?:\s*,\s*(?:{_NAME}))*)\s*\]"""
    r"""|\[\s*(?P<numbers>-?\d+(?:\s*,\s*-?\d+)*)\s*\]"""
    r"""|\[\s*(?P<start>-?\d*)\s*:\s*(?P<end>-?\d*)\s*\]"""
)


class Path:
    """What a filter selects of a record.

    ``$``, ``.name``, ``['name', …]``, ``[number, …]`` and ``[start:end]``, as SageMaker has them
    ("Supported JSONPath operators", Associate Prediction Results with Input Records). Several
    names select an object, several numbers and a slice a list.

    Parameters
    ----------
    text : str
    member : str
        The request's member that it is, for the error.

    Raises
    ------
    ApiError
        If it has another operator.
    """

    def __init__(self, text: str, member: str):
        self.text = text
        self._steps: list[Any] = []
        position = 1 if text.startswith("$") else 0
        while position and position < len(text):
            step = _STEP.match(text, position)
            if step is None:
                break
            self._steps.append(_read(step))
            position = step.end()
        if not text.startswith("$") or position < len(text):
            raise refuse(
                f"{member} {text!r} is not a JSONPath that batch transform has: $, then .name, "
                "['name'], [number] or [start:end]"
            )

    @property
    def is_whole(self) -> bool:
        """Whether the whole record is selected."""
        return not self._steps

    def select(self, record: Any) -> Any:
        """Return what is selected of a record.

        Raises
        ------
        ValueError
            If the record has no such part.
        """
        value = record
        for step in self._steps:
            expected = list if isinstance(step, slice) or isinstance(step[0], int) else dict
            if not isinstance(value, expected):
                raise ValueError(f"{self.text} selects nothing of the record {record!r:.200}")
            try:
                if isinstance(step, slice):
                    value = value[step]
                elif len(step) == 1:
                    value = value[step[0]]
                elif expected is list:
                    value = [value[number] for number in step]
                else:
                    value = {name: value[name] for name in step}
            except (KeyError, IndexError):
                raise ValueError(
                    f"{self.text} selects nothing of the record {record!r:.200}"
                ) from None
        return value


def _read(step: re.Match) -> slice | list[int] | list[str]:
    if step["name"]:
        return [step["name"]]
    if step["names"]:
        return [re.sub(r"\\(.)", r"\1", name[1:-1]) for name in re.findall(_NAME, step["names"])]
    if step["numbers"]:
        return [int(number) for number in step["numbers"].split(",")]
    return slice(*(int(step[end]) if step[end] else None for end in ("start", "end")))
