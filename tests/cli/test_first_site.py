"""A site's first attempt: what `site init` finds before it writes, and what it does the second time."""

import json
import re
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from fedllm.config.site import PolicyConfig
from tests.cli.in_process import Done
from tests.cli.test_site_verbs import Place

CONFIG = {
    "name": "fed",
    "model": {"base": "tiny"},
    "task": {"labels": {"positive": " positive", "negative": " negative"}, "template": "{text} :"},
}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.config.write_text(yaml.safe_dump(CONFIG | {"store": {"url": f"file://{tmp_path / 'store'}"}}))
    write(place.data, rows(20))
    return place


def rows(count: int) -> list[dict[str, object]]:
    return [{"text": f"text {n}", "label": ("positive", "negative")[n % 2]} for n in range(count)]


def write(path: Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def init(place: Place, data: Path, *more: str | Path) -> Done:
    return place.run("site", "init", "harbour", "--data", data, *more)


def refused(place: Place, done: Done, code: int, *reasons: str) -> None:
    """One line on stderr, a true exit code, and nothing written."""
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    for reason in reasons:
        assert reason in done.stderr
    assert not (place.home / "sites").exists()


def test_rows_are_checked_against_the_federations_task_line_by_line(place: Place) -> None:
    records = rows(40)
    records[4]["label"] = "neutral"
    del records[6]["text"]
    records[8]["text"] = None
    records[10] = records[9]
    write(place.data, records)
    told = place.told("site", "init", "harbour", "--data", place.data, "--config", place.config)
    assert (told["state"], told["examples"], told["left_out"]) == ("made", 37, 3)
    left_out = (
        "3 of 40 rows are left out: line 5: label 'neutral' is not in task.labels (negative, positive); "
        "line 7: no field 'text'; it has 'label'; line 9: 'text' is null; write a text, or leave the line out"
    )
    assert told["findings"] == [
        left_out,
        "labels: negative 21, positive 16",
        "rows with the content of an earlier row: 1, line 11: as line 10",
    ]
    site = yaml.safe_load((Path(told["home"]) / "site.yaml").read_text())
    assert site["base"] == "tiny"  # the federation's


def test_too_many_bad_rows_are_refused_before_anything_is_written(place: Place) -> None:
    records = rows(10) + [{"text": "a", "label": "neutral"}] * 5
    write(place.data, records)
    done = init(place, place.data, "--config", place.config)
    refused(place, done, 1, "5 of 15 rows cannot be used", "lines 11, 12, 13 and 2 more: label 'neutral'")
    done = init(place, place.data, "--config", place.config, "--max-left-out", "0.5")
    assert done.returncode == 0, done.stderr
    site = yaml.safe_load((place.home / "sites" / "harbour" / "site.yaml").read_text())
    assert site["policy"] == {"max_left_out": 0.5}


def test_labels_in_other_letters_are_recognised(place: Place) -> None:
    write(place.data, [{"text": f"text {n}", "label": "Positive"} for n in range(9)])
    done = init(place, place.data, "--config", place.config)
    refused(place, done, 1, "did you mean 'positive'?", "The federation sets the names of fields and labels")


def test_a_home_that_is_a_file_and_data_that_cannot_be_looked_at_are_one_line(place: Place) -> None:
    file = place.data.with_name("file")
    file.write_text("")
    refused(place, init(place, place.data, "--home", file), 1, "is a file or lies below one")
    refused(place, init(place, Path("x" * 300)), 1, "cannot be read: File name too long")


def test_the_site_file_shows_what_a_policy_may_say(place: Place) -> None:
    assert init(place, place.data).returncode == 0
    text = (place.home / "sites" / "harbour" / "site.yaml").read_text()
    shown = dict(re.findall(r"(?m)^#   (\w+): (\S+)", text))
    assert {"max_steps", "hours", "total_epsilon"} <= set(shown)
    given = PolicyConfig.model_validate({name: yaml.safe_load(value) for name, value in shown.items()})
    assert given == PolicyConfig(), "they are the defaults"


@pytest.mark.parametrize("base", ["./nowhere", "none.gguf", "~/no/such/folder"])
def test_an_unknown_base_is_refused_before_anything_is_written(place: Place, base: str) -> None:
    refused(place, init(place, place.data, "--base", base), 1, f"--base {base}: no ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"text,label\na,positive\n", "CSV; convert it to JSON lines"),
        (b'{"messages": [{"role": "user", "content": "a"}]}\n', "question and answer as two fields"),
        ('{"text": "a"}\n'.encode("utf-16"), "UTF-16"),
        (b"", "holds no records"),
        (None, "no such file; name this site's JSON lines: --data FILE"),
    ],
)
def test_a_file_that_is_no_json_lines_is_refused_with_what_to_do(
    place: Place, content: bytes | None, reason: str
) -> None:
    place.data.unlink()
    if content is not None:
        place.data.write_bytes(content)
    refused(place, init(place, place.data, "--config", place.config), 1, reason)


def test_the_same_again_changes_nothing_and_says_so(place: Place) -> None:
    first = place.told("site", "init", "harbour", "--data", place.data, "--base", "tiny")
    home = Path(first["home"])
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    again = init(place, place.data)
    assert again.returncode == 0
    assert "the site exists in" in again.stdout
    assert "nothing is changed" in again.stdout
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_other_data_need_replace_which_keeps_keys_ledger_and_the_rest_of_the_file(place: Place) -> None:
    first = place.told("site", "init", "harbour", "--data", place.data, "--base", "tiny")
    home = Path(first["home"])
    file = home / "site.yaml"
    file.write_text(file.read_text() + "# ours\npolicy: {max_rank: 4}  # small\n")
    (home / "ledger.db").write_bytes(b"what was spent")
    other = place.folder / "Häfen 2.jsonl"
    write(other, rows(5))
    before = file.read_text()
    for more in ([other], [place.data, "--base", "smollm2-135m"]):
        done = init(place, *more)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "harbour exists, with" in done.stderr
        assert "--replace" in done.stderr
        assert file.read_text() == before
    replaced = place.told("site", "init", "harbour", "--data", other, "--replace")
    assert (replaced["state"], replaced["examples"]) == ("replaced", 5)
    assert replaced["fingerprint"] == first["fingerprint"]
    assert (home / "ledger.db").read_bytes() == b"what was spent"
    site = yaml.safe_load(file.read_text())
    assert site == {"name": "harbour", "data": str(other), "base": "tiny", "policy": {"max_rank": 4}}
    assert file.read_text().endswith("# ours\npolicy: {max_rank: 4}  # small\n")


def test_data_are_not_replaced_under_a_running_agent(place: Place) -> None:
    told = place.told("site", "init", "harbour", "--data", place.data, "--base", "tiny")
    other = place.folder / "other.jsonl"
    write(other, rows(5))
    with FileLock(Path(told["home"]) / "agent.lock"):
        done = init(place, other, "--replace")
    assert (done.returncode, "agent runs" in done.stderr) == (1, True)


def test_the_doctor_makes_the_same_check(place: Place) -> None:
    records = rows(40)
    records[4]["label"] = "neutral"
    write(place.data, records)
    home = place.told("site", "init", "harbour", "--data", place.data, "--config", place.config)["home"]
    looked = place.run("doctor", "--site", home, "--json")
    checks = json.loads(looked.stdout.splitlines()[-1])["checks"]
    said = [(check["status"], check["detail"]) for check in checks if check["name"] in {"data", "records"}]
    assert said[0] == ("ok", f"39 records in {place.data}")
    assert said[1][0] == "warn"
    assert said[1][1].startswith("1 of 40 rows are left out: line 5: label 'neutral'")
    write(place.data, rows(10) + [{"text": "a", "label": "neutral"}] * 5)
    looked = place.run("doctor", "--site", home, "--json")
    checks = {check["name"]: check for check in json.loads(looked.stdout.splitlines()[-1])["checks"]}
    assert (looked.returncode, checks["data"]["status"]) == (1, "fail")
    assert "lines 11, 12, 13 and 2 more: label 'neutral'" in checks["data"]["detail"]
