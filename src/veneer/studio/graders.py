"""OpenAI's graders as rewards of a run (https://developers.openai.com/api/docs/guides/graders).

A grader of a job becomes one reward. A `multi` grader becomes one reward for each of its parts, weighted by
`calculate_output`. A grader that asks for something that no reward does is refused with the reason.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from veneer.http_server.errors import ApiError
from veneer.studio.fields import refuse_unknown

ANSWER = "sample.output_text"
"""The name of the graded answer in a template."""
OPERATIONS = {"eq": "equal", "ne": "not-equal", "like": "contains", "ilike": "contains-any-case"}
"""Operations of `string_check`, and the metrics that compute them."""
SIMILARITIES = {"rouge_l": "rouge-l"}
"""The measures of `text_similarity`, and the metrics that compute them."""
LONGEST_SOURCE_CHARS = 256_000
"""Characters that the source of a `python` grader may have: OpenAI's 256 kB."""
LONGEST_FORMULA_CHARS = 500
"""Characters that `calculate_output` may have."""
PARAM = "method.reinforcement.grader"
_TEMPLATE = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")

Reward = dict[str, Any]
"""A reward as a job gives it. It has the form of the configuration, except that `adapter` is the name of a reward model
and `source` is the Python source itself."""


def rewards_of(grader: object) -> list[Reward]:
    """The rewards that do what a grader asks for.

    Raises:
        ApiError: 400 if it is not one of OpenAI's graders, or asks for something that no reward does.
    """
    found = _mapping(grader)
    if found.get("type") != "multi":
        return [_reward(found)]
    _only(found, "graders", "calculate_output")
    parts = found.get("graders")
    if isinstance(parts, Mapping) and isinstance(parts.get("type"), str):
        parts = {str(parts.get("name")): parts}  # a single grader, as the types of OpenAI's client have it
    if not isinstance(parts, Mapping) or not parts:
        raise _refused("graders of multi must map names to graders")
    weights = weights_of(found.get("calculate_output"), set(map(str, parts)))
    unused = sorted(set(map(str, parts)) - set(weights))
    if unused:
        raise _refused(f"calculate_output does not name {', '.join(unused)}; leave such graders out")
    return [{**_reward(_mapping(part)), "name": name, "weight": weights[name]} for name, part in parts.items()]


def weights_of(formula: object, names: set[str]) -> dict[str, float]:
    """The factors of a sum of graders, such as `0.7 * right + 0.3 * short`.

    Raises:
        ApiError: 400 if the formula is not such a sum.
    """
    if not isinstance(formula, str) or len(formula) > LONGEST_FORMULA_CHARS:
        raise _refused(f"calculate_output must be a formula of up to {LONGEST_FORMULA_CHARS} characters")
    try:
        factors = _linear(ast.parse(formula.strip(), mode="eval").body, names)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        factors = {}
    if not factors or "" in factors or not all(map(math.isfinite, factors.values())):
        raise _refused(
            f"calculate_output {formula[:80]!r} must be a sum of graders, each times a number that is finite in 64 "
            f"bits, such as 0.7 * {min(names)}; functions, powers, products of graders and added constants are not "
            "supported"
        )
    return factors


def _linear(node: ast.expr, names: set[str]) -> dict[str, float]:
    """The factors of names in a formula. The constant is under the empty name.

    Raises:
        ValueError: the formula is not a sum of names times numbers.
        ArithmeticError: a number is too large, or something is divided by 0.
    """
    match node:
        case ast.Name(id=name) if name in names:
            return {name: 1.0}
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool) and float(value) < math.inf:
            return {"": float(value)}
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _scaled(_linear(inner, names), -1.0)
        case ast.BinOp(op=ast.Add() | ast.Sub() as sign, left=left, right=right):
            one, other = _linear(left, names), _linear(right, names)
            other = other if isinstance(sign, ast.Add) else _scaled(other, -1.0)
            return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}
        case ast.BinOp(op=ast.Mult() | ast.Div() as sign, left=left, right=right):
            one, other = _linear(left, names), _linear(right, names)
            if isinstance(sign, ast.Mult) and set(one) == {""}:
                one, other = other, one
            if set(other) == {""}:
                return _scaled(one, other[""] if isinstance(sign, ast.Mult) else 1 / other[""])
    raise ValueError("no sum")


def _scaled(factors: Mapping[str, float], factor: float) -> dict[str, float]:
    return {name: factor * value for name, value in factors.items()}


def _reward(grader: Mapping[str, Any]) -> Reward:
    """The reward of a grader that has no parts."""
    kind = grader.get("type")
    made: dict[str, Callable[[Mapping[str, Any]], Reward]] = {
        "string_check": _string_check,
        "text_similarity": _text_similarity,
        "score_model": _score_model,
        "python": _python,
    }
    if not isinstance(kind, str) or kind not in made:
        raise _refused(f"type {str(kind)[:40]!r} is not supported; possible are {', '.join(made)}, and multi of these")
    reward, name = made[kind](grader), grader.get("name")
    if name is not None and (not isinstance(name, str) or not 0 < len(name) <= 100):
        raise _refused("name must be a string of 1 to 100 characters")
    return reward if name is None else {**reward, "name": name}


def _string_check(grader: Mapping[str, Any]) -> Reward:
    _only(grader, "input", "reference", "operation")
    operation = grader.get("operation")
    if operation not in OPERATIONS:
        raise _refused(f"operation {str(operation)[:40]!r} is unknown; possible are {', '.join(OPERATIONS)}")
    return {"metric": OPERATIONS[operation], "column": _compared(grader)}


def _text_similarity(grader: Mapping[str, Any]) -> Reward:
    _only(grader, "input", "reference", "evaluation_metric")
    metric = grader.get("evaluation_metric")
    if metric not in SIMILARITIES:
        raise _refused(
            f"evaluation_metric {str(metric)[:40]!r} is not supported for single answers; "
            f"possible are {', '.join(SIMILARITIES)}, and the metric chrf in veneer.settings.rewards"
        )
    return {"metric": SIMILARITIES[metric], "column": _compared(grader)}


def _score_model(grader: Mapping[str, Any]) -> Reward:
    _only(grader, "input", "model")
    told = [one.get("content") if isinstance(one, Mapping) else None for one in _list(grader.get("input"))]
    if len(told) != 1 or list(_named(told[0])) != [ANSWER]:
        raise _refused(
            "score_model uses a reward model, which reads the row's prompt and the answer and follows no "
            'instructions: input must be [{"role": "user", "content": "{{sample.output_text}}"}]'
        )
    if not isinstance(grader.get("model"), str):
        raise _refused("score_model needs model, the name of a reward model of this studio")
    return {"adapter": grader["model"]}


def _python(grader: Mapping[str, Any]) -> Reward:
    _only(grader, "source")
    source = grader.get("source")
    if not isinstance(source, str) or not 0 < len(source) <= LONGEST_SOURCE_CHARS:
        raise _refused(
            f"source must be Python code of up to {LONGEST_SOURCE_CHARS:,} characters with grade(sample, item)"
        )
    return {"source": source}


def _compared(grader: Mapping[str, Any]) -> str:
    """The column that an answer is compared with."""
    given, reference = list(_named(grader.get("input"))), list(_named(grader.get("reference")))
    column = reference[0].removeprefix("item.") if reference else ""
    if given != [ANSWER] or len(reference) != 1 or not reference[0].startswith("item.") or not column or "." in column:
        raise _refused(
            f"{grader.get('type')} compares the answer with a column of its row: input must be "
            "{{sample.output_text}}, and reference {{item.COLUMN}}, with nothing around them"
        )
    return column


def _named(template: object) -> Iterator[str]:
    """The name in a text that consists of one template and nothing else."""
    found = _TEMPLATE.fullmatch(template.strip()) if isinstance(template, str) else None
    if found is not None:
        yield found.group(1)


def _only(grader: Mapping[str, Any], *known: str) -> None:
    """Refuse unknown fields, which would be ignored otherwise."""
    refuse_unknown(grader, ("type", "name", *known), f"the grader {grader.get('type')}", PARAM)


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _refused("a grader must be an object with type, name and the fields of its type")
    return value


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _refused(message: str) -> ApiError:
    return ApiError(400, f"grader: {message}", param=PARAM)


WRAPPER = '''


_grade = grade


def veneer_rewards(prompts, completions, completion_ids, **columns):
    """Grade each answer as OpenAI's graders are called: grade(sample, item)."""
    import json

    rewards = []
    for place, completion in enumerate(completions):
        text = completion if isinstance(completion, str) else completion[-1]["content"]
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = None
        sample = {
            "output_text": text,
            "output_json": parsed,
            "output_tools": [],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
        }
        item = {"prompt": prompts[place], **{name: values[place] for name, values in columns.items()}}
        rewards.append(_grade(sample, item))
    return rewards
'''
"""Code that follows the source of a `python` grader, so that `veneer.rewards.python_reward` can call it."""
WRAPPED = "veneer_rewards"
"""The function in `WRAPPER`."""


def wrapped(source: str) -> str:
    """The text of a file whose function `WRAPPED` calls the function `grade` of a grader's source. Nothing of it is run
    here.

    Raises:
        ApiError: 400 if the source is not Python, or does not define `grade`.
    """
    try:
        names = _bound(ast.parse(source))
    except SyntaxError as error:
        raise _refused(f"source is not valid Python: line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise _refused(f"source cannot be read as Python: {error}") from error
    if not {"grade", "*"} & names:
        raise _refused("source has no function grade(sample, item)")
    return source + WRAPPER


def _bound(module: ast.Module) -> set[str]:
    """The names that the statements of a module bind, without those inside its functions and classes."""
    names: set[str] = set()
    # Without recursion: a long sum is deeply nested.
    left: list[ast.AST] = [module]
    while left:
        node = left.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
                continue
            case ast.Lambda() | ast.comprehension():
                continue
            case ast.alias(name=name, asname=other):
                names.add(other or name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
        left.extend(ast.iter_child_nodes(node))
    return names
