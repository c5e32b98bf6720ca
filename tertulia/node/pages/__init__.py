"""Pages people open in a browser: the demo call, the connection check, tokens for them. Development mode only, unless
the configuration switches them on."""

from tertulia.node.pages.app import MakeToken, pages_app

__all__ = ["MakeToken", "pages_app"]
