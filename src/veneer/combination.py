"""`veneer.combine`: folders of adapters become one, the adapter of their weighted sum, with the rows that any of them
was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from veneer.adapters.arithmetic import CombinationType, Majority
from veneer.adapters.combine import Combination, WeightedAdapter, combine_adapters
from veneer.adapters.files.origin import base_differences, read_base
from veneer.adapters.files.store import config_warnings, read_content, read_spec, save_adapter
from veneer.arguments import check_types
from veneer.data.trained_rows import FileHashes, JoinedHashes, write_hashes
from veneer.enums import OtherBase, choice
from veneer.errors import AdapterError, ConfigError, listing
from veneer.io.files import atomic_folder, claimed, refuse_filled
from veneer.io.proofs import prove_new_folder
from veneer.run_folder import TRAINED_ROWS_FILE, trained_rows_of


@dataclass(frozen=True, slots=True)
class CombinationResult:
    """Summary of the adapter that `combine_folders` has written."""

    updates: int
    """Number of updated modules."""
    rank: int
    """Largest rank."""
    bases: tuple[str, ...]
    """Distinct names of the adapters' bases, as far as they name one. Several names should mean one model."""
    warnings: tuple[str, ...] = ()
    """Warnings for the user: unknown keys, or different bases if those are allowed."""


def combine(
    adapters: Sequence[str | Path] | Mapping[str | Path, float],
    output: str | Path,
    *,
    kind: CombinationType | str = CombinationType.SVD,
    density: float | None = None,
    majority: Majority | str = Majority.TOTAL,
    rank: int | None = None,
    seed: int = 0,
    other_base: OtherBase | str = OtherBase.REFUSE,
) -> CombinationResult:
    """Add several adapters of one base into one.

    Args:
        adapters: folders of adapters; a mapping gives each its weight in the sum, which is 1 otherwise.
        output: the folder of the new adapter, which must not hold anything.
        kind: how they are added, a `CombinationType` or its name.
        density: share of the elements that is kept, in the kinds that prune (TIES, DARE).
        majority: how TIES elects a sign, `total` or `frequency`.
        rank: rank of the new adapter, in the kinds that end in svd.
        seed: seed of the random draws of DARE.
        other_base: what happens if the adapters were trained on different bases, an `OtherBase` or its name.

    Raises:
        ConfigError: a name is unknown, a single folder is not in a list, a folder is given twice, or every weight is 0.
        AdapterError: adapters cannot be read or combined, or have different bases; nothing is written.
        OutputError: `output` holds something, is being written by another process, or cannot be written.
    """
    check_types(combine, locals())
    weighted = adapters if isinstance(adapters, Mapping) else dict.fromkeys(adapters, 1.0)
    how = Combination(
        kind=choice(CombinationType, kind, "kind"),
        density=density,
        majority=choice(Majority, majority, "majority"),
        rank=rank,
        seed=seed,
    )
    folders = {Path(folder): weight for folder, weight in weighted.items()}
    if len(folders) < len(adapters):
        raise ConfigError("adapters: a folder is given twice; give it once, with the sum of the weights")
    return combine_folders(folders, how, Path(output), other_base=choice(OtherBase, other_base, "other_base"))


def combine_folders(
    folders: Mapping[Path, float],
    how: Combination,
    output: Path,
    *,
    other_base: OtherBase = OtherBase.REFUSE,
) -> CombinationResult:
    """Combine saved adapters, given with their weights, into the folder `output`, as PEFT and `veneer` load it.

    The result also has the hashes of the rows that any of them was trained on, as far as their runs recorded them.

    Args:
        folders: the adapters, each with its weight.
        how: settings of the combination.
        output: the folder of the result, which must not hold anything.
        other_base: what happens if the adapters were trained on different base models.

    Raises:
        ConfigError: two of the paths are the same folder, or every weight is 0.
        AdapterError: adapters cannot be read or combined, or have different bases; nothing is written.
        DataError: the hashes of an adapter's rows are damaged; nothing is written.
        OutputError: `output` holds something, is being written by another process, or cannot be written.
    """
    place = prove_new_folder(output)
    specs = {folder: read_spec(folder) for folder in folders}
    _refuse_repeats(folders)
    if not any(folders.values()):
        raise ConfigError("adapters: every weight is 0, so that their sum changes nothing; give another weight")
    warnings = [warning for folder, spec in specs.items() for warning in config_warnings(folder, spec)]
    base_files, problem = _common_base({folder: read_base(folder) for folder in folders})
    if problem is not None and other_base is OtherBase.REFUSE:
        raise AdapterError(f"{problem}\nGive --allow-other-base to combine them nevertheless.")
    warnings += [] if problem is None else [problem]
    rows = tuple(FileHashes(file) for folder in folders if (file := trained_rows_of(folder)).is_file())
    configs = [read_content(folder) for folder in folders]
    named: dict[str, str | None] = {}  # each base with its revision
    for config in configs:
        if (name := config.get("base_model_name_or_path")) is not None:  # PEFT writes null where it does not know it
            named.setdefault(str(name), config.get("revision"))
    base, revision = next(iter(named.items()), (None, None))
    with claimed(place, refuse_filled):
        result = combine_adapters([WeightedAdapter.read(folder, weight) for folder, weight in folders.items()], how)
        with atomic_folder(place) as folder:
            save_adapter(folder, result, base=base, revision=revision, base_files=base_files)
            if rows:
                write_hashes(folder / TRAINED_ROWS_FILE, JoinedHashes(rows))
    rank = max(result.spec.rank, *result.spec.rank_pattern.values(), 0)
    return CombinationResult(len(result.modules), rank, tuple(named), tuple(warnings))


def _refuse_repeats(folders: Iterable[Path]) -> None:
    """Refuse a folder that is given in two ways (by a link, or by a relative and an absolute path) and would count
    twice."""
    first: dict[Path, Path] = {}
    for folder in folders:
        other = first.setdefault(folder.resolve(), folder)
        if other is not folder:
            raise ConfigError(f"{other} and {folder} are the same folder; give it once, with the sum of the weights")


def _common_base(bases: Mapping[Path, Mapping[str, str]]) -> tuple[Mapping[str, str], str | None]:
    """The digests of the base that all adapters were trained on, and a message if they differ.

    The digests are empty if an adapter does not record them, or if they differ.
    """
    known = [(folder, files) for folder, files in bases.items() if files]
    differing = [f"{folder}: {line}" for folder, files in known[1:] for line in base_differences(known[0][1], files)]
    if differing:
        return {}, (
            f"these adapters were trained on different base models. Compared with {known[0][0]}, these files of the "
            f"base differ (SHA-256):\n{listing(differing)}"
        )
    return (known[0][1] if known and len(known) == len(bases) else {}), None
