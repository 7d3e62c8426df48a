"""What the terminal says when the service is ready: where to open it, the setup code, how to stop.

The only text for people on standard output; everything else is a log event on standard error.
"""

from typing import Final

from session_service.base.layout import Layout

KEYS_LINE: Final = (
    "  Keys      not safe yet: session-service keys recovery makes a code for paper,\n"
    "            without which losing this machine loses every saved file"
)


class Greeting:
    """Prints once per start."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def show(self, *, address: str, setup_code: str | None, hold_s: float) -> None:
        """Print where to open the service and, while there is no administrator, the setup code."""
        minutes = f"{hold_s / 60:g} minutes" if hold_s >= 60 else f"{hold_s:g} seconds"
        lines = ["", f"  Open      {address}"]
        if setup_code is not None:
            lines.append(_code_line(setup_code))
        lines += [
            f"  Hold      a dropped desktop waits {minutes} for its user",
            f"  State     {self._layout.root}",
            "  Stop      Ctrl-C stops the service and leaves the desktops running;",
            "            ./deploy/down --end-sessions saves and closes them first",
            "",
        ]
        print("\n".join(lines), flush=True)  # noqa: T201 - the one text for people

    def show_keys(self) -> None:
        """Print that the setup is not finished: the key of everything exists once only."""
        print(KEYS_LINE, flush=True)  # noqa: T201 - the one text for people

    def show_code(self, setup_code: str) -> None:
        """Print a further setup code; the one before has ended."""
        print(_code_line(setup_code), flush=True)  # noqa: T201 - the one text for people


def _code_line(setup_code: str) -> str:
    return f"  Setup     {setup_code}   (type it into the page; good for 15 minutes)"
