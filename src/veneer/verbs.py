"""The verbs that only convert their arguments: settings from a mapping, enums from names, paths from strings.

Each has the name and the meaning of its command. `evaluate`, `export`, `verify`, `quantize`, `sweep`, `reproduce`,
`doctor` and `quickstart` are defined next to the code that carries them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import overload

from veneer.adapters.arithmetic import CombinationType, Majority
from veneer.adapters.combine import Combination
from veneer.arguments import check_types, names_given
from veneer.assistant.conversation import Conversation
from veneer.assistant.load import open_assistant
from veneer.assistant.prompts import read_prompts
from veneer.claims import SETTINGS_FILE
from veneer.combination import CombinationResult, combine_folders
from veneer.comparison import run as comparison
from veneer.comparison.run import CompareResult
from veneer.comparison.settings import HELD_OUT, METHODS, CompareConfig
from veneer.config import ComputeSection
from veneer.data.files.in_memory import RowSource, rows_file, withdrawn_until
from veneer.data.forms.turns import Message
from veneer.data.lint.report import LintReport
from veneer.data.lint.run import LintOptions
from veneer.enums import Column, Method, ObjectiveName, OtherBase, choice
from veneer.errors import ConfigError
from veneer.evaluation.columns import named_columns
from veneer.evaluation.lint_request import LintRequest, run_lint
from veneer.events import Subscriber, broadcast
from veneer.generation.sampling import Sampling
from veneer.given_rows import Settings, for_supposed_rows, with_rows
from veneer.planning.estimate import Estimate
from veneer.planning.plan import Plan
from veneer.run_folder import RunFolder
from veneer.training import prepare
from veneer.training.supposed_steps import SupposedRows


def plan(
    config: Settings,
    *,
    data: RowSource | None = None,
    device: str | None = None,
    rows: SupposedRows | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> Plan | Estimate:
    """Say how much memory, time and disk a run would need, from its model's configuration alone.

    Args:
        config: the run, a `RunConfig` or a mapping of its sections.
        data: the training rows, instead of `config.data.file`, as in `train`. Rows in memory are not written.
        device: the device that would compute: as in `compute.device`, or the name of a GPU (`h100`, `a100`, `l4`).
        rows: assumptions about the rows; None reads those of `config.data`. With assumptions, a mapping may leave out
            the file of rows and `output`, which are not read.
        subscribers: receive every event: what was found and chosen, and the plan.

    Returns:
        A plan, or an estimate if transformers computes the model. Its `refusal` says why the run does not fit.

    Raises:
        VeneerError: something named in the settings does not exist, or cannot be used.

    >>> settings = {"model": model, "output": "run", "data": {"file": data}}
    >>> veneer.plan(settings).refusal is None
    True
    """
    check_types(plan, locals())
    if rows is not None:
        config = for_supposed_rows(config)
    emit = broadcast(subscribers)
    with TemporaryDirectory() as scratch:
        config = with_rows(config, data, None, emit, Path(scratch))
        return prepare.plan(config, emit, device=device, rows=rows)


def lint(
    data: RowSource,
    *,
    model: str | Path | None = None,
    eval_data: RowSource | None = None,
    max_length: int | None = None,
    columns: Mapping[Column, str] | Mapping[str, str] | None = None,
    objective: ObjectiveName | str | None = None,
    group: str | None = None,
    ignore: str | Sequence[str] = (),
    label_errors: bool = False,
    names: str | None = None,
    processes: int = 1,
    subscribers: Sequence[Subscriber] = (),
) -> LintReport:
    """Check every row of a data file. The command is `veneer data`; in Python this name is the package that reads rows.

    Args:
        data: the rows to train on, a file or dictionaries, as in `train`.
        model: a directory, GGUF file or hub id, whose tokenizer and chat template the rows are checked with. Without it
            no check of tokens is made.
        eval_data: the evaluation rows; they are checked too, also for overlap with the training rows.
        max_length: the largest number of tokens in a row; None sets no limit.
        columns: maps veneer's names of columns or keys (a `Column` or its name) to those of the data, where they differ
            (`data.columns`).
        objective: the objective that the rows are for. They are read as a run of that objective reads them, and what it
            would refuse or leave out is an error. With None, the keys of each row say whether it is a pair or an
            answer.
        group: the column whose equal values must not be on both sides of training and evaluation.
        ignore: names (or one) of the rules that are not reported.
        label_errors: whether the model itself reads the training rows, to find likely label errors.
        names: a pipeline of spaCy that looks for names of persons in the training rows.
        processes: the number of processes that check rows.
        subscribers: receive every event.

    Raises:
        DataError: the rows cannot be read at all, or there are none.
        ConfigError: a rule to ignore or the objective is not known, or something that `label_errors` or `names` needs
            is missing.
        ModelError: the model has no usable tokenizer.

    >>> report = veneer.lint(data, model=model)
    >>> report.failed
    False
    >>> veneer.lint([{"prompt": "1 + 1?", "reference": "2"}], objective="grpo").failed
    False
    """
    check_types(lint, locals())
    with TemporaryDirectory() as scratch:
        folder, emit = RunFolder(Path(scratch)), broadcast(subscribers)
        request = LintRequest(
            data=str(rows_file(data, folder.data_file, emit)),
            model=model,
            eval_data=None if eval_data is None else str(rows_file(eval_data, folder.eval_data_file, emit)),
            max_length=max_length,
            columns=named_columns(columns),
            objective=None if objective is None else choice(ObjectiveName, objective, "objective"),
            options=LintOptions(ignore=frozenset(names_given(ignore)), group=group, processes=processes),
            label_errors=label_errors,
            names=names,
        )
        request.refuse_unreadable("label_errors", "model")
        return run_lint(request, emit)


def compare(
    model: str | Path,
    data: RowSource,
    output: str | Path,
    *,
    methods: Sequence[Method | str] = METHODS,
    seeds: int = 3,
    eval_data: RowSource | None = None,
    held_out: float = HELD_OUT,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    metrics: str | Sequence[str] = (),
    assignments: Sequence[str] = (),
    preference: ObjectiveName | str | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> CompareResult:
    """Train and score every method with every seed, each run in a process of its own, one after another.

    Finished runs are not repeated, and a run that was interrupted is resumed.

    Args:
        model: directory, GGUF file or hub id.
        data: rows to train on, a file or dictionaries, as in `train`.
        output: the folder of the comparison.
        methods: the methods to compare, `Method`s or their names.
        seeds: the number of runs of each method.
        eval_data: rows to score; without them a share of `data` is held out, the same for all runs.
        held_out: the size of this share.
        limit: the number of evaluation rows to score, drawn once.
        max_new_tokens: the longest answer, in tokens.
        metrics: one name as in `evaluate`, or several with the primary one first; by default the form of the rows
            decides.
        assignments: `key=value` settings for all runs, as in `veneer train --set`.
        preference: an objective of pairs. `data` must then be pairs: every method is fine-tuned on the chosen answers,
            and then trained further by this objective on the pairs.
        subscribers: receive every event.

    Raises:
        ConfigError: the settings of a method contradict each other, or contain a key that the comparison sets itself.
        DataError: rows cannot be used.
        OutputError: the folder holds another comparison, or cannot be written.
        Interrupted: a run was stopped; the same call resumes it.
    """
    check_types(compare, locals())
    folder, emit = RunFolder(Path(output)), broadcast(subscribers)
    begun = folder.path / SETTINGS_FILE
    # If the comparison has not begun, the caller may correct the rows and try again.
    with withdrawn_until(begun.exists, [folder.data_file, folder.eval_data_file]):
        config = CompareConfig(
            model=str(model),
            data=str(rows_file(data, folder.data_file, emit)),
            output=str(output),
            methods=tuple(choice(Method, method, "methods") for method in methods),
            seeds=seeds,
            eval_data=None if eval_data is None else str(rows_file(eval_data, folder.eval_data_file, emit)),
            held_out=held_out,
            limit=limit,
            max_new_tokens=max_new_tokens,
            metrics=names_given(metrics),
            assignments=tuple(assignments),
            preference=None if preference is None else choice(ObjectiveName, preference, "preference"),
        )
        return comparison.compare(config, emit)


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
        ConfigError: a name is unknown, a single folder is not in a list, or a folder is given twice.
        AdapterError: adapters cannot be read or combined, or have different bases; nothing is written.
        OutputError: `output` holds something, or cannot be written.
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


# For a type checker a str is a sequence of str; the first overload that fits counts.
@overload
def generate(  # type: ignore[overload-overlap]
    model: str | Path,
    prompts: str,
    *,
    adapter: str | Path | None = ...,
    system: str | None = ...,
    sampling: Sampling | None = ...,
    method: Method | str | None = ...,
    compute: ComputeSection | None = ...,
    on_text: Callable[[str], None] = ...,
    subscribers: Sequence[Subscriber] = ...,
) -> str: ...


@overload
def generate(
    model: str | Path,
    prompts: Iterable[str | Sequence[Message]],
    *,
    adapter: str | Path | None = ...,
    system: str | None = ...,
    sampling: Sampling | None = ...,
    method: Method | str | None = ...,
    compute: ComputeSection | None = ...,
    on_text: Callable[[str], None] = ...,
    subscribers: Sequence[Subscriber] = ...,
) -> list[str]: ...


def generate(
    model: str | Path,
    prompts: str | Iterable[str | Sequence[Message]],
    *,
    adapter: str | Path | None = None,
    system: str | None = None,
    sampling: Sampling | None = None,
    method: Method | str | None = None,
    compute: ComputeSection | None = None,
    on_text: Callable[[str], None] = lambda text: None,
    subscribers: Sequence[Subscriber] = (),
) -> str | list[str]:
    """Answer one prompt, or several that are decoded together.

    Args:
        model: directory, GGUF file or hub id.
        prompts: a question, or a list of questions and conversations. A conversation is a list of messages with role
            and content; the content is a string or a list of text parts.
        adapter: folder of an adapter.
        system: the system message of every question, and of conversations that have none.
        sampling: length of the answers and how tokens are chosen; by default 256 tokens, the likeliest of each.
        method: the form of the base in memory, a `Method` or its name; by default as the adapter was trained.
        compute: device and dtype.
        on_text: receives the pieces of the answer to a single question, as they come.
        subscribers: receive every event, which shows the progress of loading and answering.

    Returns:
        The answer, or the answers in the order of `prompts`.

    Raises:
        DataError: a prompt is empty or fills the model's context, a message has no role or no content, or the chat
            template refuses it.
        VeneerError: model or adapter cannot be used.

    >>> answers = veneer.generate(model, ["Hello", "What is 1 + 1?"], sampling=veneer.Sampling(max_new_tokens=4))
    >>> len(answers)
    2
    """
    check_types(generate, locals())
    conversations = read_prompts([prompts] if isinstance(prompts, str) else prompts, system)
    assistant = open_assistant(model, adapter=adapter, method=method, compute=compute, subscribers=subscribers)
    if isinstance(prompts, str):
        return assistant.stream(conversations[0], sampling or Sampling(), on_text, subscribers=subscribers)
    return assistant.answers(conversations, sampling or Sampling(), subscribers=subscribers)


def chat(
    model: str | Path,
    *,
    adapter: str | Path | None = None,
    system: str | None = None,
    sampling: Sampling | None = None,
    method: Method | str | None = None,
    compute: ComputeSection | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> Conversation:
    """Open a conversation with a model, which remembers what was said.

    Args:
        model: directory, GGUF file or hub id.
        adapter: folder of an adapter.
        system: the system message.
        sampling: length of the answers and how tokens are chosen; by default 512 tokens, the likeliest of each.
        method: the form of the base in memory, a `Method` or its name; by default as the adapter was trained.
        compute: device and dtype.
        subscribers: receive every event, which shows the progress of loading.

    Raises:
        VeneerError: model or adapter cannot be used.

    >>> talk = veneer.chat(model, system="Be brief.", sampling=veneer.Sampling(max_new_tokens=4))
    >>> answer = talk.say("Hello")
    >>> [message["role"] for message in talk.messages]
    ['system', 'user', 'assistant']
    """
    check_types(chat, locals())
    assistant = open_assistant(model, adapter=adapter, method=method, compute=compute, subscribers=subscribers)
    return Conversation(assistant, system, sampling or Sampling(max_new_tokens=512))
