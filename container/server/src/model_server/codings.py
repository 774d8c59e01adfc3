"""What the Content-Encoding of a request says, undone: gzip and deflate."""

import zlib

PIECE = 16 * 1024  # bytes that are read at once, as zlib copies what follows the end of a stream


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
    """Return a body as it was before it was compressed.

    Parameters
    ----------
    body : bytes
    coding : str
        The Content-Encoding header.
    limit : int
        Bytes that the result may have; no more than one more is ever made.

    Returns
    -------
    bytes

    Raises
    ------
    CodingError
        415 for a coding that is not known here, or for two of them; 413 for a body that would be
        too large, 400 for one that is not what its coding says.
    """
    names = [name.strip().lower() for name in coding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return body
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        raise CodingError(
            f"Content-Encoding {coding[:100]!r} is not supported; send gzip, deflate or none", 415
        )
    (name,) = names
    try:
        decoded = _inflate(body, 31 if name != "deflate" else _find_window(body), limit)
    except zlib.error:
        decoded = None
    if decoded is None:
        raise CodingError(f"the body is not {name} data, or not all of it")
    if len(decoded) > limit:
        raise CodingError(f"the body is larger than {limit} bytes; send fewer rows", 413)
    return bytes(decoded)


def _find_window(body: bytes) -> int:
    # "deflate" means zlib's format, but some clients send what is inside of it alone.
    is_zlib = len(body) >= 2 and body[0] & 15 == 8 and (256 * body[0] + body[1]) % 31 == 0
    return 15 if is_zlib else -15


def _inflate(body: bytes, window: int, limit: int) -> bytearray | None:
    # None if the body's end is not a stream's end.
    decoded, stream = bytearray(), zlib.decompressobj(window)
    for start in range(0, len(body), PIECE):
        piece = body[start : start + PIECE]
        while piece and len(decoded) <= limit:
            if stream.eof:
                if window != 31:
                    return None
                stream = zlib.decompressobj(window)  # gzip may have several, one after the other
            decoded += stream.decompress(piece, limit + 1 - len(decoded))
            piece = stream.unused_data if stream.eof else stream.unconsumed_tail
    return decoded if stream.eof or len(decoded) > limit else None
