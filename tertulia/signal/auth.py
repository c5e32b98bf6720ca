"""Where a request carries its access token, and what it says (wire contract 1.2). No token, no secret in any text."""

import time
from collections.abc import Mapping

from tertulia.protocol.token import Claims, TokenError, parse_token
from tertulia.signal.backend import Refused
from tertulia.signal.counts import Counts, Drop

BEARER = "bearer "
"""Compared without case (RFC 9110 11.1)."""


class Doorkeys:
    """The API keys whose tokens open this door; `keys` may change while people are connected."""

    def __init__(self, keys: Mapping[str, str], counts: Counts) -> None:
        self.keys = keys
        self._counts = counts

    def claims(self, headers: Mapping[bytes, bytes], query: Mapping[str, str]) -> Claims | None:
        """The verified claims, None without a token. Raises Refused(401)."""
        try:
            token = _token(headers, query)
            return parse_token(token, self.keys, int(time.time())) if token else None
        except TokenError as error:
            self._counts[Drop.BAD_TOKEN] += 1
            raise Refused(401, f"invalid authorization token: {error.message}") from None
        except Refused:
            self._counts[Drop.BAD_TOKEN] += 1
            raise


def _token(headers: Mapping[bytes, bytes], query: Mapping[str, str]) -> str:
    header = headers.get(b"authorization")
    if header is None:
        return query.get("access_token", "").strip()
    text = header.decode("latin-1").strip()
    if not text.lower().startswith(BEARER):
        raise Refused(401, "invalid authorization header. Must start with Bearer ")
    return text[len(BEARER) :].strip()
