"""Two kinds of wrong that are not ours: the peer's (`PeerError`) and the caller's (`RequestError`).

Our own mistakes are assertions: they end one room with a logged reason, never the node.
"""


class PeerError(Exception):
    """The network peer sent something it must not: count it, answer if there is an answer, drop it."""


class RequestError(Exception):
    """A request of a client or an API caller that cannot be fulfilled.

    `code` is a Twirp error code (https://twitchtv.github.io/twirp/docs/errors.html), e.g. `not_found`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
