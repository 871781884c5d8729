"""Loading an adapter beside the base that is being served: its files are copied, checked, and read.

A file that is mapped into memory ends the program when somebody shortens it meanwhile, and one that is written anew may
be read half old, half new. So what is read is a copy that nobody else knows.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import torch

from veneer.adapters.beside import load_beside
from veneer.adapters.integrity import LOCK_FILE, MANIFEST_FILE
from veneer.adapters.origin import BASE_FILE, base_differences, computes, read_base
from veneer.adapters.step_factors import step_factors
from veneer.adapters.store import CONFIG_FILE, WEIGHTS_FILE
from veneer.errors import AdapterError, listing
from veneer.generation.runner import LoadedAdapter
from veneer.io.digests import BackgroundDigests, file_digest
from veneer.model.language import LanguageModel

Loader = Callable[[Path], LoadedAdapter]
"""Loads the adapter of a folder. Raises AdapterError."""


def adapter_loader(
    model: LanguageModel, *, base_files: Sequence[Path] = (), dtype: torch.dtype = torch.float32
) -> Loader:
    """Loads adapters beside a base: as factors of the compiled step, or, where it does not know them, as modules that
    the engine computes one batch an adapter.

    Args:
        model: the base.
        base_files: its files, against which adapters are checked that say what they were trained beside.
        dtype: float32 or bfloat16, in which factors are held.
    """
    step = model.compiled_step(1)
    sites = frozenset() if step is None else step.sites
    digests = BackgroundDigests({file.name: file for file in base_files if computes(file.name)})

    def load(folder: Path) -> LoadedAdapter:
        with tempfile.TemporaryDirectory(prefix="veneer-adapter-") as own:
            copied = _copy_of(folder, Path(own))
            try:
                recorded = read_base(copied) if base_files else {}
                differing = base_differences(recorded, digests.result()) if recorded else []
                if differing:
                    raise AdapterError(f"{folder} was trained beside another base than this:\n{listing(differing)}")
                twin, adapter = load_beside(model, copied)
            except AdapterError as error:
                message = str(error).replace(str(copied), str(folder))
                raise AdapterError(message if str(folder) in message else f"{folder}: {message}") from error
        key = content_digest(folder) + str(dtype).encode()
        factors = step_factors(adapter, sites, dtype)
        if factors is not None:
            return LoadedAdapter(key=key, nbytes=factors.nbytes, factors=factors)
        nbytes = sum(tensor.nbytes for tensor in adapter.tensors().values())
        return LoadedAdapter(key=key, nbytes=nbytes, model=twin)

    return load


def content_digest(folder: Path) -> bytes:
    """Digest of what an adapter computes: its configuration, which has the scale, and its tensors.

    Raises:
        AdapterError: a file is missing.
        OSError: a file cannot be read.
    """
    try:
        return sha256("".join(file_digest(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)).encode()).digest()
    except FileNotFoundError as error:
        raise AdapterError(f"{folder.name}: {Path(error.filename).name} is missing") from error


def _copy_of(folder: Path, parent: Path) -> Path:
    """A folder with copies of the files of an adapter."""
    found = parent / folder.name
    found.mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE, BASE_FILE, LOCK_FILE, MANIFEST_FILE):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, found / name)
    return found
