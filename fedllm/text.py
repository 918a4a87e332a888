"""What others wrote, made fit to be shown."""

LONGEST = 500  # characters


def one_line(text: str) -> str:
    """What may quote a message, fit for a log, a database and a terminal: printable, and not long."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[: LONGEST + 1])
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"
