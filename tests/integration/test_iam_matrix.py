"""What MinIO itself lets a site do: its own prefix, and reading what is meant for it. All else is denied.

Every object asked for is there, so that "denied" is never "not found".
"""

import time
from collections.abc import Iterator
from functools import partial
from itertools import product

import pytest
import urllib3
from raw_s3 import Party

from fedllm.errors import AccessDeniedError, ConfigError, ObjectNotFoundError
from fedllm.exchange.iam import MinioIam, site_policy
from fedllm.exchange.minio_store import MinioStore
from fedllm.stack.minio import MinioServer, ensure_bucket

BUCKET = "iam-matrix"
OTHER_BUCKET = "iam-matrix-other"
_party = partial(Party, bucket=BUCKET)
SITES = ("amazon", "movies", "nyt", "tweets")
FOREIGN = [(me, other) for me, other in product(SITES, SITES) if me != other]

PLANTED = [
    *(f"fed/sites/{site}/card.json" for site in SITES),
    *(f"fed/inbox/{site}/note.json" for site in SITES),
    "fed/coordinator/head.json",
    "fed/coordinator/sites/amazon/x",
    "fed/keyholder/x",
    "fed/other.json",
    "fed/sites/amazon-evil/x",
    "fed/inbox/amazon-evil/x",
    "fed/coordinator-evil/x",
    "fed/sites/movies/sites/amazon/x",
    "fed/sites/amazo/x",
    "other/sites/amazon/x",
    "other/coordinator/head.json",
    "other/inbox/amazon/x",
    "fed2/sites/amazon/x",
    "x/fed/sites/amazon/x",
]
AMAZON_MAY_READ = ("fed/sites/amazon/", "fed/inbox/amazon/", "fed/coordinator/")


@pytest.fixture(scope="module")
def root(minio_server: MinioServer) -> MinioStore:
    keys = (minio_server.access_key, minio_server.secret_key)
    for name in (BUCKET, OTHER_BUCKET):
        ensure_bucket(minio_server.endpoint, name, *keys)
    store = MinioStore(minio_server.endpoint, BUCKET, access_key=keys[0], secret_key=keys[1])
    for key in PLANTED:
        store.put(key, b"planted")
    other = MinioStore(minio_server.endpoint, OTHER_BUCKET, access_key=keys[0], secret_key=keys[1])
    other.put("fed/sites/amazon/x", b"planted")
    return store


@pytest.fixture(scope="module")
def iam(minio_server: MinioServer) -> MinioIam:
    return MinioIam(minio_server.endpoint, minio_server.access_key, minio_server.secret_key, BUCKET)


@pytest.fixture(scope="module")
def parties(minio_server: MinioServer, root: MinioStore, iam: MinioIam) -> Iterator[dict[str, Party]]:
    assert root.bucket == BUCKET
    yield {site: _party(minio_server.endpoint, *iam.add_site("fed", site)) for site in SITES}
    for site in SITES:
        iam.remove_site("fed", site)


@pytest.fixture(autouse=True)
def nothing_planted_changes(root: MinioStore) -> Iterator[None]:
    """Whatever a test tried: the planted objects are as they were, and none is new outside own prefixes."""
    yield
    found = {info.key: info.size for info in root.list("")}
    assert all(found.get(key) == len(b"planted") for key in PLANTED)
    own = tuple(f"fed/sites/{site}/" for site in SITES)
    assert [key for key in found if key not in PLANTED and not key.startswith(own)] == []


@pytest.mark.parametrize("site", SITES)
def test_a_site_writes_and_reads_its_own_and_reads_what_is_meant_for_it(
    parties: dict[str, Party], site: str
) -> None:
    me = parties[site]
    assert me.put(f"fed/sites/{site}/r1/1/update.bin", b"mine").status == 200
    assert me.get(f"fed/sites/{site}/r1/1/update.bin").body == b"mine"
    assert me.get("fed/coordinator/head.json").body == b"planted"
    assert me.get(f"fed/inbox/{site}/note.json").body == b"planted"


def test_a_site_sends_a_large_file(
    parties: dict[str, Party], tmp_path_factory: pytest.TempPathFactory
) -> None:
    me = parties["amazon"]
    store = MinioStore(me.endpoint, BUCKET, access_key=me.access_key, secret_key=me.secret_key)
    path = tmp_path_factory.mktemp("large") / "update.bin"
    path.write_bytes(b"x" * (17 << 20))
    assert store.put_file("fed/sites/amazon/r1/1/large.bin", path).size == 17 << 20
    before = int(time.time())  # the store tells whole seconds
    assert before <= store.now() <= time.time()


def test_a_site_is_told_what_is_not_there_where_it_may_read(parties: dict[str, Party]) -> None:
    me = parties["amazon"]
    store = MinioStore(me.endpoint, BUCKET, access_key=me.access_key, secret_key=me.secret_key)
    with pytest.raises(ObjectNotFoundError):
        store.get("fed/coordinator/none.json", limit=9)
    with pytest.raises(ObjectNotFoundError):
        store.stat("fed/sites/amazon/none.json")
    with pytest.raises(AccessDeniedError):
        store.get("fed/sites/movies/none.json", limit=9)


@pytest.mark.parametrize(("me", "other"), FOREIGN)
def test_no_site_touches_anothers_prefix(parties: dict[str, Party], me: str, other: str) -> None:
    party = parties[me]
    for prefix in (f"fed/sites/{other}/", f"fed/inbox/{other}/"):
        name = "card.json" if "sites" in prefix else "note.json"
        assert party.get(prefix + name).denied
        assert party.put(prefix + name).denied
        assert party.put(prefix + "new").denied
        assert party.delete(prefix + name).denied
        assert party.list(prefix).denied
        assert party.listen(prefix).denied


@pytest.mark.parametrize("me", SITES)
def test_no_site_writes_or_lists_what_it_may_read(parties: dict[str, Party], me: str) -> None:
    party = parties[me]
    for prefix, name in (("fed/coordinator/", "head.json"), (f"fed/inbox/{me}/", "note.json")):
        assert party.get(prefix + name).status == 200
        assert party.put(prefix + name).denied
        assert party.put(prefix + "new").denied
        assert party.delete(prefix + name).denied
        assert party.list(prefix).denied
        assert party.listen(prefix).denied


@pytest.mark.parametrize("me", SITES)
def test_no_site_deletes_lists_or_listens_even_at_home(parties: dict[str, Party], me: str) -> None:
    party = parties[me]
    assert party.delete(f"fed/sites/{me}/card.json").denied
    assert party.list(f"fed/sites/{me}/").denied
    assert party.listen(f"fed/sites/{me}/").denied


@pytest.mark.parametrize("prefix", ["", "fed/", "fed/sites/", "fed/sites/a", "*"])
def test_nothing_of_the_bucket_is_listed_or_listened_to(parties: dict[str, Party], prefix: str) -> None:
    assert parties["amazon"].list(prefix).denied
    assert parties["amazon"].listen(prefix).denied


def test_the_bucket_itself_is_out_of_reach(parties: dict[str, Party]) -> None:
    party = parties["amazon"]
    for query in ("uploads=", "versions=", "policy=", "notification=", "acl=", "location="):
        assert party.ask("GET", f"/{BUCKET}", query).denied, query
    assert party.ask("PUT", "/a-new-bucket").denied
    assert party.ask("DELETE", f"/{BUCKET}").denied
    assert party.ask("HEAD", f"/{BUCKET}").status == 403
    everything = party.ask("GET", "/")
    assert everything.denied or b"<Name>" not in everything.body


@pytest.mark.parametrize(
    "key",
    [
        key
        for key in PLANTED
        if not key.startswith(("fed/sites/amazon/", "fed/inbox/amazon/", "fed/coordinator/"))
    ],
)
def test_a_prefix_that_looks_like_ones_own_is_not(parties: dict[str, Party], key: str) -> None:
    party = parties["amazon"]
    assert party.get(key).denied
    assert party.put(key).denied
    assert party.delete(key).denied


def test_a_path_below_the_coordinators_that_names_a_site_is_not_the_sites(parties: dict[str, Party]) -> None:
    party = parties["amazon"]
    assert party.get("fed/coordinator/sites/amazon/x").status == 200
    assert party.put("fed/coordinator/sites/amazon/x").denied
    assert party.put("fed/coordinator/sites/amazon/new").denied


@pytest.mark.parametrize(
    "path",
    [
        "fed/sites/amazon/../movies/card.json",
        "fed/sites/amazon/%2e%2e/movies/card.json",
        "fed/sites/amazon/..%2fmovies/card.json",
        "fed/sites/amazon%2f..%2fmovies%2fcard.json",
        "fed/sites/amazon/./../movies/card.json",
        "fed/sites/amazon/../../coordinator/head.json",
        "fed/sites/amazon/../../../other/sites/amazon/x",
        "fed/sites/amazon%00/../movies/card.json",
        f"../{OTHER_BUCKET}/fed/sites/amazon/x",
    ],
)
def test_a_path_that_climbs_is_no_path(parties: dict[str, Party], path: str) -> None:
    party = parties["amazon"]
    for answer in (party.get(path), party.put(path), party.delete(path)):
        assert (answer.status, answer.code) == (400, "XMinioInvalidResourceName")


@pytest.mark.parametrize(
    "path",
    [
        "fed/sites/amazon\\..\\movies\\card.json",
        "fed/sites/amazon%5c..%5cmovies%5ccard.json",
        "fed/sites//movies/card.json",
        "fed//sites/movies/card.json",
        "/fed/sites/movies/card.json",
        "fed/sites/*/card.json",
        "fed/sites/amazo%3F/card.json",
        "fed/sites/AMAZON/card.json",
        "fed/sites/%D0%B0mazon/card.json",
        "fed/sites/amazon%E2%81%84..%E2%81%84movies/card.json",
        "fed/sites/amazon%EF%BC%8F..%EF%BC%8Fmovies/card.json",
    ],
)
def test_no_path_made_to_fool_a_pattern_reaches_anything(parties: dict[str, Party], path: str) -> None:
    party = parties["amazon"]
    for answer in (party.get(path), party.put(path), party.delete(path)):
        assert answer.denied, answer


def test_an_escape_escaped_twice_is_a_name_at_home(parties: dict[str, Party]) -> None:
    party = parties["amazon"]
    assert party.put("fed/sites/amazon/%252e%252e/movies/card.json").status == 200
    assert party.get("fed/sites/amazon/%252e%252e/movies/card.json").body == b"forged"
    assert party.get("fed/sites/movies/card.json").denied


def test_a_copy_cannot_bring_anothers_object_home(parties: dict[str, Party]) -> None:
    answer = parties["amazon"].ask(
        "PUT", f"/{BUCKET}/fed/sites/amazon/stolen", x_amz_copy_source=f"/{BUCKET}/fed/sites/movies/card.json"
    )
    assert answer.denied


def test_another_bucket_is_out_of_reach_under_the_same_keys(parties: dict[str, Party]) -> None:
    party = parties["amazon"]
    assert party.ask("GET", f"/{OTHER_BUCKET}/fed/sites/amazon/x").denied
    assert party.ask("PUT", f"/{OTHER_BUCKET}/fed/sites/amazon/x", body=b"forged").denied


def test_two_federations_in_one_bucket_do_not_reach_each_other(
    parties: dict[str, Party], iam: MinioIam, minio_server: MinioServer
) -> None:
    theirs = _party(minio_server.endpoint, *iam.add_site("other", "amazon"))
    assert theirs.get("other/sites/amazon/x").body == b"planted"
    assert theirs.get("other/coordinator/head.json").body == b"planted"
    for key in ("fed/sites/amazon/card.json", "fed/coordinator/head.json", "fed/inbox/amazon/note.json"):
        assert theirs.get(key).denied
        assert theirs.put(key).denied
    for key in ("other/sites/amazon/x", "other/coordinator/head.json", "other/inbox/amazon/x"):
        assert parties["amazon"].get(key).denied
    iam.remove_site("other", "amazon")


def test_a_site_administrates_nobody(parties: dict[str, Party]) -> None:
    me = parties["amazon"]
    with pytest.raises(AccessDeniedError):
        MinioIam(me.endpoint, me.access_key, me.secret_key, BUCKET).add_site("fed", "mallory")


def test_adding_a_site_again_rotates_its_secret(iam: MinioIam, minio_server: MinioServer) -> None:
    before = _party(minio_server.endpoint, *iam.add_site("fed", "rotated"))
    assert before.get("fed/coordinator/head.json").status == 200
    after = _party(minio_server.endpoint, *iam.add_site("fed", "rotated"))
    assert after.access_key == before.access_key == "fed.rotated"
    assert after.get("fed/coordinator/head.json").status == 200
    assert before.get("fed/coordinator/head.json").code == "SignatureDoesNotMatch"
    iam.remove_site("fed", "rotated")


def test_a_removed_site_is_out_and_removing_it_again_is_no_error(
    iam: MinioIam, minio_server: MinioServer
) -> None:
    gone = _party(minio_server.endpoint, *iam.add_site("fed", "gone"))
    assert gone.get("fed/coordinator/head.json").status == 200
    iam.remove_site("fed", "gone")
    iam.remove_site("fed", "gone")
    assert gone.get("fed/coordinator/head.json").status == 403


def test_nobody_without_keys_gets_in(minio_server: MinioServer, root: MinioStore) -> None:
    url = f"{minio_server.endpoint}/{root.bucket}/fed/coordinator/head.json"
    assert urllib3.request("GET", url, retries=False).status == 403


def test_a_policy_has_a_wildcard_at_its_end_alone_and_after_a_slash() -> None:
    resources = [r for s in site_policy(BUCKET, "fed", "amazon")["Statement"] for r in s.get("Resource", ())]
    assert len(resources) == 4
    assert all(r.endswith("/*") and r.count("*") == 1 and "?" not in r for r in resources)


@pytest.mark.parametrize(
    ("bucket", "federation", "site"),
    [
        (BUCKET, "fed", "*"),
        (BUCKET, "fed", "ama?on"),
        (BUCKET, "fed", "a/../b"),
        (BUCKET, "*", "amazon"),
        (BUCKET, "fed", "amazon\n"),
        (BUCKET, "fed", "coordinator"),
        (BUCKET, "fed", "everyone"),
        ("*", "fed", "amazon"),
        ("b/*", "fed", "amazon"),
    ],
)
def test_a_name_that_could_be_a_pattern_gets_no_policy(bucket: str, federation: str, site: str) -> None:
    with pytest.raises(ConfigError):
        site_policy(bucket, federation, site)
