"""Unpack an archive's members to their places; objects written to external stores can be removed again."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedllm.backup.databases import restore_postgres
from fedllm.backup.manifest import DATABASES, HOME, OBJECTS, Manifest, Member
from fedllm.backup.objects import BackupStore
from fedllm.backup.reading import members, save
from fedllm.backup.stores import local_stores
from fedllm.config.home import private_dir
from fedllm.errors import BackupError, ExchangeError


@dataclass
class Unpacking:
    """A verified archive, read again for each kind of member."""

    path: Path
    identity: Path | None
    manifest: Manifest
    scratch: Path  # a folder on the home's disk
    external: Mapping[str, BackupStore]  # external stores by folder in the archive
    _placed: list[tuple[BackupStore, str]] = field(default_factory=list)

    def files(self, home: Path) -> None:
        """Unpack the home's files."""
        for member, path in self._saved(HOME):
            path.chmod(member.mode & 0o755)
            path.rename(_below(home, member.name.removeprefix(HOME)))

    def databases(self, urls: Mapping[str, str]) -> None:
        """Restore the Postgres dumps into the empty databases at `urls`, by name."""
        for member, path in self._saved(DATABASES):
            restore_postgres(urls[member.name.removeprefix(DATABASES).removesuffix(".dump")], path)

    def objects(self, home: Path, say: Callable[[str], None]) -> int:
        """Write every object to its store and return the count."""
        stores = dict(self.external)
        with ExitStack() as stack:
            if own := [bucket for bucket in self.manifest.buckets if bucket.own]:
                private_dir(home / "stack")
                local = stack.enter_context(local_stores(own, make=True, say=say))
                stores |= {store.bucket.folder: store for store in local}
            return self._put(stores)

    def _put(self, stores: Mapping[str, BackupStore]) -> int:
        stored = {entry.member: entry for entry in self.manifest.objects}
        count = 0
        for member, path in self._saved(OBJECTS):
            entry = stored[member.name]
            if (store := stores.get(entry.folder)) is not None:
                if not store.bucket.own:
                    self._placed.append((store, entry.key))  # before writing: a failed write may leave a part
                store.put(entry, path)
                count += 1
        return count

    def undo(self) -> None:
        """Delete the objects written to external stores; those of a store that does not answer stay."""
        for store, key in self._placed:
            with suppress(ExchangeError):
                store.delete(key)

    def _saved(self, kind: str) -> Iterator[tuple[Member, Path]]:
        """Yield each member whose name begins with `kind`, as a file that exists until the next one."""
        listed = {member.name: member for member in self.manifest.members}
        for name, file in members(self.path, self.identity):
            if not name.startswith(kind):
                continue
            if name not in listed:
                raise BackupError(f"{self.path} changed since it was checked")
            path = self.scratch / "member"
            save(file, path, listed[name].sha256)
            yield listed[name], path
            path.unlink(missing_ok=True)


def _below(home: Path, name: str) -> Path:
    """Return a member's path in the home and create its folder; refuse a path that leaves the home."""
    parts = Path(name).parts
    # The cache may exist before the restore, and may be a link.
    if not parts or Path(name).is_absolute() or ".." in parts or parts[0] == "cache":
        raise BackupError(f"{name} in the archive leads out of the home: it was not written by fedllm")
    target = home.joinpath(*parts)
    private_dir(home)
    for folder in reversed(target.relative_to(home).parents[:-1]):
        private_dir(home / folder)
    return target
