"""The targets of an adapter: from names, expressions, exclusions and layer numbers to paths, by PEFT's rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from veneer.config.foreign_values import veneers_value
from veneer.errors import AdapterError, listing, nearest
from veneer.text.expressions import SECONDS, endless

ALL_LINEAR = "all-linear"
"""The value of `target_modules` that means every linear layer but the head."""
EMBEDDING = "model.embed_tokens"
"""Path of the token embedding."""
HEAD = "lm_head"
"""Path of the language-model head."""

ROUTERS = ("gate", "router")
"""Last names of a mixture's routers. They are adapted only if they are named: an update of a router sends tokens to
other experts, also in all later layers."""
_EXPERT_PARAMETER = re.compile(r".*\.experts\.(gate_up_proj|down_proj)")

Value = TypeVar("Value")
Names = str | Sequence[str]
"""A regular expression for whole paths, or a list of names, each a whole path or the end of one."""


def resolve_targets(
    paths: Sequence[str],
    target_modules: Names,
    exclude_modules: Names = (),
    layers_to_transform: Sequence[int] | None = None,
) -> list[str]:
    """The paths that the settings select, in the order of the model.

    Args:
        paths: paths of the linear layers; of a mixture also its routers and the parameters of its experts. Embedding
            and head can be selected too.
        target_modules: `all-linear` (without routers), a regular expression for the whole path, or a list of names,
            each a whole path or the end of one (`q_proj`, `self_attn.q_proj`).
        exclude_modules: an expression or names of the paths to leave out.
        layers_to_transform: indices of the decoder layers to adapt; None means all. As in PEFT, indices leave out all
            modules outside of the layers, but no module that a list of targets names by its whole path.

    Raises:
        AdapterError: an expression is invalid, a name or an index matches nothing, or no path is left.
    """
    everything = [EMBEDDING, *paths, HEAD]
    if target_modules != ALL_LINEAR:
        _check_names(everything, target_modules, "target_modules")
    if exclude_modules:
        _check_names(everything, exclude_modules, "exclude_modules")
    if layers_to_transform is not None:
        numbers = {number for path in paths if (number := layer_number(path)) is not None}
        unknown = [str(number) for number in layers_to_transform if number not in numbers]
        if unknown:
            raise AdapterError(
                f"layers_to_transform names layers that the model does not have:\n{listing(unknown)}\n"
                f"It has {min(numbers)} to {max(numbers)}."
            )
    chosen = [path for path in everything if selects(path, target_modules, exclude_modules, layers_to_transform)]
    if not chosen:
        raise AdapterError(
            f"no layer is left from target_modules {target_modules!r} after exclude_modules {exclude_modules!r} and "
            f"layers_to_transform {layers_to_transform!r}; leave at least one"
        )
    return chosen


def selects(
    path: str, target_modules: Names, exclude_modules: Names, layers_to_transform: Sequence[int] | None
) -> bool:
    """Whether the settings of `resolve_targets` select a path. This function refuses nothing."""
    if target_modules == ALL_LINEAR:
        named = path not in (EMBEDDING, HEAD) and not is_router(path)
    else:
        named = matches(target_modules, path)
    exactly = not isinstance(target_modules, str) and path in target_modules
    inside = exactly or layers_to_transform is None or layer_number(path) in layers_to_transform
    return named and inside and not matches(exclude_modules, path)


def _check_names(paths: Sequence[str], names: Names, setting: str) -> None:
    """Refuse an expression that matches no path, or a list with a name that matches none.

    Raises:
        AdapterError: the expression is invalid or matches nothing, or any name of the list matches nothing.
    """
    leaves = sorted({path.rpartition(".")[2] for path in paths})
    if isinstance(names, str):
        try:
            pattern = re.compile(names)
        except re.error as error:
            raise AdapterError(f"{setting} {names!r} is not a regular expression: {error}") from error
        if not any(pattern.fullmatch(path) for path in paths):
            if ours := veneers_value(f"lora.{setting}", names):
                raise AdapterError(f"{setting} {names!r} matches no layer; veneer's is {ours}")
            example = next((path for path in paths if "." in path and path != EMBEDDING), paths[0])
            raise AdapterError(
                f"{setting} {names!r} matches no layer; it must match a whole path such as {example!r}. "
                f"To name layers, give a list of: {', '.join(leaves)}"
            )
        return
    known = set(paths)
    unmatched = [name for name in names if name not in known and not any(names_path(name, path) for path in paths)]
    if unmatched or not names:
        offenders = listing(f"{name!r}{nearest(name, leaves)}" for name in unmatched)
        raise AdapterError(
            f"{setting} names layers that the model does not have:\n{offenders}\nIt has: {', '.join(leaves)}"
        )


def names_path(name: str, path: str) -> bool:
    """Whether a name is the path, or the end of the path after a dot."""
    return path == name or path.endswith("." + name)


def names_module(name: str, path: str) -> bool:
    """Whether a name is that of a module (see `names_path`), or of a module that it is in (`mlp`, `layers.3`)."""
    return f".{name}." in f".{path}."


def with_parents(path: str) -> list[str]:
    """A path and the paths of all modules that it is in."""
    names = path.split(".")
    return [".".join(names[:count]) for count in range(len(names), 0, -1)]


def is_router(path: str) -> bool:
    """Whether a path is that of a mixture's router."""
    return path.endswith(tuple(f".mlp.{name}" for name in ROUTERS))


def expert_parameter(path: str) -> str | None:
    """The experts' parameter (`gate_up_proj`, `down_proj`) at a path, or None where the path is that of a module."""
    found = _EXPERT_PARAMETER.fullmatch(path)
    return None if found is None else found.group(1)


def matches(names: Names, path: str) -> bool:
    """Whether a path matches an expression or names.

    An invalid expression matches none; its use is refused elsewhere.
    """
    if isinstance(names, str):
        try:
            return re.fullmatch(names, path) is not None
        except re.error:
            return False
    return path in names or any(names_path(name, path) for name in names)


def layer_number(path: str) -> int | None:
    """Index of the decoder layer that a path is in, or None outside of the layers."""
    found = re.match(r".*?\.[^.]*\.(\d+)\.", path)
    return None if found is None else int(found.group(1))


def value_of_pattern(patterns: Mapping[str, Value], path: str, default: Value) -> Value:
    """The value of the first pattern that matches a path, or its end after a dot (PEFT's `rank_pattern`)."""
    for pattern, value in patterns.items():
        if re.match(expression_of_key(pattern), path):
            return value
    return default


def expression_of_key(key: str) -> str:
    """The regular expression that a key of `rank_pattern` or `alpha_pattern` stands for, as in PEFT."""
    return rf"(.*\.)?({key})$"


@lru_cache(maxsize=16)
def unusable(whole: tuple[str, ...], keys: tuple[str, ...], paths: tuple[str, ...]) -> tuple[str, ...]:
    """The problems of regular expressions, before this process matches anything with them: an endless one would block
    it forever.

    Args:
        whole: the expressions for whole paths.
        keys: the keys of `rank_pattern` and `alpha_pattern`.
        paths: the paths that they will be matched with.
    """
    problems = []
    for expression in (*whole, *keys):
        try:
            re.compile(expression)
        except (re.error, RecursionError, OverflowError) as error:
            problems.append(f"{expression!r}: not a regular expression: {error}")
    if problems:
        return tuple(problems)
    used = {rf"(?:{expression})\Z": expression for expression in whole} | {expression_of_key(key): key for key in keys}
    rule = f"takes more than {SECONDS} seconds to match; a repetition within a repetition does"
    return tuple(f"{used[one]!r}: {rule}" for one in endless(used, paths))


def check_patterns(patterns: Mapping[str, object], paths: Sequence[str], setting: str) -> None:
    """Refuse patterns that match no adapted layer, since they would be ignored.

    Raises:
        AdapterError: there are such patterns; the message names all of them.
    """
    problems = []
    for pattern in patterns:
        try:
            fits = any(re.match(expression_of_key(pattern), path) for path in paths)
        except re.error as error:
            problems.append(f"{pattern!r}: not a regular expression: {error}")
            continue
        if not fits:
            leaves = sorted({path.rpartition(".")[2] for path in paths})
            problems.append(f"{pattern!r}: fits no adapted layer{nearest(pattern, leaves)}")
    if problems:
        raise AdapterError(f"{setting} has keys that cannot be used:\n{listing(problems)}")
