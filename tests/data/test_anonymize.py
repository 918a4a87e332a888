"""Personal data that is found becomes a pseudonym; what is not found stays, and is measured."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedllm.bench.planted import Score, measure
from fedllm.bench.planted_values import KINDS, seeded
from fedllm.cli.anonymizing import anonymized, measured
from fedllm.data.anonymize import anonymize, anonymize_file, pseudonym, read_names
from fedllm.data.personal import Finder
from fedllm.data.records import read_records, write_records
from fedllm.data.site_key import read_key, site_key
from fedllm.errors import ConfigError, DataError, IdentityError

KEY, OTHER = b"k" * 32, b"o" * 32
# Published examples of valid numbers: ISO 13616's, card networks' test numbers, RFC 5737, RFC 3849.
KNOWN = {
    "EMAIL": "anna.schmidt@example.com",
    "CARD": "4111 1111 1111 1111",
    "IBAN": "DE89 3704 0044 0532 0130 00",
    "IP": "203.0.113.7",
    "PHONE": "+49 30 901820",
    "URL": "https://example.org/~anna",
}


@pytest.fixture(scope="module")
def finder() -> Finder:
    return Finder(names=["Anna Schmidt", "O'Neill"])


def changed(finder: Finder, text: str, key: bytes = KEY) -> str:
    return anonymize([{"text": text}], ["text"], finder, key)[0][0]["text"]


@pytest.mark.parametrize("entity", KNOWN)
def test_a_value_of_each_kind_becomes_its_pseudonym_and_the_words_around_it_stay(
    finder: Finder, entity: str
) -> None:
    text = changed(finder, f"Ask {KNOWN[entity]} - it was good.")
    assert text == f"Ask {pseudonym(KEY, entity, KNOWN[entity])} - it was good."
    assert re.fullmatch(rf"Ask <{entity}:[0-9a-f]{{10}}> - it was good\.", text)


def test_a_pseudonym_is_an_hmac_that_anybody_with_the_key_can_make(finder: Finder) -> None:
    # printf 'fedllm.pseudonym/1\nEMAIL\na@example.com' | openssl dgst -sha256 -hmac <32 times k>
    assert changed(finder, "a@example.com") == "<EMAIL:3466707983>"


def test_equal_values_are_equal_under_one_key_and_unlike_under_another(finder: Finder) -> None:
    texts = [changed(finder, f"{KNOWN['EMAIL']} {word}", key) for word in "ab" for key in (KEY, OTHER)]
    first, first_other, second, second_other = (text.split()[0] for text in texts)
    assert (first, first_other) == (second, second_other)
    assert first != first_other
    assert first != changed(finder, "bjorn@example.com")


@pytest.mark.parametrize(
    ("entity", "one", "other"),
    [
        ("EMAIL", "Anna@Example.com", "anna@example.com"),
        ("CARD", "4111-1111-1111-1111", "4111111111111111"),
        ("IBAN", "DE89 3704 0044 0532 0130 00", "de89370400440532013000"),
        ("PHONE", "(212) 555-0123", "212.555.0123"),
        ("NAME", "ANNA  SCHMIDT", "Anna Schmidt"),
    ],
)
def test_spacing_and_capitals_do_not_make_another_pseudonym(entity: str, one: str, other: str) -> None:
    assert pseudonym(KEY, entity, one) == pseudonym(KEY, entity, other)


def test_neighbours_are_pseudonyms_of_their_own(finder: Finder) -> None:
    a, b = (pseudonym(KEY, "EMAIL", f"{name}@example.com") for name in "ab")
    assert changed(finder, "a@example.com b@example.com") == f"{a} {b}"


def test_a_number_that_another_one_hides_is_found_at_a_second_look(finder: Finder) -> None:
    assert changed(finder, "call 212-555-0123 415-555-0123 now").count("<PHONE:") == 2


def test_names_are_found_from_the_list_in_any_case_and_no_others(finder: Finder) -> None:
    told = changed(finder, "anna schmidt met O'Neill and Bjorn; Annabel did not")
    assert re.fullmatch(r"<NAME:\w{10}> met <NAME:\w{10}> and Bjorn; Annabel did not", told)
    assert changed(Finder(), "Anna Schmidt") == "Anna Schmidt"


def test_numbers_whose_check_digit_is_wrong_stay(finder: Finder) -> None:
    assert "CARD" not in changed(finder, "order 4111 1111 1111 1112")
    assert "IBAN" not in changed(finder, "code DE88 3704 0044 0532 0130 00")


def test_addresses_of_a_houses_own_network_are_found(finder: Finder) -> None:
    assert changed(finder, "to bjorn@intranet.local").startswith("to <EMAIL:")


def test_national_numbers_of_a_country_are_found_where_it_is_named() -> None:
    assert changed(Finder(), "llama 912 345 678") == "llama 912 345 678"
    assert changed(Finder(regions=["ES"]), "llama 912 345 678").startswith("llama <PHONE:")
    with pytest.raises(ConfigError, match="two letters"):
        Finder(regions=["Spain"]).load()


def test_anonymizing_twice_changes_nothing_more(finder: Finder) -> None:
    once = changed(finder, " and ".join([*KNOWN.values(), "Anna Schmidt"]))
    assert changed(finder, once) == once
    assert changed(finder, once, OTHER) == once
    digits = "<EMAIL:2125550123> <PHONE:4111111111>"  # pseudonyms may happen to be digits alone
    assert changed(finder, digits) == digits


def test_a_text_of_any_length_is_read(finder: Finder) -> None:
    told = changed(finder, ("x" * 49 + " ") * 21_000 + KNOWN["EMAIL"])  # spaCy stops at a million characters
    assert told.endswith(pseudonym(KEY, "EMAIL", KNOWN["EMAIL"]))


def test_only_named_fields_are_changed_and_never_ids_and_labels(finder: Finder) -> None:
    mail = KNOWN["EMAIL"]
    record = {"id": mail, "label": mail, "text": mail, "title": mail, "note": mail}
    done, counts = anonymize([record], ["text", "title"], finder, KEY)
    told = pseudonym(KEY, "EMAIL", mail)
    assert done == [record | {"text": told, "title": told}]
    assert counts == {"EMAIL": 2}
    for kept in ("id", "label"):
        with pytest.raises(ConfigError, match="never changed"):
            anonymize([record], ["text", kept], finder, KEY)


def test_a_field_that_no_record_has_is_a_slip_and_one_that_some_have_is_not(finder: Finder) -> None:
    records = [{"text": "a"}, {"text": "b", "title": KNOWN["EMAIL"]}]
    assert anonymize(records, ["text", "title"], finder, KEY)[1] == {"EMAIL": 1}
    with pytest.raises(DataError, match="titel: no record has such a field"):
        anonymize(records, ["titel"], finder, KEY)


def test_a_file_is_written_whole_with_its_numbers_and_is_no_wider_open(
    finder: Finder, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "a@example.com", "stars": 4.50, "age": 7}\n\n{"text": "b"}\n')
    source.chmod(0o600)
    counts, drawn = anonymize_file(source, target, ["text"], finder, tmp_path / "k")
    assert (counts, drawn) == ({"EMAIL": 1}, True)
    first = json.loads(target.read_text().splitlines()[0])
    assert (first["stars"], first["age"], first["text"][:7]) == (4.5, 7, "<EMAIL:")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert anonymize_file(source, target, ["text"], finder, tmp_path / "k") == (counts, False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "k", "out.jsonl"]


@pytest.mark.parametrize("way", ["the same", "a symbolic link", "a hard link"])
def test_it_never_writes_over_what_it_reads(finder: Finder, tmp_path: Path, way: str) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_records(source, [{"text": KNOWN["EMAIL"]}])
    before = source.read_bytes()
    if way == "the same":
        target = tmp_path / "." / "in.jsonl"
    elif way == "a symbolic link":
        target.symlink_to(source)
    else:
        target.hardlink_to(source)
    with pytest.raises(ConfigError, match="is the input file"):
        anonymize_file(source, target, ["text"], finder, tmp_path / "k")
    assert source.read_bytes() == before


def test_a_failure_leaves_what_was_there(finder: Finder, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "a"}\nbroken\n')
    target.write_text("former\n")
    with pytest.raises(DataError, match="line 2"):
        anonymize_file(source, target, ["text"], finder, tmp_path / "k")
    assert target.read_text() == "former\n"
    write_records(source, [{"text": "a"}])
    with pytest.raises(DataError, match="cannot be written"):
        anonymize_file(source, tmp_path / "none" / "out.jsonl", ["text"], finder, tmp_path / "k")


def test_what_the_verb_tells_as_json_claims_no_differential_privacy(finder: Finder, tmp_path: Path) -> None:
    write_records(tmp_path / "in.jsonl", [{"text": "a@example.com, b@example.com, 203.0.113.7"}])
    payload, _ = anonymized(tmp_path / "in.jsonl", tmp_path / "out.jsonl", ["text"], finder, tmp_path / "k")
    assert payload == {
        "schema": "fedllm.data-anonymize/1",
        "path": str(tmp_path / "out.jsonl"),
        "replaced": {"EMAIL": 2, "IP": 1},
        "key": str(tmp_path / "k"),
        "drawn": True,
        "differential_privacy": False,
    }


def test_a_key_is_drawn_once_is_its_owners_alone_and_is_no_key_when_damaged(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    assert read_key(path) is None
    key, drawn = site_key(path)
    assert (len(key), drawn, stat.S_IMODE(path.stat().st_mode)) == (32, True, 0o600)
    assert site_key(path) == (key, False)
    assert site_key(tmp_path / "other")[0] != key
    path.chmod(0o640)
    with pytest.raises(IdentityError, match="chmod 600"):
        site_key(path)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(IdentityError, match="restore it from your backup"):
        site_key(path)


def test_a_list_of_names_is_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("Anna Schmidt \n\nO'Neill\n")
    assert read_names(tmp_path / "names") == ["Anna Schmidt", "O'Neill"]
    (tmp_path / "names").write_text("\n")
    with pytest.raises(DataError, match="holds no names"):
        read_names(tmp_path / "names")


OFFLINE = """
import socket, sys
def away(*_arguments, **_more):
    raise AssertionError("reached for the network")
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = away
socket.getaddrinfo = socket.gethostbyname = away
from fedllm.data.personal import Finder
from fedllm.bench.planted_values import KINDS, seeded
fake = seeded(1)
finder = Finder(names=["Anna"])
found = [finder.spans(form(fake)) for forms in KINDS.values() for form in forms]
print(sum(map(bool, found)))
"""


@pytest.mark.servers
def test_it_works_with_no_network_and_no_cache_and_says_nothing(tmp_path: Path) -> None:
    # What a library fetched before, such as a list of domain suffixes, lies in the home.
    away = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TLDEXTRACT_CACHE": str(tmp_path / "tld")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=os.environ | away, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 40
    assert list(tmp_path.rglob("*")) == []


def test_the_same_seed_plants_the_same_values_and_another_one_others() -> None:
    one, same, other = (
        [form(fake) for forms in KINDS.values() for form in forms] for fake in map(seeded, (1, 1, 2))
    )
    assert one == same
    assert sum(map(str.__ne__, one, other)) > 50


def test_planted_numbers_of_other_countries_have_their_code_and_length() -> None:
    """By ITU-T E.164 and the national numbering plans, not by the library that the values are drawn with."""
    fake = seeded(4)
    international = [form(fake) for form in KINDS["PHONE"][8:11] for _ in range(5)]
    for number in international:
        assert re.fullmatch(r"(39\d{8,11}|31\d{9}|34\d{9})", re.sub(r"\(0\)|\D", "", number)), number


def test_planted_numbers_have_the_check_digits_of_published_examples() -> None:
    """The generators are judged by arithmetic of their own: Luhn's table, and ISO 7064 over whole numbers."""
    fake = seeded(3)
    for form in KINDS["CARD"]:
        digits = [int(sign) for sign in form(fake) if sign.isdigit()]
        table = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
        assert (sum(digits[-1::-2]) + sum(table[digit] for digit in digits[-2::-2])) % 10 == 0
    for form in KINDS["IBAN"]:
        iban = re.sub(r"\W", "", form(fake)).upper()
        assert int("".join(str(int(sign, 36)) for sign in iban[4:] + iban[:4])) % 97 == 1


def test_what_is_found_of_planted_values_is_what_the_documents_say() -> None:
    payload, text = measured(Finder())
    assert payload["texts"] == "sentiment"
    entities, overall = payload["entities"], payload["overall"]
    assert isinstance(entities, dict)
    assert isinstance(overall, dict)
    floors = {"EMAIL": 0.87, "CARD": 0.96, "IBAN": 0.92, "IP": 0.97, "PHONE": 0.96, "URL": 0.74}
    assert set(entities) == set(floors)
    assert {kind: row["f1"] for kind, row in entities.items() if row["f1"] < floors[kind]} == {}
    assert {row["planted"] for row in entities.values()} == {200}
    assert payload["f1"] == overall["f1"] > 0.90
    assert overall["share_hidden"] > 0.92
    assert "covers every character" in text
    assert "names are found from a list alone" in text


def test_scores_count_what_is_right_what_is_wrong_and_what_is_left() -> None:
    score = Score(planted=10, found=8, right=6, hidden=7)
    assert (score.precision, score.recall, score.f1, score.share_hidden) == (0.75, 0.6, 12 / 18, 0.7)


def test_a_value_that_is_found_in_part_or_as_another_kind_is_not_right() -> None:
    texts = ["nothing to see"]
    scores = measure(Finder(), texts, each=10, seed=1)  # one a format
    email = scores["EMAIL"]
    assert (email.planted, email.right) == (10, 8)  # `a [at] b` and `a(at)b` are not found
    assert email.hidden == 8


@pytest.mark.servers
def test_without_presidio_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    write_records(tmp_path / "in.jsonl", [{"text": "a"}])
    code = (
        "import sys; sys.modules['presidio_analyzer'] = None\n"
        "sys.argv = ['fedllm', 'data', 'anonymize', 'in.jsonl', 'out.jsonl', '--key', 'k']\n"
        "from fedllm.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "pip install 'fedllm[anonymize]'" in done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl"]


def test_a_language_that_is_not_known_is_one_line() -> None:
    with pytest.raises(ConfigError, match="texts in 'zz' cannot be read"):
        Finder("zz").load()


def test_other_languages_find_the_same_patterns(tmp_path: Path) -> None:
    write_records(tmp_path / "in.jsonl", [{"text": "Schreiben Sie an anna@example.de!"}])
    anonymize_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", ["text"], Finder("de"), tmp_path / "k")
    assert read_records(tmp_path / "out.jsonl")[0]["text"].startswith("Schreiben Sie an <EMAIL:")
