"""Loading an adapter for the base that is being served: its files are copied, checked, and read.

If a file is shortened while it is mapped into memory, the program crashes; if it is rewritten meanwhile, the data may
be half old and half new. So a private copy is read.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch

from veneer.adapters.beside import load_beside
from veneer.adapters.files.content import content_digest
from veneer.adapters.files.integrity import LOCK_FILE, MANIFEST_FILE, check_unchanged
from veneer.adapters.files.origin import BASE_FILE, BaseFiles, read_base
from veneer.adapters.files.store import CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from veneer.adapters.layers.step_factors import step_factors
from veneer.errors import AdapterError, ModelError, listing
from veneer.generation.runner import LoadedAdapter
from veneer.io.digests import sha256 as whole_digest
from veneer.io.tokenizer import Tokenizer
from veneer.model.language import LanguageModel
from veneer.native.factors import factor_table
from veneer.native.functions import KernelProducts

Loader = Callable[[Path], LoadedAdapter]
"""Loads the adapter of a folder. Raises AdapterError."""
READ_FILES = (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)
"""The files of an adapter that are read here."""


def adapter_loader(
    model: LanguageModel,
    *,
    tokenizer: Tokenizer | None = None,
    base_files: Sequence[Path] = (),
    dtype: torch.dtype = torch.float32,
) -> Loader:
    """A loader of adapters for a base: as factors of the compiled step, or, if the step does not support them, as
    modules, for which the engine computes a batch for each adapter.

    Args:
        model: the base.
        tokenizer: see `refuse_own_tokens`.
        base_files: the files of the base. An adapter that records its base is checked against them.
        dtype: the dtype of the factors in memory, float32 or bfloat16.
    """
    step = model.compiled_step(1)
    sites = () if step is None else step.sites
    paths = frozenset(site.path for site in sites)
    tiles = step is not None and step.products is KernelProducts.TILES
    base = BaseFiles(base_files)
    # Digests of tokenizers that have no more tokens than the base's. Programs save the same one beside every adapter,
    # and reading it stops all threads of the interpreter for tenths of a second.
    known = set[str]()

    def load(folder: Path) -> LoadedAdapter:
        with tempfile.TemporaryDirectory(prefix="veneer-adapter-") as scratch:
            copied = _copy_of(folder, Path(scratch))
            # Cached for this load only, because these copies are not read again.
            digest = cache(whole_digest)
            try:
                recorded = _checked(copied, digest)
                differing = base.differences(recorded) if base_files and recorded else []
                if differing:
                    raise AdapterError(f"{folder} was trained with a base other than this one:\n{listing(differing)}")
                beside = _tokenizer_digest(copied, digest)
                twin, adapter = load_beside(model, copied, None if beside in known else tokenizer)
                known.add(beside)
                key = content_digest(copied, digest) + str(dtype).encode()
            except (AdapterError, ModelError) as error:
                message = str(error).replace(str(copied), str(folder))
                raise AdapterError(message if str(folder) in message else f"{folder}: {message}") from error
        factors = step_factors(adapter, paths, dtype, tiles=tiles)
        if factors is not None:
            table = factor_table(factors, sites)
            return LoadedAdapter(key=key, nbytes=table.nbytes, factors=table)
        nbytes = sum(tensor.nbytes for tensor in adapter.tensors().values())
        return LoadedAdapter(key=key, nbytes=nbytes, model=twin)

    return load


def _checked(copied: Path, digest: Callable[[Path], str]) -> Mapping[str, str]:
    """Check copies of an adapter's files against its records, and remove the records, so that no reader uses them
    again.

    Args:
        copied: the folder with the copies.
        digest: computes the SHA-256 of a copy.

    Returns:
        The SHA-256 of the files of the adapter's base, by name; empty if the adapter does not record them.

    Raises:
        AdapterError: a file is not the one that was written, or a record is damaged.
    """
    for name in READ_FILES:
        check_unchanged(copied, name, digest)
    recorded = read_base(copied, digest)
    for name in (LOCK_FILE, MANIFEST_FILE):
        (copied / name).unlink(missing_ok=True)
    return recorded


def _tokenizer_digest(copied: Path, digest: Callable[[Path], str]) -> str:
    """What identifies the tokenizer beside an adapter; empty if there is none."""
    files = (copied / TOKENIZER_FILE, copied / TOKENIZER_CONFIG_FILE)
    return " ".join(digest(file) for file in files if file.is_file())


def _copy_of(folder: Path, parent: Path) -> Path:
    """A folder in `parent` with copies of the files of an adapter."""
    copy = parent / folder.name
    copy.mkdir()
    for name in (*READ_FILES, BASE_FILE, LOCK_FILE, MANIFEST_FILE):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, copy / name)
    return copy
