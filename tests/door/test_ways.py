"""The four ways round a store's policies, through the sites' door and at the server behind it.

| way | a policy stops it | the door stops it |
|---|---|---|
| a user gives itself every right | yes: administrating is denied | yes: no such path |
| a copy from a path that climbs | yes: no copy is granted | yes: the header does not pass |
| a form with a key that climbs | yes: only a signed PUT is granted | yes: no POST |
| an archive that the store unpacks | **no** | yes: the header does not pass |
"""

import secrets
from typing import Any

import pytest
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from raw_s3 import Party

from fedllm.exchange.minio_store import MinioStore
from fedllm.stack.minio import MinioServer
from tests.door.planted import BUCKET, HEAD, ME, OTHER, SECRET, archive


@pytest.mark.parametrize("name", ["fed.alpha", "mallory", "fed.beta", "fed%2Ealpha", "FED.ALPHA"])
@pytest.mark.usefixtures("unharmed")
def test_nobody_makes_itself_or_another_root(alpha: Party, name: str) -> None:
    assert alpha.make_itself_root(name).status == 403


@pytest.mark.parametrize(
    "source",
    [
        f"/{BUCKET}/{ME}/../beta/card.json",
        f"{BUCKET}/{ME}/../beta/card.json",
        f"/{BUCKET}/{ME}/%2e%2e/beta/card.json",
        f"/{BUCKET}/{ME}/..%2Fbeta/card.json",
        f"/{BUCKET}/{ME}/x/../../beta/./card.json",
        f"/{BUCKET}/{OTHER}/card.json",
        f"/{BUCKET}/{ME}/../../../.minio.sys/config/iam/users/fed.beta/identity.json",
    ],
)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.usefixtures("unharmed")
def test_no_copy_brings_anothers_object_home(alpha: Party, source: str, signed: bool) -> None:
    stolen = f"{ME}/stolen-{secrets.token_hex(4)}"
    headers = {"x-amz-copy-source": source}
    if signed:
        assert alpha.ask("PUT", f"/{BUCKET}/{stolen}", **headers).code == "AccessDenied"
    else:
        alpha.ask("PUT", f"/{BUCKET}/{stolen}", unsigned=headers)
    assert SECRET not in alpha.get(stolen).body


@pytest.mark.parametrize(
    "key",
    [
        f"{ME}/../beta/new",
        f"{ME}/../../coordinator/head.json",
        f"{ME}/%2e%2e/%2e%2e/coordinator/head.json",
        f"{ME}/x/../../../coordinator/head.json",
        f"{ME}/./../beta/card.json",
        HEAD,
    ],
)
@pytest.mark.usefixtures("unharmed")
def test_no_form_writes(alpha: Party, key: str) -> None:
    assert alpha.send_form(key).code == "AccessDenied"


ARCHIVE = ["fed/coordinator/head.json", "../beta/card.json", "/fed2/coordinator/x", "x/../../../new", "a/b"]
UNPACK = [
    "X-Amz-Meta-Snowball-Auto-Extract",
    "x-amz-meta-snowball-auto-extract",
    "X-AMZ-META-SNOWBALL-AUTO-EXTRACT",
]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("header", UNPACK)
@pytest.mark.parametrize("entry", ARCHIVE)
@pytest.mark.usefixtures("unharmed")
def test_no_archive_is_unpacked_behind_the_door(
    door: str, keys: tuple[str, str], entry: str, header: str, signed: bool
) -> None:
    alpha = Party(door, *keys, BUCKET)
    more: Any = {header: "true"}
    more = more if signed else {"unsigned": more}
    alpha.ask("PUT", f"/{BUCKET}/{ME}/archive.tar", body=archive(entry), **more)
    assert alpha.get(HEAD).body == b"head"


def test_without_the_door_the_store_unpacks_an_archive_over_the_coordinators_head(
    minio_server: MinioServer, keys: tuple[str, str], root: MinioStore
) -> None:
    # Why there is a door: no policy is asked about the entries.
    alpha = Party(minio_server.endpoint, *keys, BUCKET)
    try:
        more: Any = {UNPACK[0]: "true"}
        assert alpha.ask("PUT", f"/{BUCKET}/{ME}/x.tar", body=archive(HEAD), **more).status == 200
        assert root.get(HEAD, limit=99) == b"forged"
    finally:
        root.put(HEAD, b"head")


def test_the_policy_before_0_2_let_a_site_make_itself_root_copy_and_send_forms(
    minio_server: MinioServer, root: MinioStore
) -> None:
    # The other three ways, as they were: each is right every time, so the tests above could see them.
    server = minio_server.endpoint
    admin = MinioAdmin(
        endpoint=server.removeprefix("http://"),
        credentials=StaticProvider(minio_server.access_key, minio_server.secret_key),
        secure=False,
    )
    own = [f"arn:aws:s3:::{BUCKET}/fed/sites/former/*"]
    former = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": own}],
    }
    admin.policy_add("former", policy=former)
    admin.user_add("former", "y" * 40)
    admin.policy_set("former", user="former")
    me = Party(server, "former", "y" * 40, BUCKET)
    try:
        copied: Any = {"x-amz-copy-source": f"/{BUCKET}/fed/sites/former/../beta/card.json"}
        assert me.ask("PUT", f"/{BUCKET}/fed/sites/former/stolen", **copied).status == 200
        assert me.get("fed/sites/former/stolen").body == SECRET
        assert me.send_form("fed/sites/former/../../coordinator/head.json").status < 300
        assert root.get(HEAD, limit=99) == b"forged"
        assert me.make_itself_root().status == 200
    finally:
        admin.user_remove("former")
        admin.policy_remove("former")
        root.delete("fed/sites/former/stolen")
        root.put(HEAD, b"head")
