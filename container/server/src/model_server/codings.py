"""Decoding of request bodies by Content-Encoding: gzip and deflate."""

import zlib

PIECE = 16 * 1024  # bytes per read; small, as zlib copies the data after the end of a stream


class CodingError(ValueError):
    """A body that cannot be decoded.

    Parameters
    ----------
    message : str
    status : int
    """

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status
        self.headers = {"accept-encoding": "gzip, deflate"} if status == 415 else None


def decode(body: bytes, coding: str, limit: int) -> bytes:
    """Decompress a body.

    Parameters
    ----------
    body : bytes
    coding : str
        The Content-Encoding header.
    limit : int
        Maximum size of the result in bytes; at most one more is produced.

    Returns
    -------
    bytes

    Raises
    ------
    CodingError
        With status 415 for an unsupported coding or several, 413 for a body that would be too
        large, 400 for one that is invalid in its coding.
    """
    names = [name.strip().lower() for name in coding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return body
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        raise CodingError(
            f"Content-Encoding {coding[:100]!r} is not supported; send gzip, deflate or none",
            415,
        )
    (name,) = names
    try:
        decoded = _inflate(body, 31 if name != "deflate" else _find_window(body), limit)
    except zlib.error:
        decoded = None
    if decoded is None:
        raise CodingError(f"the body is not valid {name} data, or is truncated")
    if len(decoded) > limit:
        raise CodingError(f"the body is larger than {limit} bytes; send fewer rows", 413)
    return bytes(decoded)


def _find_window(body: bytes) -> int:
    # "deflate" means zlib's format, but some clients send a raw deflate stream.
    is_zlib = len(body) >= 2 and body[0] & 15 == 8 and (256 * body[0] + body[1]) % 31 == 0
    return 15 if is_zlib else -15


def _inflate(body: bytes, window: int, limit: int) -> bytearray | None:
    # None if the body ends within a stream.
    decoded, stream = bytearray(), zlib.decompressobj(window)
    for start in range(0, len(body), PIECE):
        piece = body[start : start + PIECE]
        while piece and len(decoded) <= limit:
            if stream.eof:
                if window != 31:
                    return None
                stream = zlib.decompressobj(window)  # gzip allows several members in sequence
            decoded += stream.decompress(piece, limit + 1 - len(decoded))
            piece = stream.unused_data if stream.eof else stream.unconsumed_tail
    return decoded if stream.eof or len(decoded) > limit else None
