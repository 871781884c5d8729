"""Adapters by name from a folder, loaded when they are asked for, off the engine's thread.

A lease holds one version of an adapter: a request that has begun under it ends under it, whatever is loaded or unloaded
under its name meanwhile. A version is its content: where the files have changed when it is read again, it is refused,
and `load` makes a new version of it.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from veneer.adapters.integrity import LOCK_FILE, MANIFEST_FILE
from veneer.adapters.origin import BASE_FILE, base_differences, computes, read_base
from veneer.adapters.store import CONFIG_FILE, WEIGHTS_FILE, load_adapter
from veneer.adapters.view import step_factors, view_of
from veneer.errors import AdapterError, VeneerError, listing, nearest
from veneer.generation.runner import LoadedAdapter
from veneer.io.digests import BackgroundDigests, file_digest
from veneer.model.decoder import CausalLM
from veneer.model.language import LanguageModel
from veneer.serving.models import AdapterVersion, GenerationConflict
from veneer.serving.residency import Residency


@dataclass(eq=False, slots=True)
class _Version:
    """One content of an adapter."""

    name: str
    generation: int
    path: Path
    key: bytes | None = None
    """Digest of the content, known once it has been read."""
    adapter: LoadedAdapter | None = None
    error: VeneerError | None = None
    waiting: list[Callable[[], None]] = field(default_factory=list)
    """Called when it is in memory or has failed."""


class _Lease:
    """See `AdapterLease`."""

    def __init__(self, folder: AdapterFolder, version: _Version):
        self._folder, self._version = folder, version
        self._released = False

    @property
    def adapter(self) -> LoadedAdapter | None:
        return self._version.adapter

    @property
    def error(self) -> VeneerError | None:
        return self._version.error

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._folder.give_back(self._version)


class AdapterFolder:
    """The adapters of a folder, each in a folder of its own (PEFT's format). All methods may be called on any thread.

    Args:
        folder: the folder; adapters that are put there later can be loaded by `load`.
        model: the base, without an adapter.
        budget: bytes that adapters may take in memory. What is in use is never given up.
        dtype: float32 or bfloat16, in which low-rank factors are held.
        pinned: names of adapters that are never given up once they are in memory.
        base_files: files of the base, which adapters that say what they were trained beside are checked against.

    Raises:
        AdapterError: the folder is not there, a pinned name is not in it, or transformers computes the model.
    """

    def __init__(
        self,
        folder: Path,
        model: LanguageModel,
        *,
        budget: int,
        dtype: torch.dtype = torch.float32,
        pinned: Collection[str] = (),
        base_files: Sequence[Path] = (),
    ):
        if not isinstance(model, CausalLM):
            raise AdapterError(
                "transformers computes this model (backend hf), whose adapters cannot be exchanged while it answers; "
                "serve it with the adapter merged (veneer export merged)"
            )
        if not folder.is_dir():
            raise AdapterError(f"{folder}: no folder of adapters there; give one whose folders are adapters")
        self._folder, self._model, self._dtype, self._pinned = folder, model, dtype, frozenset(pinned)
        step = model.compiled_step(1)
        self._sites = frozenset() if step is None else step.sites
        self._base = BackgroundDigests({file.name: file for file in base_files if computes(file.name)})
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, "veneer-adapters")
        self._residency: Residency[_Version] = Residency(budget)
        self._wanted: deque[_Version] = deque()
        names = sorted(path.name for path in folder.iterdir() if (path / CONFIG_FILE).is_file())
        self._versions = {name: _Version(name, 1, folder / name) for name in names}
        unknown = sorted(self._pinned - self._versions.keys())
        if unknown:
            raise AdapterError(f"{folder} has no adapters of these pinned names:\n{listing(unknown)}")

    def versions(self) -> list[AdapterVersion]:
        """See `AdapterCatalogue.versions`."""
        with self._lock:
            return [AdapterVersion(one.name, one.generation) for _, one in sorted(self._versions.items())]

    @property
    def held_bytes(self) -> int:
        """Bytes that adapters take in memory, or are about to take."""
        with self._lock:
            return self._residency.held

    def lease(self, name: str, on_ready: Callable[[], None] = lambda: None) -> _Lease:
        """See `AdapterSource.lease`."""
        with self._lock:
            version = self._known(name)
            # A failure is not for ever: the files may have been mended.
            version.error = None
            self._residency.use(version)
            lease = _Lease(self, version)
            if version.adapter is None:
                version.waiting.append(on_ready)
                # What is held without being there is being read.
                if version not in self._wanted and not self._residency.holds(version):
                    self._wanted.append(version)
                self._load_wanted()
        return lease

    def load(self, name: str, expected_generation: int | None = None) -> AdapterVersion:
        """See `AdapterCatalogue.load`."""
        self._check_generation(name, expected_generation)
        if name != Path(name).name or not (self._folder / name / CONFIG_FILE).is_file():
            raise AdapterError(f"there is no adapter {name!r} in the server's folder")
        fresh = _Version(name, 0, self._folder / name)
        adapter = self._read(fresh)
        with self._lock:
            fresh.generation = self._check_locked(name, expected_generation) + 1
            fresh.key = adapter.key
            old = self._versions.get(name)
            self._versions[name] = fresh
            if old is not None and not self._residency.used(old):
                self._forget(old)
            given = self._residency.make_room(adapter.nbytes)
            if given is not None:  # else it is read again, and compared, when it is asked for
                for other in given:
                    other.adapter = None
                fresh.adapter = adapter
                self._residency.hold(fresh, adapter.nbytes, pinned=name in self._pinned)
            return AdapterVersion(name, fresh.generation)

    def unload(self, name: str) -> None:
        """See `AdapterCatalogue.unload`."""
        with self._lock:
            version = self._known(name)
            del self._versions[name]
            if not self._residency.used(version):
                self._forget(version)

    def give_back(self, version: _Version) -> None:
        """One lease less. Leases call this."""
        with self._lock:
            unused = self._residency.release(version)
            if unused and self._versions.get(version.name) is not version:
                self._forget(version)
            if unused:
                self._load_wanted()

    def close(self) -> None:
        """Stop loading; what is in memory can still be used."""
        self._loader.shutdown(wait=True, cancel_futures=True)

    def _known(self, name: str) -> _Version:
        if name not in self._versions:
            raise AdapterError(f"there is no adapter named {name!r}{nearest(name, list(self._versions))}")
        return self._versions[name]

    def _check_generation(self, name: str, expected: int | None) -> None:
        with self._lock:
            self._check_locked(name, expected)

    def _check_locked(self, name: str, expected: int | None) -> int:
        """The generation that is loaded, 0 for none. Raises GenerationConflict where another one is expected."""
        generation = self._versions[name].generation if name in self._versions else 0
        if expected is not None and expected != generation:
            raise GenerationConflict(
                f"expected_generation: {expected}, but generation {generation} of {name!r} is loaded; look at "
                "/v1/models and decide again"
            )
        return generation

    def _forget(self, version: _Version) -> None:
        self._residency.drop(version)
        version.adapter = None

    def _load_wanted(self) -> None:
        """Start loading what there is room for, in the order in which it was asked for."""
        while self._wanted:
            version = self._wanted[0]
            size = _stored_bytes(version.path)
            given = self._residency.make_room(size)
            if given is None:
                return
            for other in given:
                other.adapter = None
            self._wanted.popleft()
            self._residency.hold(version, size, pinned=version.name in self._pinned)
            self._loader.submit(self._load, version)

    def _load(self, version: _Version) -> None:
        """Load a version, on the loader's thread, and tell those who wait."""
        adapter: LoadedAdapter | None = None
        error: VeneerError | None = None
        try:
            adapter = self._read(version)
        except VeneerError as found:
            error = found
        with self._lock:
            waiting, version.waiting = version.waiting, []
            gone = self._versions.get(version.name) is not version and not self._residency.used(version)
            if adapter is None or gone:
                version.error = error
                self._residency.drop(version)
            else:
                version.key, version.adapter = adapter.key, adapter
                self._residency.hold(version, adapter.nbytes)
            self._load_wanted()
        for tell in waiting:
            tell()

    def _read(self, version: _Version) -> LoadedAdapter:
        """Read the files of a version, and check them.

        Raises:
            AdapterError: they cannot be used with this base, or are no longer those of the version.
        """
        path = version.path
        # A file that is mapped into memory ends the program when somebody shortens it meanwhile, and one that is
        # written anew may be read half old, half new. So what is read is a copy that nobody else knows.
        with tempfile.TemporaryDirectory(prefix="veneer-adapter-") as name:
            copied = _copy_of(path, Path(name))
            try:
                return self._loaded(version, copied)
            except AdapterError as error:
                raise AdapterError(str(error).replace(str(copied), str(path))) from error

    def _loaded(self, version: _Version, path: Path) -> LoadedAdapter:
        """What stands in a folder, if it is the content of a version. Raises AdapterError."""
        recorded = read_base(path)
        differing = base_differences(recorded, self._base.result()) if recorded and self._base.result() else []
        if differing:
            raise AdapterError(f"{path} was trained beside another base than this one:\n{listing(differing)}")
        key = self._key(path)
        if version.key not in (None, key):
            raise AdapterError(f"{path} has changed on the disk since it was loaded; load it anew")
        view = view_of(self._model)
        adapter = load_adapter(view, path)
        if view.spec.vocab_size != self._model.spec.vocab_size:
            raise AdapterError(f"{path} has tokens of its own, which the base's tokenizer does not know")
        factors = step_factors(adapter, self._sites, self._dtype)
        if factors is not None:
            return LoadedAdapter(key=key, nbytes=factors.nbytes, factors=factors)
        view.eval()
        size = sum(tensor.nbytes for tensor in adapter.tensors().values())
        return LoadedAdapter(key=key, nbytes=size, model=view)

    def _key(self, path: Path) -> bytes:
        """Digest of all that an adapter's answers follow from."""
        try:
            content = [file_digest(path / name) for name in (CONFIG_FILE, WEIGHTS_FILE)]
        except FileNotFoundError:
            content = []  # whoever reads it says what is missing
        return hashlib.sha256("/".join((*content, str(self._dtype))).encode()).digest()


def _copy_of(path: Path, parent: Path) -> Path:
    """A folder with copies of an adapter's files. Raises AdapterError where one cannot be read."""
    folder = parent / path.name
    folder.mkdir()
    try:
        for name in (CONFIG_FILE, WEIGHTS_FILE, BASE_FILE, LOCK_FILE, MANIFEST_FILE):
            if (path / name).is_file():
                shutil.copyfile(path / name, folder / name)
    except OSError as error:
        raise AdapterError(f"{path}: cannot be copied to be read: {error}") from error
    return folder


def _stored_bytes(path: Path) -> int:
    """Bytes of an adapter's weights on the disk, by which room is made before they are read."""
    file = path / WEIGHTS_FILE
    return file.stat().st_size if file.is_file() else 0
