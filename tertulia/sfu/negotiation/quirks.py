"""Where clients differ in SDP (wire contract 3.3, 3.4); everything else is the same for all."""

from dataclasses import dataclass

from livekit.protocol import models


@dataclass(frozen=True, slots=True)
class Quirks:
    one_codec: bool
    """Sends whatever codec it likes of those answered: answer with the preferred one only."""
    keeps_sections: bool
    """Shows nothing when a section changes its track: every track needs a section of its own (our offers only)."""
    takes_red: bool
    """Plays RED when it negotiated it."""


def quirks_of(client: models.ClientInfo) -> Quirks:
    browser = client.browser.lower()
    system = client.os.lower()
    firefox, safari = "firefox" in browser, "safari" in browser
    return Quirks(
        one_codec=firefox and ("linux" in system or "android" in system),
        keeps_sections=safari,
        takes_red=not (firefox or safari),
    )
