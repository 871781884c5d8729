"""Models of the Hugging Face hub: what of their files is fetched, and what is said where that fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import model_info, snapshot_download

from veneer.errors import ModelError, listing

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""What names a model of the hub: `owner/name`."""
SETTINGS = ("*.json", "*.jinja", "tokenizer.model")
"""The small files of a hub repository: a model's configuration and tokenizer."""
ALL_FILES = (*SETTINGS, "*.safetensors")
"""Files that are downloaded from a hub repository: no pickles and no code."""
LEFT_OUT = ("[!a]*/*", "a[!d]*/*", "ad[!d]*/*", "consolidated*.safetensors")
"""Files that fit `ALL_FILES` and are left out: those of folders, and one maker's own copy of all weights. Both are the
model once more. The folder `additional_chat_templates` is none of these; such patterns know no other way to say so."""
HUB_FOLDER = "models--"
"""What the folder of a model begins with in the hub's cache."""
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""A model's weights in one file, and what names the files of several."""
ASK_SECONDS = 10.0
"""How long the hub may take to say what a repository holds."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""Ends of the names of pickled weights."""


def download(name: str, revision: str | None, patterns: Sequence[str] = ALL_FILES) -> Path:
    """The folder with the files of a hub model, out of the cache or fetched.

    Raises:
        ModelError: it cannot be had.
    """
    model = _called(name, revision)

    def refusal(reason: str) -> str:
        return (
            f"{model} is neither a local directory nor could it be fetched from the hub: {reason}. Check the name, the "
            "network (and a proxy in HTTPS_PROXY) and, for a gated model, `hf auth login`; or name a directory that "
            "holds it."
        )

    with _refused(refusal):
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(LEFT_OUT))
        )


def refuse_without_weights(name: str, revision: str | None, folder: Path) -> None:
    """Refuse a hub model of which the files that are opened are not there, and say what its repository holds instead.

    Args:
        name: the hub id.
        revision: branch, tag or commit.
        folder: what `download` gave.

    Raises:
        ModelError: the configuration or all weights are missing.
    """
    lacking = [what for what in ("config.json", "*.safetensors") if not any(folder.glob(what))]
    if not lacking:
        return
    model = _called(name, revision)

    def refusal(reason: str) -> str:
        return (
            f"{model} is in the cache without {' and '.join(lacking)}, which was never downloaded, and the hub cannot "
            f"be asked for it: {reason}. Run it once with a connection (or `hf download {name}`); or name a directory "
            "that holds the whole model."
        )

    with _refused(refusal):
        # Asked once: `list_repo_files` would try again for half a minute where there is no network.
        siblings = model_info(name, revision=revision, timeout=ASK_SECONDS).siblings
    files = [one.rfilename for one in siblings or ()]
    fetch = f"A hub id stands for safetensors: fetch one of these by `hf download {name} FILE`, and name the file"
    if "*.safetensors" in lacking:
        raise ModelError(without_weights(model, files, fetch))
    raise ModelError(f"{model} has no config.json: its repository is not a model's. It holds:\n{listing(files)}")


def without_weights(holder: str, files: Sequence[str], take_gguf: str) -> str:
    """What is wrong with a model that has no safetensors, and what to do about it.

    Args:
        holder: the model's directory or hub id.
        files: the names of all files that it has.
        take_gguf: what to do with GGUF files, which are listed behind it.
    """
    ggufs = sorted(file for file in files if file.lower().endswith(".gguf"))
    pickles = sorted(file for file in files if file.lower().endswith(PICKLES))
    if ggufs:
        return f"{holder} has neither {SINGLE} nor {INDEX}, but GGUF files. {take_gguf}:\n{listing(ggufs)}"
    if pickles:
        return (
            f"{holder} holds only {pickles[0]}, a pickle, which is refused because loading it can run any code. Use a "
            "revision with model.safetensors, or convert it where you trust it."
        )
    return (
        f"{holder} has neither {SINGLE} nor {INDEX}: there are no weights to open. Name a model's directory, a "
        ".gguf file or a hub id 'owner/name'."
    )


def _called(name: str, revision: str | None) -> str:
    return f"The model {name} at revision {revision}" if revision else f"The model {name}"


@contextmanager
def _refused(refusal: Callable[[str], str]) -> Iterator[None]:
    """Turn whatever the hub's library raises into a `ModelError`.

    Args:
        refusal: the message for a reason.
    """
    try:
        yield
    # The errors of its HTTP client (which differs by its version), of that client's addresses, of its storage and its
    # own have no base in common.
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "").rstrip(". ")
        # The words of those that are no OSError are about a protocol or a format, and mean little by themselves.
        reason = first if first and isinstance(error, OSError) else f"{type(error).__name__} {first}".strip()
        raise ModelError(refusal(reason)) from error
