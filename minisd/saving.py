"""Saving: a folder or file is written completely or not at all, and a folder that was there stays the same folder.

A new folder is written beside its place under a hidden name and renamed, which happens at once or not at all. A folder
that is there already may be a mount point, or where a process stands; it may have a group, permissions and files of
other people. So it stays, and its files are replaced one by one:

1. The new files are written into `.saving-…`, a hidden folder inside it.
2. Each moves beside the file that it will replace, as `.NAME-….new`, and onto the disk.
3. A journal, `.minisd-saving.json`, lists them.
4. Each takes its place by a rename; the old one is kept as `.NAME-….old` until all have.
5. The journal and the old files are deleted.

An error or Ctrl-C undoes all of it. A process that is killed undoes nothing. Killed in 1 to 3, it leaves the old files,
and in 5 the new ones, with hidden files beside them, which may be deleted. Killed in 4, which takes a millisecond,
it leaves some files new and some old, but the journal with them: minisd then refuses to load the folder until
`finish_saving` or the next save has finished the step. Other programs do not know the journal. Two processes that save
different models into one folder at the same moment may mix them.
"""

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from minisd.messages import LONGEST_PATH, ShownPath, shown

JOURNAL = ".minisd-saving.json"
ADVICE = {errno.ENOSPC: "make room, or name another folder", errno.EDQUOT: "make room, or name another folder",
          errno.EFBIG: "the disk or a limit does not allow files of that size; name another folder"}


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """A new, empty folder to write into, whose files go to `folder` only if all went well.

    Other files of `folder` are kept, except those that new ones supersede.

    Raises:
        OSError: what could not be written, why, and what to do; `folder` is as it was.
    """
    folder = ShownPath(folder).expanduser().resolve()
    check_folder(folder)
    made = [path for path in folder.parents if not path.exists()]
    token = secrets.token_hex(4)
    stage = (folder if folder.is_dir() else folder.parent) / f".saving-{token}"
    try:
        stage.mkdir(parents=True)
        yield stage
        if not became(stage, folder):
            replace_files(stage, folder, token)
    except OSError as error:
        raise explained(error, stage, folder) from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        remove_empty(made)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """The path of a new file to write, of the same suffix, which takes the place of `path` only if all went well.

    Raises:
        OSError: names `path`, the reason and what to do; an old file there is as it was.
    """
    temporary = path.with_name(f".saving-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise explained(error, temporary, path) from None
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Raise an error before any work is done if nothing can be saved in `folder`, which need not exist yet."""
    folder = ShownPath(folder)
    nearest = check_name(folder)
    if not nearest.is_dir():
        raise FileExistsError(f"nothing can be saved in {folder}: {nearest} is a file; name another folder")
    try:
        trial = nearest / f".saving-{secrets.token_hex(4)}"
        trial.mkdir()
        trial.rmdir()
    except OSError as error:
        reason = "no permission to write" if isinstance(error, PermissionError) else error.strerror
        raise type(error)(f"nothing can be saved in {folder}: {reason} in {nearest}; name another folder") from None


def check_files(files: Iterable[Path]) -> None:
    """Raise an error before any work is done if one of these files cannot be written or replaced."""
    files = [ShownPath(file) for file in files]
    for folder in dict.fromkeys(file.parent for file in files):
        check_folder(folder)
    for file in files:
        if check_name(file) == file and file.is_dir():
            raise IsADirectoryError(f"{file} cannot be saved: there is a folder of that name; name another file, or "
                                    "remove the folder")


def check_name(path: Path) -> Path:
    """The nearest part of a path that exists, in which the rest can be made: its names are not too long, for example.

    Raises:
        OSError: they are.
    """
    nearest = next(place for place in (path, *path.parents) if os.path.lexists(place))
    for place in (path, *(nearest / name for name in path.relative_to(nearest).parts)):
        try:
            os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            break  # whoever writes there will say so
        except OSError as error:
            raise type(error)(f"nothing can be saved as {path}: {error.strerror}; choose another name") from None
    return nearest


def check_whole(folder: Path) -> None:
    """Raise a ValueError if a save into this folder, or into the one that it is a part of, was killed in step 4."""
    folder = ShownPath(folder).absolute()
    for place in (folder, folder.parent):
        if (place / JOURNAL).is_file():
            raise ValueError(f"{place / JOURNAL} says that a save was cut off: some files there are new and some old. "
                             f"Save again, or call minisd.saving.finish_saving({str(place)!r})")


def finish_saving(folder: str | Path) -> None:
    """Finish a save into the folder that was killed in step 4; without one, do nothing.

    Raises:
        ValueError: a damaged journal.
        OSError: a file that cannot be replaced.
    """
    journal = ShownPath(folder) / JOURNAL
    if not journal.is_file():
        return
    try:
        plan = json.loads(journal.read_text(encoding="utf-8"))
        token, names = str(plan["token"]), [*plan["write"], *plan["remove"]]
        here = journal.parent.resolve()
        # a journal that came with somebody else's folder must not reach out of it
        sound = token.isalnum() and all((here / name).parent.resolve().is_relative_to(here) for name in names)
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise ValueError(f"{journal} is not what minisd writes; delete it, and see which of the files belong together")
    exchange = Exchange(journal.parent, token, plan["write"], plan["remove"])
    exchange.commit()


# --- the steps ------------------------------------------------------------------------------------------------

def became(stage: Path, folder: Path) -> bool:
    """Whether the new folder could simply be renamed, because there is none in its place."""
    if folder.exists():
        return False
    try:
        os.rename(stage, folder)
    except OSError:
        if folder.is_dir():  # made by another process meanwhile
            return False
        raise
    return True


def replace_files(stage: Path, folder: Path, token: str) -> None:
    """Steps 2 to 5."""
    finish_saving(folder)
    write, remove = [], []
    made: list[Path] = []
    try:
        for place in [stage, *sorted(path for path in stage.rglob("*") if path.is_dir())]:  # parents come first
            target = folder / place.relative_to(stage)
            if not target.is_dir():
                target.mkdir()
                made.insert(0, target)
            new = {path.name for path in place.iterdir() if not path.is_dir()}
            old = {path.name for path in target.iterdir() if not path.is_dir()}
            write += [target.relative_to(folder) / name for name in sorted(new)]
            remove += [target.relative_to(folder) / name for name in sorted(old - new) if superseded(name, new)]
        exchange = Exchange(folder, token, [path.as_posix() for path in write], [path.as_posix() for path in remove])
        exchange.prepare(stage)
        exchange.commit()
    except BaseException:
        remove_empty(made)
        raise


def superseded(name: str, new: set[str]) -> bool:
    """Whether a file contradicts new ones: another form of a tokenizer, the shards of weights and their index, or the
    weights of an ONNX file that were too large to lie in it."""
    if name.endswith(".onnx_data"):
        return name.removesuffix("_data") in new
    if name in ("tokenizer.json", "added_tokens.json"):
        return "vocab.json" in new
    whole = re.sub(r"\.safetensors\.index\.(\w+)\.json$", r".\1.safetensors", name)  # both spellings of a variant
    whole = re.sub(r"-\d+-of-\d+|\.index\.json$", "", whole)
    return whole != name and whole in new


class Exchange:
    """Files to write and to remove, by their paths in the folder, that change all together."""

    def __init__(self, folder: Path, token: str, write: list[str], remove: list[str]):
        self.folder, self.token, self.write, self.remove = folder, token, write, remove

    def paths(self, name: str) -> tuple[Path, Path, Path]:
        """A file's place, and where the new and the old one wait beside it."""
        place = self.folder / name
        new, old = (place.with_name(f".{place.name}-{self.token}.{which}") for which in ("new", "old"))
        return place, new, old

    def prepare(self, stage: Path) -> None:
        """Steps 2 and 3."""
        try:
            for name in self.write:
                place, new, _ = self.paths(name)
                if place.is_dir():
                    raise IsADirectoryError(errno.EISDIR, "there is a folder of that name", str(place))
                shutil.move(stage / name, new)  # a copy, if a part of the folder is on another disk
                with new.open("rb+") as file:  # else the rename over an old file would wait for the disk
                    os.fsync(file.fileno())
                if place.exists():
                    keep_access(place, new)
            journal = {"token": self.token, "write": self.write, "remove": self.remove}
            (stage / JOURNAL).write_text(json.dumps(journal), encoding="utf-8")
            os.replace(stage / JOURNAL, self.folder / JOURNAL)
        except BaseException:
            self.clean()
            raise

    def commit(self) -> None:
        """Steps 4 and 5. If they fail, the old files are in their places again; if killed, they can be repeated."""
        try:
            for name in self.remove:
                place, _, old = self.paths(name)
                if os.path.lexists(place):
                    os.replace(place, old)
            for name in self.write:
                place, new, old = self.paths(name)
                if new.exists():  # or else it is in its place already
                    set_aside(place, old)
                    os.replace(new, place)
        except BaseException:
            self.roll_back()  # should that fail, too, the journal stays
            self.clean()
            raise
        self.clean()

    def roll_back(self) -> None:
        """The old files return to their places; where there was none, the new one goes."""
        for name in [*self.remove, *self.write]:
            place, new, old = self.paths(name)
            if os.path.lexists(old):
                os.replace(old, place)
            elif name in self.write and not new.exists():
                place.unlink(missing_ok=True)

    def clean(self) -> None:
        """Step 5. The journal goes first: from here on, all files belong together."""
        (self.folder / JOURNAL).unlink(missing_ok=True)
        for name in [*self.remove, *self.write]:
            for path in self.paths(name)[1:]:
                with suppress(OSError):  # it is hidden, and does no harm
                    path.unlink()


def set_aside(place: Path, old: Path) -> None:
    """Keep the file at a place, if there is one, under a second name."""
    if os.path.lexists(place):
        try:
            os.link(place, old, follow_symlinks=False)  # so that it is never missing
        except (OSError, NotImplementedError):  # a file system without hard links
            os.replace(place, old)


def keep_access(old: Path, new: Path) -> None:
    """Give a new file the old one's permissions, and its group where that is allowed."""
    with suppress(OSError):
        shutil.copymode(old, new)
    if hasattr(os, "chown"):
        with suppress(OSError):
            os.chown(new, -1, old.stat().st_gid)


def remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def explained(error: OSError, temporary: Path, final: Path) -> OSError:
    """An error that says what could not be saved, why, and what to do, without our hidden names."""
    text = str(error)
    if error.errno is not None:  # else it is in words already
        advice = ADVICE.get(error.errno, "name another folder")
        text = f"{error.filename or final} could not be saved: {error.strerror}; {advice}"
    text = re.sub(r"\.([^/\\]+)-[0-9a-f]{8}\.(new|old)\b", r"\1", text.replace(str(temporary), str(final)))
    return type(error)(shown(text, 2 * LONGEST_PATH))
