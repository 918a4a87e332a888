"""An archive's members on their way to their places; what went into stores of one's own can be taken back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedllm.backup.databases import restore_postgres
from fedllm.backup.manifest import DATABASES, HOME, OBJECTS, Manifest, Member
from fedllm.backup.objects import Shelf
from fedllm.backup.reading import members, save
from fedllm.backup.stores import local_shelves
from fedllm.config.home import private_dir
from fedllm.errors import BackupError, ExchangeError


@dataclass
class Unpacking:
    """An archive that was checked, read again for each kind of member."""

    path: Path
    identity: Path | None
    manifest: Manifest
    scratch: Path  # a folder on the home's disk
    foreign: Mapping[str, Shelf]  # stores of one's own, by their folders in the archive
    _placed: list[tuple[Shelf, str]] = field(default_factory=list)

    def files(self, home: Path) -> None:
        """Put the home's files in their places."""
        for member, path in self._saved(HOME):
            path.chmod(member.mode & 0o755)
            path.rename(_below(home, member.name.removeprefix(HOME)))

    def databases(self, urls: Mapping[str, str]) -> None:
        """Fill empty databases of Postgres, by name."""
        for member, path in self._saved(DATABASES):
            restore_postgres(urls[member.name.removeprefix(DATABASES).removesuffix(".dump")], path)

    def objects(self, home: Path, say: Callable[[str], None]) -> int:
        """Put every object into its store; returns how many."""
        shelves = dict(self.foreign)
        with ExitStack() as stack:
            if own := [bucket for bucket in self.manifest.buckets if bucket.own]:
                private_dir(home / "stack")
                local = stack.enter_context(local_shelves(own, make=True, say=say))
                shelves |= {shelf.bucket.folder: shelf for shelf in local}
            return self._put(shelves)

    def _put(self, shelves: Mapping[str, Shelf]) -> int:
        stored = {entry.member: entry for entry in self.manifest.objects}
        count = 0
        for member, path in self._saved(OBJECTS):
            entry = stored[member.name]
            if (shelf := shelves.get(entry.folder)) is not None:
                if not shelf.bucket.own:
                    self._placed.append((shelf, entry.key))  # first: what broke off may be there in part
                shelf.store(entry, path)
                count += 1
        return count

    def take_back(self) -> None:
        """Delete what was put into stores of one's own; where one is away by now, what it holds stays."""
        for shelf, key in self._placed:
            with suppress(ExchangeError):
                shelf.delete(key)

    def _saved(self, kind: str) -> Iterator[tuple[Member, Path]]:
        """Each member whose name begins with `kind`, in a file that is gone when the next is asked for."""
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
    """A member's place in the home, with its folder made; nothing leads out of it."""
    parts = Path(name).parts
    # The cache may have been there before, and be a link.
    if not parts or Path(name).is_absolute() or ".." in parts or parts[0] == "cache":
        raise BackupError(f"{name} in the archive leads out of the home: it was not written by fedllm")
    target = home.joinpath(*parts)
    private_dir(home)
    for folder in reversed(target.relative_to(home).parents[:-1]):
        private_dir(home / folder)
    return target
