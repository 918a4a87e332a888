"""Sanitise text from other parties before display."""

LONGEST = 500  # characters


def one_line(text: str) -> str:
    """Return printable text of at most `LONGEST` characters, safe for logs, databases and terminals."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text[: LONGEST + 1])
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
