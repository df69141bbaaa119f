"""Saved adapters on disk, each visitor's in a folder of their own.

A file is written beside its place and then moved there, so that a full disk or a crash loses nothing that was there.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from pathlib import Path

from pipelines.adapters import Adapter, check_name, read_adapter, rename_adapter
from pipelines.errors import UserError

logger = logging.getLogger("limelight")

MAX_ADAPTERS = 50
_OWNER = re.compile(r"[0-9a-f]{32}")


def make_owner() -> str:
    """Make a key that names a new visitor and that nobody can guess."""
    return secrets.token_hex(16)


class AdapterStore:
    """Keep one visitor's adapters; another one's cannot be reached without their key.

    Raises: UserError if the key has another form than `make_owner` gives it.
    """

    def __init__(self, root: Path, owner: str) -> None:
        if not isinstance(owner, str) or not _OWNER.fullmatch(owner):
            raise UserError("This page does not know whose adapters to show; reload it.")
        # The key itself stands nowhere on the disk.
        self.folder = root / hashlib.sha256(owner.encode()).hexdigest()[:32]

    def list(self) -> tuple[Adapter, ...]:
        """List the saved adapters by name; files that somebody damaged are left out."""
        found = []
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                found.append(read_adapter(path.read_bytes()))
            # One damaged file must not hide the others; it stays where it is.
            except (OSError, UserError) as error:
                logger.warning("A saved adapter cannot be read: %s", error)
        return tuple(sorted(found, key=lambda adapter: adapter.name.casefold()))

    def load(self, name: str) -> Adapter:
        """Read a saved adapter.

        Raises: UserError if there is none of that name.
        """
        path = self._find(name)
        try:
            return read_adapter(path.read_bytes())
        except FileNotFoundError as error:
            raise UserError(f"There is no saved adapter {name!r}; choose one of the list.") from error
        except OSError as error:
            raise UserError(f"The adapter {name!r} cannot be read from the disk; try again.") from error

    def save(self, adapter: Adapter, name: str) -> Adapter:
        """Save an adapter under a name.

        Returns: the adapter as it was saved.
        Raises:  UserError if the name is empty or taken, there are too many, or the disk refuses; nothing is lost then.
        """
        named = rename_adapter(adapter, name)
        path = self._find(named.name)
        if path.exists():
            raise UserError(
                f"There is already an adapter {named.name!r}; choose another name or delete that one first."
            )
        if len(tuple(self.folder.glob("*.safetensors"))) >= MAX_ADAPTERS:
            raise UserError(f"There are already {MAX_ADAPTERS} adapters; delete one first.")
        self._write(path, named.data)
        return named

    def rename(self, name: str, new_name: str) -> Adapter:
        """Give a saved adapter another name; the same name in other letters is allowed.

        Raises: UserError as in `load` and `save`.
        """
        old = self._find(name)
        renamed = rename_adapter(self.load(name), new_name)
        path = self._find(renamed.name)
        if path != old and path.exists():
            raise UserError(f"There is already an adapter {renamed.name!r}; choose another name.")
        self._write(path, renamed.data)
        if path != old:
            old.unlink(missing_ok=True)
        return renamed

    def delete(self, name: str) -> None:
        """Delete a saved adapter.

        Raises: UserError if there is none of that name.
        """
        path = self._find(name)
        if not path.exists():
            raise UserError(f"There is no saved adapter {name!r}; choose one of the list.")
        path.unlink()

    def _find(self, name: str) -> Path:
        """Return the file of a name; names that differ in capitals only are one."""
        return self.folder / f"{hashlib.sha256(check_name(name).casefold().encode()).hexdigest()[:24]}.safetensors"

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file as a whole or not at all."""
        part = path.with_suffix(f".{secrets.token_hex(4)}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UserError(
                f"The adapter could not be saved, because the disk is full or cannot be written ({error.strerror}); it "
                "is still on this page, so download it or make room and save again."
            ) from error
