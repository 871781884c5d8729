"""Undo UTF-8 that was read as Windows-1252 ("cafÃ©" for "café"), where this is certain.

A run of characters is undone if its bytes in Windows-1252 are UTF-8 for a letter with an accent, a typographic sign or
letters of another script. Few texts contain such runs on purpose: "É—" is one (its bytes mean "ɗ", which is rare), and
is left unchanged.
"""

from __future__ import annotations

import re

# What Windows-1252 leaves undefined is read as the control character of the same number, as browsers do.
_BYTES = {bytes([code]).decode("cp1252", errors="replace"): code for code in range(0x80, 0x100)}
_BYTES.pop("\ufffd")
_BYTES |= {chr(code): code for code in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}
_REST = "[" + re.escape("".join(character for character, code in _BYTES.items() if code < 0xC0)) + "]"
# The lengths of UTF-8 (RFC 3629): the first byte says how many follow.
_RUN = re.compile(f"(?:[Â-ß]{_REST}|[à-ï]{_REST}{{2}}|[ð-ô]{_REST}{{3}})+")
_LIKELY = re.compile(
    "[\u00a0-\u017f\u2010-\u2044\u20a0-\u20bf\u2100-\u214f\u2190-\u22ff\u2500-\u27bf\ufeff\U0001f300-\U0001faff\ufe0f\u200d]+"
    "|[\u0370-\u03ff]{2,}|[\u0400-\u04ff]{2,}|[\u0590-\u06ff]{2,}|[\u0900-\u0dff]{2,}|[\u0e00-\u0e7f]{2,}"
    "|[\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uff00-\uffef]+"
)


def repaired(text: str) -> str:
    """The text with every such run undone; the text itself if there is none."""
    return text if text.isascii() else _RUN.sub(_undone, text)


def _undone(run: re.Match[str]) -> str:
    try:
        decoded = bytes(_BYTES[character] for character in run.group()).decode("utf-8")
    except UnicodeDecodeError:
        return run.group()
    return decoded if _LIKELY.fullmatch(decoded) else run.group()
