"""The rules of the code that no other tool checks: layers, and what the code does not do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.source_trees import SOURCE, trees, trees_kept

LAYERS = (
    {"errors", "enums", "formulas", "config", "events", "event_log", "padding", "bounds", "defaults", "step_values"}
    | {"arguments", "runtime", "text"},
    {"native"},
    {"widening"},
    {"gpu", "products", "tables", "finite", "machine", "html"},
    {"quant", "model", "io", "losses"},
    {"adapters", "data", "loading", "generation"},
    {"backends", "run_folder", "http_server", "processes"},
    {"planning", "given_rows", "claims"},
    {"evaluation", "assistant", "quantization", "combination", "bundled", "run_records", "trackers"},
    {"rewards"},
    {"training"},
    {"exports", "comparison", "sweeps", "reproduction", "walkthrough", "serving", "jobs", "reward_model"},
    {"tracked_run", "run_report", "studio", "ray", "answering"},
    {"cli", "commands", "screens", "diagnosis", "__main__", "__init__"},
)
"""The first part of a module's path, from the bottom up. A module imports from layers below, or its own folder."""

SIDEWAYS = {
    ("enums", "errors"),  # a word that is none of a setting's is refused
    ("config", "enums"),  # the words of its settings
    ("config", "formulas"),  # and those of its objectives
    ("config", "errors"),  # a refused setting is one of the errors
    ("arguments", "errors"),  # an argument of a wrong type is a ConfigError
    ("bounds", "errors"),  # what no model has is a ModelError
    ("bounds", "text"),  # ids are whole numbers
    ("text", "errors"),  # a number that JSON has no form for is an OutputError
    ("runtime", "errors"),  # and so is what a system lacks
    ("events", "text"),  # a loss that is no number comes back from its JSON
    ("event_log", "events"),  # what is written
    ("event_log", "errors"),  # an event that cannot be written is an OutputError
    ("event_log", "text"),  # an event is a line of JSON
    ("event_log", "step_values"),  # a number of each step that the events tell of
    ("evaluation", "assistant"),  # what is evaluated is an assistant
    ("tracked_run", "run_report"),  # a run ends with its report
    ("__main__", "cli"),
    ("cli", "commands"),
    ("cli", "screens"),
    ("commands", "screens"),
    ("commands", "diagnosis"),
    ("cli", "__init__"),  # the version
    ("diagnosis", "__init__"),  # the version
}
"""Imports within one layer that leave a folder."""

BROAD_EXCEPT = {
    "data/files/hub.py": 1,  # what `datasets`, its HTTP client and its readers of files raise has no base in common
    "evaluation/harness.py": 1,  # a task is a stranger's templates and functions; what they raised is told
    "evaluation/metrics/custom.py": 1,  # a stranger's function may raise anything; what it was is told, with its row
    "exports/readers.py": 1,  # what tokenizers, jinja2 and huggingface_hub raise at damaged files has no base in common
    "gpu/dispatch.py": 1,  # what Triton lacks raises anything at its first launch; torch computes then
    "io/digests.py": 1,  # whatever fails on the thread is raised again where the digests are asked for
    "io/hub.py": 1,  # what the hub's library, its HTTP client and its storage raise has no base in common
    "io/pattern_probes.py": 1,  # the Rust library raises Exception itself for a part that is no pattern alone
    "io/tokenizer.py": 1,  # the Rust library raises Exception itself for a damaged tokenizer.json
    "ray/cluster.py": 1,  # Ray raises Exception itself where a node does not start in time; it is one line of a refusal
    "rewards/child.py": 1,  # a stranger's function may raise anything; what it was is told
    "http_server/slow_work.py": 1,  # whatever fails on a thread is raised again where its result is awaited
    "trackers/queue.py": 1,  # another's library may raise anything; it is told, and the run goes on
    "trackers/child.py": 1,  # likewise: its error is said in one line, and the process ends
    "studio/watch.py": 1,  # a look at strangers' files must not be the last one; where it failed is logged
    "runtime/signals.py": 1,  # what fails because a library swallowed a signal; everything else is raised again
}
KEYWORDS = {
    "model/hf.py": {"forward"},  # it stands in for a module of transformers, whatever that takes
    "data/templates/sandbox.py": {"run", "call"},  # they stand for functions of jinja2, whatever those take
}
HOOKS = {"sys.unraisablehook", "threading.excepthook"}
"""What Python's library tells programs to assign."""
ENVIRONMENT = {
    "processes/ranks.py",  # which process of several this is, as torchrun says it
    "machine/hardware.py",  # what torch's allocator and cuBLAS read from it alone: set for them, never read for veneer
    "trackers/process.py",  # what a library's own process is given: it has no other switch to send nothing
}
COMPARED_JSON = {
    "data/files/fix.py": 1,
    "data/lint/checks/tool_calls.py": 1,
    "data/lint/fields.py": 2,
    "data/lint/row.py": 2,
    "data/records.py": 1,
    "data/rows.py": 1,
    "data/templates/render_wire.py": 2,  # rows on their way to the process that renders them, and back
    "data/trained_rows.py": 1,
    "data/templates/template.py": 1,  # a function of templates, which makes what transformers' makes
    "evaluation/scoring.py": 2,
    "text/expressions.py": 1,  # texts on their way to the process that tries expressions
    "io/gguf/vocabulary.py": 1,
    "io/json_objects.py": 1,
    "text/strict_json.py": 1,
}
"""Where values become JSON that is compared, hashed, rendered or read back at once, and never written."""


@pytest.fixture(scope="module", autouse=True)
def kept() -> Iterator[None]:
    with trees_kept():
        yield


def module_name(path: str) -> str:
    name = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    return name or "__init__"


def part(module: str) -> str:
    return module.split(".")[0]


def imports(path: str, *, lazy: bool = True) -> Iterator[str]:
    """Modules of this package that a module imports; those inside functions and TYPE_CHECKING blocks if `lazy`."""
    known = {module_name(other) for other in trees()}

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if not lazy and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if not lazy and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            yield child
            yield from walk(child)

    for node in walk(trees()[path]):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            base = node.module or ""
            targets = [f"{base}.{alias.name}" for alias in node.names]
            targets = [t if t.removeprefix("veneer.") in known else base for t in targets]
        else:
            continue
        for target in targets:
            if target == "veneer" or target.startswith("veneer."):
                yield target.removeprefix("veneer").removeprefix(".") or "__init__"


def calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """What is called, as it is written, and where."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node


def test_every_module_has_a_layer() -> None:
    parts = {part(module_name(path)) for path in trees()}
    placed = [name for layer in LAYERS for name in layer]
    assert len(placed) == len(set(placed))
    assert parts == set(placed)


def test_imports_point_downward() -> None:
    height = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    upward, sideways = [], set()
    for path in trees():
        source = part(module_name(path))
        for target in imports(path):
            other = part(target)
            if other == source or (source == "__init__" and height[other] <= height[source]):
                continue
            if height[other] > height[source]:
                upward.append(f"{path} imports {target}")
            elif height[other] == height[source]:
                sideways.add((source, other))
    assert upward == []
    assert sideways - SIDEWAYS == set()
    assert SIDEWAYS - sideways == set(), "an exception that nobody needs any more"


def test_no_module_imports_itself_in_a_circle() -> None:
    """Also through imports that wait inside functions."""
    graph = {module_name(path): set(imports(path)) for path in trees()}
    # The package's own names are loaded on first use, by a table; `from veneer import __version__` runs none of it.
    graph["__init__"] = set()
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " imports ".join((*above[above.index(module) :], module))
        if module not in done:
            for other in sorted(graph.get(module, set())):
                visit(other, (*above, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_the_lowest_layer_needs_no_torch() -> None:
    for path, tree in trees().items():
        if part(module_name(path)) in LAYERS[0]:
            roots = {
                name.split(".")[0]
                for node in ast.walk(tree)
                for name in (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
            }
            assert not roots & {"torch", "numpy", "safetensors", "tokenizers"}, path


def test_nobody_outside_of_backends_branches_on_who_computes_a_model() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("Backend.HF", "Backend.VENEER")
        if part(module_name(path)) not in ("backends", "enums")
    ]
    assert found == [], "ask a capability of the model's description"


def test_nothing_is_asked_by_hasattr_or_run_from_text() -> None:
    banned = {"hasattr", "exec", "eval", "compile", "builtins.exec", "builtins.eval", "os.system", "__import__"}
    found = [f"{path}:{line}: {name}" for path, tree in trees().items() for name, line in calls(tree) if name in banned]
    assert found == []


def test_no_pickle_is_loaded() -> None:
    banned = {"torch.load", "pickle.load", "pickle.loads", "joblib.load", "np.load", "numpy.load"}
    found = [f"{path}:{line}: {name}" for path, tree in trees().items() for name, line in calls(tree) if name in banned]
    assert found == []


def test_exceptions_are_caught_by_name() -> None:
    found: dict[str, int] = {}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds):
                found[path] = found.get(path, 0) + 1
    assert found == BROAD_EXCEPT


def test_the_environment_is_not_a_configuration() -> None:
    found = {
        path
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv")
    }
    assert found == ENVIRONMENT


def test_no_function_takes_keywords_that_it_does_not_name() -> None:
    found: dict[str, set[str]] = {}
    for path, tree in trees().items():
        for function in functions(tree):
            if function.args.kwarg is not None:
                found.setdefault(path, set()).add(getattr(function, "name", "lambda"))
    assert found == KEYWORDS


def test_consoles_without_a_width_of_their_own_are_made_in_one_place() -> None:
    """`screens/console.py` sees to it that a line has room for a word."""
    found = {
        path
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Console"
        if "width" not in {keyword.arg for keyword in node.keywords}
    }
    assert found == {"screens/console.py"}


def test_json_is_written_by_the_one_writer() -> None:
    """JSON has no NaN: `veneer.text.strict_json.to_text` never writes one."""
    found: dict[str, int] = {}
    for path, tree in trees().items():
        for called, _ in calls(tree):
            if called in ("json.dumps", "json.dump", "dumps", "dump", "json.JSONEncoder", "JSONEncoder"):
                found[path] = found.get(path, 0) + 1
    assert found == COMPARED_JSON
    writer = ast.unparse(trees()["text/strict_json.py"])
    assert "allow_nan=False" in writer


def test_no_attribute_of_another_library_is_replaced() -> None:
    """No monkey-patching: `module.name = …` only on what is ours (self, cls, and objects made here), and on the hooks
    that Python has for being set."""
    found = []
    for path, tree in trees().items():
        modules = {
            (alias.asname or alias.name).split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if is_set(node) else []
            found += [
                f"{path}:{node.lineno}: {ast.unparse(target)}"
                for target in targets
                if isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id in modules
                and ast.unparse(target) not in HOOKS
            ]
    assert found == []


def is_set(node: ast.AST) -> bool:
    return isinstance(node, ast.AugAssign | ast.AnnAssign)


SUITES = {
    "test_api.py": "the package's public names",
    "test_architecture.py": "layers and rules of all modules",
    "test_docs.py": "README and docs",
    "test_imports.py": "names that are used outside of the package",
    "test_page_layout.py": "scripts, styles and HTML files of all pages",
    "test_prose.py": "words of all modules",
    "adapters/test_features.py": "every kind of adapter that PEFT makes, both ways",
    "data/test_families.py": "the chat format of every family, from its mask to its prompt",
    "gpu/test_compile.py": "every Triton kernel, by Triton's compiler",
    "gpu/test_card.py": "launches, waits and bytes of training on a GPU, counted without one",
    "gpu/test_run.py": "whole runs on each kind of device that there is",
    "gpu/test_interpreter.py": "the files of this folder that Triton's interpreter runs",
    "model/test_families.py": "every family, against transformers",
    "model/test_mixtures.py": "every mixture, against transformers",
    "backends/test_runs.py": "whole runs with models that transformers computes",
    "exports/test_gguf_families.py": "every family that is exported, by llama.cpp",
    "serving/test_lm_eval.py": "lm-evaluation-harness as a client",
    "serving/test_isolation.py": "answers of interleaved requests are those of a cold engine",
    "studio/test_attacks.py": "OWASP's usual attacks on the studio",
    "studio/test_chat_page.py": "the page of static/chat.js, in a browser",
    "studio/test_forms.py": "the forms of static/files.js, new_job.js, evaluation_form.js and exports.js, in a browser",
    "studio/test_jobs.py": "jobs and files, by OpenAI's client",
    "studio/test_kills.py": "the studio's server, killed at any moment",
    "studio/test_plot_numbers.py": "numbers in the plots of static/plot.js, in a browser",
    "studio/test_safety.py": "who gets in, and what they may open",
    "training/optimizers/test_runs.py": "whole runs with every optimiser",
    "training/test_adapter_kinds.py": "whole runs with every kind of adapter",
    "training/test_mixtures.py": "whole runs with mixtures",
    "training/parallel/test_runs.py": "whole runs in several processes",
}
"""Suites that belong to no single module, and what they are about."""
UNTESTED = {
    "adapters/files/names.py": "names alone: test_features.py reads and writes PEFT's files by them",
    "config/compute.py": "a section's keys: config/test_numbers.py and test_checks.py try them",
    "config/grpo.py": "sections' keys: config/test_numbers.py and test_checks.py try them",
    "config/lora.py": "sections' keys: config/test_numbers.py and test_checks.py try them",
    "config/objectives.py": "sections' keys: config/test_numbers.py and test_checks.py try them",
    "config/tracking.py": "a section's keys: trackers/test_wandb.py and its neighbours try them",
    "config/train.py": "a section's keys: config/test_numbers.py and test_checks.py try them",
    "data/lint/checks/by_model.py": "rules alone: test_label_errors.py and test_persons.py find rows under them",
    "data/encoded/pool_worker.py": "the processes of worker_pool.py: test_worker_pool.py starts them",
    "data/templates/turn_shape.py": "a dataclass: test_spans.py finds the shapes of templates",
    "data/lint/rules.py": "dataclasses and enums; what they hold is checked in test_registry.py",
    "exports/request.py": "dataclasses and an enum: what test_run.py and test_verify.py ask for",
    "formulas.py": "enums: test_enums.py reads every word",
    "generation/build.py": "one call of the engine's constructor, which all of test_engine.py goes through",
    "generation/share.py": "a protocol, and the process that does everything: all of test_scoring.py goes through it",
    "generation/runner.py": "protocols and dataclasses; mypy checks who implements them",
    "generation/paged.py": "the engine's runner of blocks: test_engine.py compares it with requests that run alone",
    "io/protocol.py": "protocols; mypy checks who implements them",
    "jobs/job.py": "dataclasses and enums; test_sqlite_store.py and test_folder.py read back what they write",
    "jobs/store.py": "a protocol; mypy checks who implements it",
    "model/language.py": "protocols; mypy checks who implements them",
    "reproduction/original.py": "what a run has left: test_run.py makes runs again from that, and refuses what differs",
    "screens/loading.py": "one call under a bar; test_chat.py and test_generate.py open models with it",
    "screens/reproduce.py": "prints the lines of a Reproduction: tests/commands/test_reproduce.py reads them",
    "screens/verify.py": "prints the table of test_export.py: tests/commands/test_verify.py reads it",
    "screens/studio.py": "a sentence: tests/commands/test_studio.py reads it",
    "trackers/board.py": "a protocol and dataclasses; mypy checks who implements it",
    "studio/": "the studio is asked over HTTP as a whole, by test_jobs.py, and in a browser by browser/",
    "serving/app.py": "the table of routes: test_guard.py walks it, and every test over HTTP goes through it",
    "serving/build.py": "puts a server together: every test over HTTP is asked of one",
    "serving/served_adapters/catalogue.py": "a protocol and dataclasses; mypy checks who implements it",
    "http_server/limits.py": "a dataclass; each limit is met by test_body.py, test_connection.py or test_server.py",
    "serving/request.py": "dataclasses: what tests/screens/test_serve.py asks for",
    "serving/run.py": "tests/screens/test_serve.py and test_server.py start it in processes of their own",
    "serving/service.py": "what all routes share: test_server.py fills its queue, drains and breaks it",
    "serving/selfcheck/asking.py": "clients of a running server: test_run.py compares what they got",
    "serving/selfcheck/cold.py": "one request of an engine: test_run.py compares every answer with it",
    "training/evaluations/asking.py": "evaluation and samples together: test_answers.py and test_samples.py use it",
    "training/open_choices.py": "what prepare.py settles, in its order: test_prepare.py goes through all of it",
    "training/folder/optimizer_file.py": "the state in a checkpoint: test_checkpoint.py writes, damages and reads it",
    "training/parallel/fully_shard.py": "calls torch's FSDP2: test_shards.py makes whole runs with it",
    "training/session.py": "the run's inner half: test_run.py, test_engine.py and test_lock.py go through all of it",
    "training/sharded.py": "weights in parts as what a run trains: parallel/test_shards.py makes whole runs with it",
}
"""Modules, and folders of them, without a test file of their name, and why: they hold types alone, or nothing that a
neighbour's tests do not go through as a whole."""
OUTSIDE = ("benchmarks/", "examples/", "faults/", "scripts/", "studio/browser/")
"""Folders of tests of what lies outside of the package, of the scenarios of docs/reliability.md, and of the studio's
pages in a browser."""


def test_every_test_file_has_its_module() -> None:
    tests = Path(__file__).parent
    found = set()
    for file in tests.rglob("test_*.py"):
        path = file.relative_to(tests).as_posix()
        own = (file.parent / file.name.removeprefix("test_")).relative_to(tests).as_posix()
        package = own.removesuffix(".py")
        sources = (SOURCE / own, SOURCE / f"{package}.c")
        if path in SUITES or path.startswith(OUTSIDE) or any(map(Path.is_file, sources)) or (SOURCE / package).is_dir():
            continue
        found.add(path)
    assert found == set()
    assert all((tests / path).is_file() for path in SUITES)


def test_every_module_has_its_test_file() -> None:
    """`tests/x/test_y.py` for `src/veneer/x/y.py`; `__init__` and `__main__` hold nothing of their own."""
    tests = Path(__file__).parent
    missing = set()
    for path in trees():
        folder, _, name = path.rpartition("/")
        if name not in ("__init__.py", "__main__.py") and not (tests / folder / f"test_{name}").is_file():
            folders = {entry for entry in UNTESTED if entry.endswith("/") and path.startswith(entry)}
            missing |= folders or {path}
    assert missing - UNTESTED.keys() == set(), "a module without tests of its own"
    assert UNTESTED.keys() - missing == set(), "an exception that nobody needs any more"


def test_every_module_says_what_it_is_for() -> None:
    silent = [path for path, tree in trees().items() if len((ast.get_docstring(tree) or "").split()) < 5]
    assert silent == []


def test_the_rules_would_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The walker itself: an upward import inside a function, and a keyword catch-all."""
    code = "from veneer.config import Method\ndef f(**rest):\n    from veneer import load\n    import veneer.cli\n"
    monkeypatch.setattr(f"{__name__}.trees", lambda: real | {"quant/bad.py": ast.parse(code)}, raising=True)
    real = {path: ast.parse("") for path in ("config/__init__.py", "load.py", "cli.py")}
    assert list(imports("quant/bad.py")) == ["config", "load", "cli"]
    assert list(imports("quant/bad.py", lazy=False)) == ["config"]
