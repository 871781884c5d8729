"""Atomic writing: a kill or a full disk at any moment leaves either the old state or the new one.

A file or folder is written under a temporary name next to its place, flushed to the disk, and renamed. Renaming is
atomic on POSIX file systems. Errors of the system become an `OutputError` with the path and the reason.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from veneer.errors import OutputError
from veneer.io.leftovers import PARTIAL, claim_of, held, name_when_complete, partial_of, remove_dead
from veneer.io.places import working_folder
from veneer.runtime.posix import file_size_limit

BLOCK = 512
"""The unit, in bytes, in which the system counts the size of a file on the disk."""
STAGED = "result"
"""The end of the name of a folder of `staged_files`."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a disk, a quota or a limit that leaves no room for a file."""


INSTEAD = "give another output folder"
"""The remedy of a result that cannot be written."""


@contextmanager
def reported(path: Path, needed: int = 0, instead: str = INSTEAD) -> Iterator[None]:
    """Turn errors of the system while writing below `path` into an `OutputError`.

    Args:
        path: the file or folder that is written.
        needed: the size of the file in bytes, if it is known.
        instead: the remedy.
    """
    try:
        yield
    except OSError as error:
        file, reason = Path(error.filename or path), error.strerror or str(error)
        if error.errno == errno.ENOENT and not file.parent.is_dir():
            reason += f": there is no folder {name_when_complete(file.parent)}"
        if error.errno == errno.EEXIST and file.is_symlink() and not file.exists():
            reason = f"{file} is a link to {os.readlink(file)}, where nothing is"
        if error.errno == errno.ENOENT and not path.is_absolute() and working_folder() is None:
            reason += ": the working folder was deleted; enter one that is there"
        # The message has the requested name, not the temporary one.
        file = path if file.name.startswith(PARTIAL) else file
        raise _refusal(file, reason, room_for(file, needed) if error.errno in FULL else "", instead) from error
    except SafetensorError as error:
        full = any(os.strerror(number) in str(error) for number in FULL)
        raise _refusal(path, str(error), room_for(path, needed) if full else "", instead) from error


def _refusal(path: Path, reason: str, room: str, instead: str) -> OutputError:
    """`room` is empty if the disk is not full."""
    remedy = f"Free space or {instead}" if room else instead[0].upper() + instead[1:]
    return OutputError(
        f"{name_when_complete(path)}: cannot be written: {reason}{room}. {remedy}; earlier complete results there are "
        "untouched."
    )


def room_for(path: Path, needed: int) -> str:
    """The space that a file needs and the available space, in brackets: on its disk, and by the limit of `ulimit
    -f`."""
    there = next((folder for folder in (path, *path.parents) if folder.exists()), Path("."))
    # What the file itself has taken is there for it.
    free = shutil.disk_usage(there).free + (path.stat().st_blocks * BLOCK if path.is_file() else 0)
    limit = file_size_limit()
    facts = [f"{needed:,} bytes are needed" if needed else "", f"{free:,} bytes are free there"]
    facts += [] if limit is None else [f"a file may have {limit:,} bytes (ulimit -f)"]
    return f" ({', '.join(filter(None, facts))})"


def read_regular(file: Path, *, errors: str = "strict") -> str:
    """The text of a file, UTF-8; `errors` are those of `bytes.decode`.

    Raises:
        OSError: the file cannot be read, or is not a regular file: reading a pipe would block.
    """
    if not file.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    return file.read_text(encoding="utf-8", errors=errors)


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary name that replaces `path` when the block ends well, and is deleted when it does not.

    Raises:
        OutputError: something cannot be written.
    """
    partial = partial_of(path)
    with reported(path):
        try:
            yield partial
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file. Writing is not atomic: use it inside `atomic_folder`, or with a new name.

    The file gets the usual permissions of new files, since the package makes files that only their owner may read.

    Raises:
        OutputError: the file cannot be written.
    """
    with reported(path, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())):
        path.touch()
        mode = stat.S_IMODE(path.stat().st_mode)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, dict(metadata))
        path.chmod(mode)


@contextmanager
def atomic_folder(path: Path, instead: str = INSTEAD) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block succeeds, and is deleted when it fails.

    What killed processes left of the folder is deleted first. `instead` is the remedy in the error.

    Raises:
        OutputError: something cannot be written, or `path` exists already.
    """
    partial = partial_of(path)  # two may write it at once; the first to finish wins
    with reported(path, instead=instead):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_dead(path.parent, path.name)
        with held(partial):
            try:
                partial.mkdir()  # inside `try`: a signal may come while the system makes the folder
                yield partial
                for file in sorted(partial.rglob("*")):
                    _sync(file)
                _sync(partial)
                partial.rename(path)
                _sync(path.parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    """Refuse to make a folder that is there.

    Raises:
        OutputError: it is.
    """
    if path.exists():
        raise OutputError(f"{path} exists already; give a folder that does not, nothing is replaced")


def refuse_filled(path: Path) -> None:
    """Refuse to make a folder where something is; an empty folder may be there.

    Raises:
        OutputError: something is, or this cannot be checked.
    """
    with reported(path):
        if path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None):
            raise OutputError(f"{path} is there already and not empty; give another output folder")


@contextmanager
def claimed(path: Path, refuse: Callable[[Path], None] = refuse_existing) -> Iterator[None]:
    """Be the only process that makes `path`, of those that ask so, for work that is too long to be lost to another one
    at its end. Where the file system has no locks, `atomic_folder` alone decides.

    Args:
        path: the folder that will be made.
        refuse: raises an error if what another process has made there meanwhile cannot be replaced.

    Raises:
        OutputError: `refuse` raises it, another process is making the folder, or it cannot be written.
    """
    with ExitStack() as stack:
        with reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(claim_of(path), path))
        refuse(path)
        yield


def folder_place(path: Path) -> Path:
    """The place where `atomic_folder` can make the user's `path`: the target if it is a link, which a folder cannot
    replace.

    Raises:
        OutputError: a finished folder cannot replace what is there: it is the working folder, which programs may be
            using, or the root of a file system; or it cannot be accessed.
    """
    with reported(path):
        real, here = path.resolve(), working_folder()
    # Not Path.is_mount, which Windows only has from Python 3.12 on.
    what = "the folder that you are in" if real == here else "a mounted file system" if os.path.ismount(real) else None
    if what is not None:
        raise OutputError(f"{path} is {what}, which a finished folder cannot replace; give a new folder within it")
    return real if os.path.islink(path) else path  # unlike Path.is_symlink it accepts a name that is too long


@contextmanager
def scratch_folder(place: Path, name: str) -> Iterator[Path]:
    """A folder for files that only the block needs. Such folders of killed processes are deleted first.

    Args:
        place: the parent folder, which many users and hosts may share.
        name: the purpose of the folder; leftovers with this name are deleted.

    Raises:
        OutputError: it cannot be made.
    """
    scratch = partial_of(place / name)
    with ExitStack() as stack:
        with reported(place):
            remove_dead(place, name)
            stack.enter_context(held(scratch))
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            scratch.mkdir(mode=0o700)
        yield scratch


@contextmanager
def staged_files(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files replace those of the same name in `folder` when the block succeeds.

    Such folders of killed processes are deleted first.

    Raises:
        OutputError: something cannot be written; files that were not yet replaced are the old ones.
    """
    staged = partial_of(folder / STAGED)
    with reported(folder):
        remove_dead(folder, STAGED)
        with held(staged):
            try:
                staged.mkdir()
                yield staged
                for file in sorted(staged.iterdir()):
                    _sync(file)
                    file.replace(folder / file.name)
                _sync(folder)
            finally:
                shutil.rmtree(staged, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Delete a folder so that a kill meanwhile leaves it whole, or leaves remains that `remove_partial` and
    `remove_dead` delete.

    Raises:
        OutputError: it cannot be deleted.
    """
    doomed = partial_of(path)
    with reported(path), held(doomed):
        path.rename(doomed)
        shutil.rmtree(doomed)


def remove_partial(folder: Path) -> None:
    """Delete unfinished files and folders that a killed run left in `folder`.

    Raises:
        OutputError: a leftover cannot be deleted.
    """
    with reported(folder):
        for leftover in folder.glob(f"{PARTIAL}*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def make_output_folder(path: Path, instead: str = INSTEAD) -> None:
    """Make the folder `path` and prove that it can be written to, before anything expensive starts. `instead` is the
    remedy in the error.

    Raises:
        OutputError: `path` is a file, is on a read-only file system, or may not be written.
    """
    with reported(path, instead=instead):
        path.mkdir(parents=True, exist_ok=True)
        try_writing(partial_of(path / "probe"))


def try_writing(probe: Path) -> None:
    """Write a few bytes into a file, and delete it again. Raises OSError if that fails."""
    try:
        probe.write_bytes(b"veneer")
    finally:
        probe.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
