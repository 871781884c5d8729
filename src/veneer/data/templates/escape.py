"""Keep control tokens that a message spells apart from those that the template writes.

A user may write `<|im_end|>`. To the model that must be ten characters of text, not the end of a turn. So before a
conversation is rendered, every special token spelled in it is *guarded*: its first character is replaced by a
private-use stand-in. The template copies the stand-in like any letter, so every special token in the rendered text is
the template's. A stand-in is one character for one, so positions in the guarded text are positions in the text.
At the end the stand-ins are undone, and the template's own tokens are written as the tokenizer's aliases, so that
`Tokenizer.encode_aliased` can tell the two apart.

One case is not covered: a special token that a template joins from pieces of several strings, none of which spells it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veneer.errors import DataError

# The stand-ins and the span marks of template.py are private-use, and far from the tokenizer's aliases (U+100000 up).
RESERVED_FIRST, RESERVED_LAST = 0x10F000, 0x10F0FF
MAX_GUARDS = 0xF0


@dataclass(frozen=True, slots=True)
class GuardedChat:
    """A conversation that is safe to render."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] | None
    changed: bool
    """Whether some string spelled a special token."""


class SpecialTokens:
    """The special tokens of one tokenizer.

    Args:
        tokens: the spellings of the special tokens.
        aliases: for each special token, its private-use string in `Tokenizer.encode_aliased`.
    """

    def __init__(self, tokens: Sequence[str], aliases: Mapping[str, str]) -> None:
        self._aliases = aliases
        spelled = [token for token in tokens if token]
        # Longest first: the tokenizer also prefers the longer token at a position.
        alternatives = "|".join(re.escape(token) for token in sorted(spelled, key=lambda token: (-len(token), token)))
        self._specials = re.compile(alternatives or "(?!)")
        reserved = f"[{chr(RESERVED_FIRST)}-{chr(RESERVED_LAST)}]"
        self._reserved = re.compile(reserved)
        self._suspect = re.compile(f"{alternatives}|{reserved}" if alternatives else reserved)
        alias_characters = "".join(sorted({character for alias in aliases.values() for character in alias}))
        self._alias = re.compile(f"[{re.escape(alias_characters)}]" if alias_characters else "(?!)")
        first = sorted({token[0] for token in spelled})
        if len(first) > MAX_GUARDS:
            raise DataError(f"the special tokens begin with {len(first)} different characters, at most {MAX_GUARDS}")
        self._guards = {character: chr(RESERVED_FIRST + index) for index, character in enumerate(first)}
        self._originals = {ord(guard): character for character, guard in self._guards.items()}

    def spelled_in(self, text: str) -> bool:
        """Whether `text` spells a special token."""
        return self._specials.search(text) is not None

    def guard(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> GuardedChat:
        """Guard every string (and key) that the template may print: contents, names, calls, tool descriptions.

        Raises:
            DataError: a string contains a private-use character that veneer reserves.
        """
        safe = tuple(self._guard(message) for message in messages)
        safe_tools = None if tools is None else tuple(self._guard(tool) for tool in tools)
        changed = any(new is not old for new, old in zip(safe, messages, strict=True))
        if tools is not None and safe_tools is not None:
            changed = changed or any(new is not old for new, old in zip(safe_tools, tools, strict=True))
        return GuardedChat(safe, safe_tools, changed)

    def restore(self, guarded: str) -> str:
        """The text with its stand-ins undone."""
        return guarded.translate(self._originals)

    def first_after(self, guarded: str, start: int) -> tuple[str, int] | None:
        """The first template-made special token at or after `start`, and the position after it."""
        found = self._specials.search(guarded, start)
        return None if found is None else (found.group(), found.end())

    def first_run(self, guarded: str) -> str:
        """The first template-made special token, with those that directly follow it."""
        first = self._specials.search(guarded)
        if first is None:
            return ""
        end = first.end()
        while (found := self._specials.match(guarded, end)) is not None:
            end = found.end()
        return guarded[first.start() : end]

    def last_within(self, guarded: str, start: int, end: int) -> int | None:
        """The position after the last template-made special token in [start, end)."""
        ends = [found.end() for found in self._specials.finditer(guarded, start, end)]
        return ends[-1] if ends else None

    def blank(self, guarded: str) -> bool:
        """Whether a text has only template-made special tokens and white space."""
        return not self._specials.sub("", guarded).strip()

    def starts(self, guarded: str) -> list[int]:
        """Positions at which template-made special tokens start."""
        return [found.start() for found in self._specials.finditer(guarded)]

    def alias(self, guarded: str, positions: Sequence[int]) -> tuple[str, list[int]]:
        """Write template-made special tokens as aliases and undo the stand-ins.

        Args:
            guarded: a rendered text.
            positions: character positions in `guarded`, none of which is inside a special token.

        Returns:
            The text for `Tokenizer.encode_aliased`, and the positions in it.

        Raises:
            DataError: the text already contains an alias, which would be taken for a special token.
        """
        self.refuse_aliases(guarded)
        pieces: list[str] = []
        ends, shifts = [0], [0]
        last = 0
        for found in self._specials.finditer(guarded):
            alias = self._aliases[found.group()]
            pieces += (guarded[last : found.start()], alias)
            last = found.end()
            ends.append(last)
            shifts.append(shifts[-1] + len(alias) - len(found.group()))
        pieces.append(guarded[last:])
        moved = [position + shifts[bisect_right(ends, position) - 1] for position in positions]
        return self.restore("".join(pieces)), moved

    def refuse_aliases(self, text: str) -> None:
        """Refuse a text that contains an alias character.

        Raises:
            DataError: `text` contains one.
        """
        found = self._alias.search(text)
        if found is not None:
            raise DataError(
                f"the text spells a special token and contains the private-use character U+{ord(found.group()):X}, "
                "which veneer needs to tell them apart; remove that character"
            )

    def _guard(self, value: Any) -> Any:
        if isinstance(value, str):
            return value if self._suspect.search(value) is None else self._guard_string(value)
        if isinstance(value, dict):
            pairs = [(self._guard(key), self._guard(item)) for key, item in value.items()]
            same = all(
                key is old_key and item is old for (key, item), (old_key, old) in zip(pairs, value.items(), strict=True)
            )
            return value if same else dict(pairs)
        if isinstance(value, (list, tuple)):
            items = [self._guard(item) for item in value]
            return value if all(item is old for item, old in zip(items, value, strict=True)) else items
        return value

    def _guard_string(self, text: str) -> str:
        found = self._reserved.search(text)
        if found is not None:
            raise DataError(f"the text has the private-use character U+{ord(found.group()):X}, which veneer reserves")
        # Tokens can overlap: breaking one may leave another complete.
        while self._specials.search(text) is not None:
            text = self._specials.sub(lambda match: self._guards[match.group()[0]] + match.group()[1:], text)
        return text
