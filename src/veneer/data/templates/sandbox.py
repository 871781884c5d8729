"""A jinja2 sandbox with counted work and sizes, which limits what an untrusted chat template may do.

jinja2's own sandbox keeps a template away from Python's internals, and its `range` stops at 100,000 items. It does not
stop `'a' * 10**9`, a string doubled thirty times, or loops inside loops. Here every loop pass, call, filter and
operator is charged to a `Meter`, and so is every string or container that one of them makes.

The limits for one rendering of `size` characters of input are:

- any one string, and the output: 10,000,000 + 20 * size characters. A list counts 40 characters per item when it is
  made. A container that is printed or given to a filter counts with its whole content, repetitions included (a list
  that contains the last list twice, thirty times over, is a billion items). Filters that read less count for what
  they read: nothing (`length`, `first`) or the container's own items (`list`, `selectattr`)
- work: 2,000,000 + 20 * size units; one unit is one pass, call or operator, or 50 characters made
- numbers: nothing above 1,000,000 as an argument of a call or filter (padding widths, counts, indents) or as a width
  in a format string; no power with a result of more than 4,096 bits
- features that no chat template needs are removed: the filters pprint, random, urlize, wordwrap, xmlattr, the function
  lipsum and the string methods expandtabs and translate

Two things are not limited here: the cost of a single operation (comparing, sorting or multiplying large values), and
memory below these limits (tens of MB). The process in which templates run has hard limits for both (render_worker.py).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, cast

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARACTERS = 10_000_000
MAX_WORK = 2_000_000
MAX_NUMBER = 1_000_000
MAX_POWER_BITS = 4096
PER_INPUT_CHARACTER = 20
CHARACTERS_PER_UNIT = 50
CHARACTERS_PER_ITEM = 40
MAX_INDENT = 16

_REMOVED_FILTERS = ("pprint", "random", "urlize", "wordwrap", "xmlattr")
_READ_NOTHING = frozenset(("count", "d", "default", "first", "last", "length"))
"""Filters that look at no item of a container, and make nothing. Templates ask for the length of all messages in every
pass of their loop over them."""
_READ_ITEMS = frozenset(("list", "reject", "rejectattr", "reverse", "select", "selectattr"))
"""Filters that pass on the items of a container without looking into them."""
_REMOVED_METHODS = ("expandtabs", "translate")

_WIDE_FORMAT = re.compile(r"\d{7}")


class Meter:
    """The budget of one rendering: the characters and steps that are left."""

    def __init__(self, inputs: Any = None) -> None:
        self._inputs = inputs
        self._grown = False
        self._characters = MAX_CHARACTERS
        self._work = MAX_WORK

    def charge(self, units: int = 1) -> None:
        """Subtract `units` of work from the budget.

        Raises:
            SecurityError: the budget is spent.
        """
        self._work -= units
        if self._work < 0 and not self._grow():
            raise SecurityError(f"the template does too much work (more than {MAX_WORK:,} steps)")

    def charge_size(self, characters: int) -> None:
        """Subtract the making of a value of this many characters (or items) from the budget.

        Raises:
            SecurityError: the value is larger than any one value may be, or the budget is spent.
        """
        if characters > self._characters and not (self._grow() and characters <= self._characters):
            raise SecurityError(f"the template makes a value of more than {self._characters:,} characters")
        self.charge(1 + characters // CHARACTERS_PER_UNIT)

    def charge_value(self, value: Any) -> None:
        """Charge a value that was made or is about to be printed; containers count with their whole content."""
        if isinstance(value, str):
            self.charge_size(len(value))
        elif isinstance(value, (dict, list, tuple)):
            size = _size(value, min(self._characters, max(self._work, 0)))
            self.charge(size)
            self.charge_size(size)

    def charge_items(self, value: Any) -> None:
        """Charge a value by its own items, whatever they contain."""
        self.charge_size(_length(value))

    def _grow(self) -> bool:
        # Measuring the inputs is worth its cost only for the rare rendering that exceeds the base limits.
        if self._grown:
            return False
        self._grown = True
        extra = PER_INPUT_CHARACTER * _size(self._inputs, 1 << 40)
        self._characters += extra
        self._work += extra
        return self._work >= 0


def _size(value: Any, limit: int) -> int:
    """The characters and items in a nested value, counted up to somewhat more than `limit`."""
    total = 0
    stack = [value]
    while stack and total <= limit:
        item = stack.pop()
        total += 1
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, Mapping):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
    return total


# Rendering is synchronous; a context variable separates concurrent renderings in threads or tasks.
_METER: ContextVar[Meter | None] = ContextVar("veneer_template_meter", default=None)


class metered:
    """Context manager that charges the work of templates inside the block to `meter`."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __enter__(self) -> Meter:
        self._token = _METER.set(self._meter)
        return self._meter

    def __exit__(self, *_: object) -> None:
        _METER.reset(self._token)


def _meter() -> Meter:
    meter = _METER.get()
    if meter is None:
        raise SecurityError("a template ran outside of its meter")
    return meter


def _passes(iterable: Iterable[Any]) -> Iterator[Any]:
    meter = _meter()
    for item in iterable:
        meter.charge()
        yield item


def _sized(value: Any) -> Any:
    _meter().charge_value(value)
    return value


def _check_arguments(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, (int, float)) and abs(value) > MAX_NUMBER:
            raise SecurityError(f"a number above {MAX_NUMBER:,} in a call: {value if value < 1e18 else 'huge'}")


def _check_format(template: str) -> None:
    # A width can be in the string itself or come from an argument ("*" in %-formats, "{:{}}" in str.format), and
    # arguments are at most MAX_NUMBER. Several such fields are limited by the size of the result.
    if _WIDE_FORMAT.search(template):
        raise SecurityError("a width above 999,999 in a format string")


def _check_growth(meter: Meter, name: str, subject: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Charge the result of a string method or filter on `subject` before it is made.

    Only operations whose result can be much longer than their input are charged here; all others are charged
    afterwards.
    """
    if name in ("split", "rsplit", "splitlines", "list") and isinstance(subject, (str, bytes)):
        separator = args[0] if args and isinstance(args[0], str) and args[0] and name != "splitlines" else None
        items = subject.count(separator) if separator and isinstance(subject, str) else len(subject) // 2
        meter.charge_size(items * CHARACTERS_PER_ITEM)
    elif name == "replace" and isinstance(subject, str):
        old, new = (*args[:2], *options.values(), "", "")[:2]
        times = subject.count(old) if isinstance(old, str) else len(subject)
        meter.charge_size(len(subject) + times * len(str(new)))
    elif name == "join":
        # The subject of the method is the separator; that of the filter is what is joined.
        separator, parts = (args[0], subject) if isinstance(subject, (list, tuple)) and args else (subject, args)
        separator = options.get("d", separator)
        if isinstance(separator, (str, bytes)) and isinstance(parts, (str, list, tuple)):
            longest = max((len(part) for part in (parts, *parts) if isinstance(part, (str, list, tuple))), default=0)
            meter.charge_size(len(separator) * longest)
    elif name in ("indent", "tojson"):
        for value in (*args, *options.values()):
            if isinstance(value, int) and value > MAX_INDENT:
                raise SecurityError(f"an indent of {value}, at most {MAX_INDENT} is allowed")
            if name == "indent" and isinstance(value, str) and isinstance(subject, str):
                meter.charge_size(len(subject) + len(value) * (subject.count("\n") + 1))
    elif name == "format" and isinstance(subject, str):
        _check_format(subject)


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    # jinja2 passes the context or environment first to some filters, as marked on the function; `wraps` keeps the mark.
    skip = 1 if getattr(function, "jinja_pass_arg", None) is not None else 0

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        meter = _meter()
        _check_arguments(args)
        _check_arguments(kwargs.values())
        if name in _READ_NOTHING:
            meter.charge()
            return function(*args, **kwargs)
        charge = meter.charge_items if name in _READ_ITEMS else meter.charge_value
        for place, arg in enumerate(args):
            if isinstance(arg, (dict, list, tuple)):
                (charge if place == skip else meter.charge_value)(arg)
        _check_growth(meter, name, args[skip] if len(args) > skip else None, args[skip + 1 :], kwargs)
        value = function(*args, **kwargs)
        charge(value)
        return value

    return run


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox in which chat templates run; render and compile only inside `metered(Meter(...))`."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def seal(self) -> None:
        """Meter all filters that are installed now, and remove features that no chat template needs."""
        self.globals.pop("lipsum", None)  # makes text of any length
        kept = {name: function for name, function in self.filters.items() if name not in _REMOVED_FILTERS}
        self.filters = {name: _metered_filter(name, function) for name, function in kept.items()}
        self.filters["veneer_passes"] = _passes
        self.filters["veneer_sized"] = _sized
        self.finalize = _sized

    def parse_metered(self, source: str) -> nodes.Template:
        """Parse a template and put a meter on its loops, its `~` and its block assignments.

        Raises:
            TemplateSyntaxError: `source` is not a template.
        """
        tree = self.parse(source)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = _filter(cast(nodes.Expr, loop.iter), "veneer_passes")
        for concat in list(tree.find_all(nodes.Concat)):
            concat.nodes = [_filter(part, "veneer_sized") for part in concat.nodes]
        for block in list(tree.find_all(nodes.AssignBlock)):
            block.filter = _filter(block.filter, "veneer_sized")
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Check the size that an operator would make before it makes it."""
        meter = _meter()
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, (str, bytes, list, tuple)) and isinstance(times, int):
                    meter.charge_size(_length(many) * max(times, 0))
        elif operator == "+" and isinstance(left, (str, bytes, list, tuple)):
            meter.charge_size(_length(left) + _length(right))
        elif operator == "%" and isinstance(left, (str, bytes)):
            _check_format(left if isinstance(left, str) else left.decode("latin-1"))
            _check_arguments(right if isinstance(right, tuple) else (right,))
            meter.charge_value(right)
        elif operator == "**" and _power_bits(left, right) > MAX_POWER_BITS:
            raise SecurityError(f"a power of more than {MAX_POWER_BITS} bits")
        meter.charge()
        value = super().call_binop(context, operator, left, right)
        if isinstance(value, set):  # of dictionary keys: their order differs between processes
            value = dict.fromkeys(sorted(value, key=str)).keys()
        if operator == "%":
            meter.charge_value(value)
        return value

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function for a template; the signature is jinja2's."""
        meter = _meter()
        meter.charge()
        _check_arguments(args)
        _check_arguments(kwargs.values())
        method = getattr(__obj, "__name__", "")
        if method in ("format", "format_map"):
            meter.charge_value(args)
            meter.charge_value(kwargs)
        else:
            _check_growth(meter, method, getattr(__obj, "__self__", None), args, kwargs)
        value = super().call(__context, __obj, *args, **kwargs)
        meter.charge_size(_length(value))
        return value

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may see an attribute: no internals of Python, no mutation, no unbounded growth."""
        return attr not in _REMOVED_METHODS and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Refuse a wide format string when the template gets its `format` method."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(value.__self__)
        return wrapped


def _power_bits(base: Any, exponent: Any) -> int:
    return base.bit_length() * abs(exponent) if isinstance(base, int) and isinstance(exponent, int) else 0


def _length(value: Any) -> int:
    """The characters of a string, or the character count of a list's own items; 0 for anything else."""
    if isinstance(value, (str, bytes)):
        return len(value)
    return CHARACTERS_PER_ITEM * len(value) if isinstance(value, (list, tuple)) else 0


def _filter(node: nodes.Expr | None, name: str) -> nodes.Filter:
    # An assignment block passes None to mean "the block's text"; jinja2's annotation of Filter allows it.
    lineno = node.lineno if node is not None else 0
    return nodes.Filter(node, name, [], [], None, None, lineno=lineno)
