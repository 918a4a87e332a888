"""Sanitise text from other parties before display."""

LONGEST = 500  # characters


def one_line(text: str) -> str:
    """Return printable text of at most `LONGEST` characters, safe for logs, databases and terminals."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[: LONGEST + 1])
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"
