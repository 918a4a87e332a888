"""docs/privacy.md lists everything that leaves a site under DP: messages have these fields and no other."""

import re
from pathlib import Path

from pydantic import BaseModel

from fedllm.protocol import messages
from fedllm.protocol.entry import LedgerEntry
from fedllm.protocol.messages import Answer, Card, Message, PublicKeys, Reply, Sealed, Update

PAGE = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")
OF_THE_COORDINATOR = {
    messages.Roster,
    messages.Head,
    messages.Plan,
    messages.Query,
    messages.Closed,
    messages.Report,
    messages.Invitation,
}


def table() -> dict[str, set[str]]:
    """What the page names, by kind of message."""
    section = PAGE.split("### Everything that leaves a site under DP\n")[1].split("\n#")[0]
    found: dict[str, set[str]] = {}
    for line in section.splitlines():
        if line.startswith("| ") and not line.startswith("| message"):
            kind, fields, _ = (cell.strip() for cell in line.strip("|").split("|"))
            found.setdefault(kind.strip("`"), set()).update(re.findall(r"`(\w+)`", fields))
    return found


def fields(*kinds: type[BaseModel]) -> set[str]:
    return {field.alias or name for kind in kinds for name, field in kind.model_fields.items()}


def test_the_table_names_every_field_of_what_a_site_says_and_nothing_else() -> None:
    told = table()
    head = fields(Message) | {"schema"}
    assert told["each"] == head
    assert told["card.json"] == fields(PublicKeys)
    assert told["card"] == fields(Card) - head
    assert told["answer"] == fields(Answer) - head
    assert told["update"] == fields(Update, Sealed, LedgerEntry) - head
    assert told["reply"] == fields(Reply) - head


def test_there_is_no_further_kind_of_message_that_a_site_might_send() -> None:
    assert set(Message.__subclasses__()) - OF_THE_COORDINATOR == {Card, Answer, Update, Reply}
