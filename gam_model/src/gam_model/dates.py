"""Dates and durations as numbers: days since 1970-01-01 UTC, and days.

An instant has the same number whatever its type, unit or time zone.
"""

import contextlib
import re
from datetime import date

import numpy as np

UNITS = ("date", "duration")
_PER_DAY = {"D": 1, "h": 24, "m": 1440, "s": 86_400, "ms": 86_400 * 10**3, "us": 86_400 * 10**6}
_PER_DAY |= {"ns": 86_400 * 10**9, "ps": 86_400 * 10**12}
_EPOCH = date(1970, 1, 1).toordinal()
_DATE = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?:[T ](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?:Z|(?P<sign>[+-])(?P<zone_h>\d\d)(?::?(?P<zone_m>\d\d))?)?)?",
    re.ASCII | re.IGNORECASE,
)
_DURATION = re.compile(
    r"(?P<sign>[+-])?P(?=[\dT+-])(?:(?P<weeks>\d{1,9})W)?(?:(?P<days>[+-]?\d{1,9})D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d{1,9})H)?(?:(?P<minutes>\d{1,9})M)?"
    r"(?:(?P<seconds>\d{1,12})(?:[.,](?P<fraction>\d{1,9}))?S)?)?",
    re.ASCII | re.IGNORECASE,
)
_EXAMPLES = {
    "date": "a date in ISO 8601, such as 2024-05-01 or 2024-05-01T12:00:00Z",
    "duration": "a duration in ISO 8601, such as P3D or P1DT2H30M",
}


def to_days(values):
    """
    Convert NumPy dates or durations to days.

    Parameters
    ----------
    values : ndarray of datetime64 or timedelta64
        Of any unit; dates are UTC.

    Returns
    -------
    ndarray of float64, of the same shape
        Days since 1970-01-01, or days; NaN for NaT. Of equal instants the same number.

    Raises
    ------
    ValueError
        If these are durations in months or years, which have no length in days.

    Examples
    --------
    >>> to_days(np.array(["1970-01-02T12", "NaT"], dtype="datetime64[ns]"))
    array([1.5, nan])
    """
    missing, kind = np.isnat(values), values.dtype.kind
    unit, count = np.datetime_data(values.dtype)
    if missing.all():
        return np.full(values.shape, np.nan)
    if kind == "m" and unit in "YM":
        raise ValueError("durations in months or years have no length in days")
    if unit not in _PER_DAY or count != 1:
        unit = unit if unit in _PER_DAY else "D" if unit in "YMW" else "ps"
        values = values.astype(f"{kind}8[{unit}]")
    # The remainder is below 2^53 for all units down to ns, so the quotient is rounded only once.
    count = values.astype(np.int64)
    whole, rest = np.divmod(abs(count), _PER_DAY[unit])
    return np.where(missing, np.nan, np.sign(count) * (whole + rest / _PER_DAY[unit]))


def from_days(days, unit):
    """
    Convert days to NumPy dates or durations.

    Parameters
    ----------
    days : array-like of float
        Days since 1970-01-01, or days; NaN where missing.
    unit : {"date", "duration"}
        What they are.

    Returns
    -------
    ndarray of datetime64[us] or timedelta64[us], of the same shape

    Examples
    --------
    >>> from_days([1.5], "date")
    array(['1970-01-02T12:00:00.000000'], dtype='datetime64[us]')
    """
    days = np.asarray(days, dtype=float)
    missing = np.isnan(days)
    whole = np.floor(np.where(missing, 0.0, days))
    rest = np.rint((np.where(missing, 0.0, days) - whole) * _PER_DAY["us"])
    instants = whole.astype(np.int64) * _PER_DAY["us"] + rest.astype(np.int64)
    kind = "M8[us]" if unit == "date" else "m8[us]"
    return np.where(missing, np.array("NaT", kind), instants.astype(kind))


def write_iso(days, unit):
    """
    Format a date or a duration as text.

    Parameters
    ----------
    days : float
        Days since 1970-01-01, or days.
    unit : {"date", "duration"}
        What they are.

    Returns
    -------
    str
        ISO 8601, to the second: of midnight only the date, else with a Z for UTC.

    Examples
    --------
    >>> write_iso(1.0, "date"), write_iso(1.5, "date"), write_iso(1.5, "duration")
    ('1970-01-02', '1970-01-02T12:00:00Z', 'P1DT12H')
    """
    seconds = round(days * 86_400)
    if unit == "date":
        text = str(np.datetime64(seconds, "s"))
        return text.removesuffix("T00:00:00") if seconds % 86_400 == 0 else f"{text}Z"
    size, parts = abs(seconds), []
    for mark, length in (("D", 86_400), ("H", 3_600), ("M", 60), ("S", 1)):
        count, size = divmod(size, length)
        parts.append(f"{count}{mark}" if count else "")
    time = "".join(parts[1:])
    return f"{'-' * (seconds < 0)}P{parts[0]}{'T' * bool(time)}{time}" if seconds else "P0D"


def read_iso(text, unit):
    """
    Parse a date or a duration.

    Parameters
    ----------
    text : str
        A date in ISO 8601, with or without a time, which is UTC unless it has an offset; or a
        duration in weeks, days, hours, minutes and seconds.
    unit : {"date", "duration"}
        Kind of value to parse.

    Returns
    -------
    float
        Days since 1970-01-01, or days.

    Raises
    ------
    ValueError
        If the text is something else.

    Examples
    --------
    >>> read_iso("1970-01-02T14:00:00+02:00", "date"), read_iso("P1DT12H", "duration")
    (1.5, 1.5)
    """
    found = (_DATE if unit == "date" else _DURATION).fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        return (_read_date if unit == "date" else _read_duration)(found)
    except ValueError:  # also for impossible dates such as 30 February
        raise ValueError(f"is not {_EXAMPLES[unit]}") from None


def recognize(texts):
    """
    Parse a column of text as dates or durations, if every cell is one.

    Parameters
    ----------
    texts : sequence of (str or None)
        Cells; None where one is missing.

    Returns
    -------
    ndarray of datetime64[us] or timedelta64[us], or None
        NaT where a cell is missing; None if a cell is neither, or all are missing.

    Examples
    --------
    >>> recognize(["2024-05-01", None]).astype("datetime64[D]")
    array(['2024-05-01',        'NaT'], dtype='datetime64[D]')
    >>> recognize(["2024-05-01", "soon"])
    """
    if any(text is not None for text in texts):
        for unit in UNITS:
            with contextlib.suppress(ValueError):
                days = [np.nan if text is None else read_iso(text, unit) for text in texts]
                return from_days(days, unit)
    return None


def _read_date(found):
    day = date(*map(int, found.group("year", "month", "day"))).toordinal() - _EPOCH
    hour, minute, second, zone_h, zone_m = (
        int(part or 0) for part in found.group("hour", "minute", "second", "zone_h", "zone_m")
    )
    if max(hour, zone_h) > 23 or max(minute, second, zone_m) > 59:
        raise ValueError
    ahead = (zone_h * 60 + zone_m) * (-1 if found["sign"] == "-" else 1)
    return _count_days(day * 86_400 + hour * 3_600 + (minute - ahead) * 60 + second, found)


def _read_duration(found):
    weeks, days, hours, minutes, seconds = (
        int(part or 0) for part in found.group("weeks", "days", "hours", "minutes", "seconds")
    )
    seconds += (weeks * 7 + days) * 86_400 + hours * 3_600 + minutes * 60
    days = _count_days(seconds, found)
    return -days if found["sign"] == "-" else days


def _count_days(seconds, found):
    """Round as `to_days` does, so that text and dates give the same number."""
    count = seconds * 10**9 + int((found["fraction"] or "").ljust(9, "0"))
    whole, rest = divmod(abs(count), _PER_DAY["ns"])
    days = whole + rest / _PER_DAY["ns"]
    return -days if count < 0 else days
