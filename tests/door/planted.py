"""What lies behind the door, and the archive that a store would unpack over it."""

import io
import secrets
import tarfile

BUCKET = "behind-the-door"
HIDDEN = secrets.token_hex(8)  # in keys that nobody is told
SECRET = b"not for alpha: " + secrets.token_hex(8).encode()
ME, OTHER = "fed/sites/alpha", "fed/sites/beta"
PLANTED = [f"{OTHER}/card.json", f"{OTHER}/{HIDDEN}.json", f"fed/inbox/beta/{HIDDEN}", "fed2/coordinator/x"]
HEAD = "fed/coordinator/head.json"


def archive(*names: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(b"forged")
            tar.addfile(entry, io.BytesIO(b"forged"))
    return data.getvalue()
