"""Keys and passwords in rows: a model may repeat what it has learned.

The forms are those that the services document. A form is searched for only if its fixed letters are in the row, so a
row without secrets costs only some searches for short strings. A part that could begin at many places has a bound, so
the time is at most linear in the length of the row. A random part must look random (Shannon entropy of its
characters), so that `sk-xxxxxxxxxxxxxxxxxxxxxxxx` in a manual is not a secret.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

SECRET = LintRule(
    "secret",
    Severity.ERROR,
    Cost.TEXT,
    "contain what looks like a key or a password",
    "replace it by a placeholder, and revoke it if it was published",
)


class _Form(NamedTuple):
    """The form of a kind of secret; the first group of the pattern is the secret."""

    name: str
    hints: tuple[str, ...]
    """Every such secret contains one of these."""
    pattern: re.Pattern[str]
    loose: bool = False
    """Whether other things have this form too, so that the random part must look random and unlike a placeholder."""


_FORMS = (
    _Form("an AWS access key", ("AKIA", "ASIA"), re.compile(r"\b((?:AKIA|ASIA)[0-9A-Z]{16})\b")),
    _Form(
        "a GitHub token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), re.compile(r"\b(gh[pousr]_[0-9A-Za-z]{36,255})\b")
    ),
    _Form("a GitHub token", ("github_pat_",), re.compile(r"\b(github_pat_[0-9A-Za-z_]{60,255})\b")),
    _Form("a GitLab token", ("glpat-",), re.compile(r"\b(glpat-[0-9A-Za-z_-]{20,})")),
    _Form(
        "a Slack token", ("xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-"), re.compile(r"\b(xox[bpars]-[0-9A-Za-z-]{20,})")
    ),
    _Form("a Slack webhook", ("hooks.slack.com",), re.compile(r"(hooks\.slack\.com/services/T\w{6,}/B\w{6,}/\w{16,})")),
    _Form("a Stripe key", ("sk_live_", "rk_live_"), re.compile(r"\b([sr]k_live_[0-9A-Za-z]{16,})")),
    _Form("a Google API key", ("AIza",), re.compile(r"\b(AIza[0-9A-Za-z_-]{35})")),
    _Form("a Hugging Face token", ("hf_",), re.compile(r"\b(hf_[0-9A-Za-z]{30,})\b")),
    _Form("a package index token", ("pypi-",), re.compile(r"\b(pypi-[0-9A-Za-z_-]{50,})")),
    _Form("an npm token", ("npm_",), re.compile(r"\b(npm_[0-9A-Za-z]{36})\b")),
    _Form("a SendGrid key", ("SG.",), re.compile(r"\b(SG\.[0-9A-Za-z_-]{22}\.[0-9A-Za-z_-]{43})")),
    _Form("a Twilio key", ("SK",), re.compile(r"\b(SK[0-9a-f]{32})\b")),
    _Form(
        "a signed web token",
        ("eyJ",),
        re.compile(r"\b(eyJ[0-9A-Za-z_-]{10,1024}+\.eyJ[0-9A-Za-z_-]{10,65536}+\.[0-9A-Za-z_-]{20,})"),
    ),
    _Form(
        "a private key",
        ("PRIVATE KEY-----", "PRIVATE KEY BLOCK-----"),
        # In JSON, for example of a service account, a line ends in a backslash and a letter; PGP's begins with words.
        re.compile(
            r"(-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
            r"(?:(?:\s|\\{1,4}[nr]){1,4}(?:Version|Comment): [^\n\\]{1,100}){0,4}"
            r"(?:[0-9A-Za-z+/=:\s,-]|\\{1,4}[nr]){64,8192})"
        ),
    ),
    _Form("a Shopify token", ("shp",), re.compile(r"\b(shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32})\b")),
    _Form("a DigitalOcean token", ("_v1_",), re.compile(r"\b(do[opr]_v1_[0-9a-f]{64})\b")),
    _Form("a Groq key", ("gsk_",), re.compile(r"\b(gsk_[0-9A-Za-z]{48,64})\b")),
    _Form("a Telegram bot's token", (":AA",), re.compile(r"\b(\d{8,10}:AA[0-9A-Za-z_-]{33})(?![\w-])")),
    _Form("an API key", ("sk-",), re.compile(r"\b(sk-(?:proj-|ant-|svcacct-|or-v1-)?[0-9A-Za-z_-]{20,})"), loose=True),
)
_CONNECTION = re.compile(r"(?<=[a-z0-9+.-]{3})://[^\s:@/'\"]+:([^\s:@/'\"{}<>$*]{6,})@[\w.-]")
_NAMED = (
    r"(?i:(?:api|secret|access|account|private|encryption|signing)[_-]?key|(?:api|access|auth|refresh)[_-]?token"
    r"|client[_-]?secret|password|passwd)[\"']?\s{0,3}(?::=|=>?|:)\s{0,3}"
)
_QUOTED = re.compile(_NAMED + r"[\"']([^\s\"']{12,128})[\"']")
_BARE = re.compile(rf"(?:{_NAMED}|(?i:authorization: bearer) )" + r"([^\s\"'`<>(){}\[\],;|]{12,128})(?=[\s\"'`,;|]|$)")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
"""Names of values in programs."""
_HEX = re.compile(r"(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{32,128}")
"""A key of digits and small letters that is too long for a word."""
_SIGNS = re.compile(r"[^\w.:/+-]")
_WORDS = ("key", "Key", "KEY", "ecret", "ECRET", "oken", "OKEN", "assw", "ASSW", "earer")
_LEAST_BITS, _LOOSE_BITS = 2.0, 3.0
"""The least entropy of a secret's characters, in bits: a text of one letter has 0, random text has 3.5 or more."""
_PLACEHOLDER = re.compile(
    r"(?i)example|placeholder|your[_-]?|dummy|changeme|xxxx|\*\*\*|<|\{\{|\$\{|test|sample|1234567890"
)
_EXAMPLE = re.compile(r"(?i)example|placeholder|dummy|changeme|1234567890|eyJzdWIiOiIxMjM0NTY3ODkwI")
"""Words in the example keys of manuals; the last is the subject 1234567890 of jwt.io's token. Shorter words are not
listed, since they occur in long random values by chance."""
_START_CHARS = 120
"""The characters of a secret in which such a word counts: a private key may be followed by ordinary text."""
_MIXED = re.compile(r"[A-Za-z]\d+[A-Za-z]+\d|\d[A-Za-z]+\d+[A-Za-z]")
"""Letters and digits that alternate without a sign between them, unlike names of classes or containers."""


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    for value, name in _secrets(row.whole):
        path = next((path for path, text in row.texts if value in text), "the row")
        yield SECRET.found(f"{path}: {name}, {_masked(value)}")
        return


def _secrets(text: str) -> Iterator[tuple[str, str]]:
    """Each secret in a text, with its kind."""
    for form in _FORMS:
        if any(hint in text for hint in form.hints):
            for found in form.pattern.finditer(text):
                value = found.group(1)
                if _is_drawn(value) if form.loose else _is_real(value):
                    yield value, form.name
    if "://" in text:
        for found in _CONNECTION.finditer(text):
            if not _stand_in(found.group(1)):
                yield found.group(1), "the password of a connection"
    if any(word in text for word in _WORDS):
        for found in chain(_QUOTED.finditer(text), filter(_looks_random, _BARE.finditer(text))):
            value = found.group(1)
            if _bits(value) >= _LOOSE_BITS and not _stand_in(value) and not value.isdigit():
                yield value, "a value with the name of a secret"


def _is_real(value: str) -> bool:
    """Whether a text with the form of a secret is a real one and not the example of a manual."""
    return _bits(value) >= _LEAST_BITS and _EXAMPLE.search(value, 0, _START_CHARS) is None


def _is_drawn(value: str) -> bool:
    """Whether a text that may have the form of a secret by chance is random, and not a name or placeholder."""
    return _bits(value) >= _LOOSE_BITS and _MIXED.search(value) is not None and not _stand_in(value)


def _looks_random(found: re.Match[str]) -> bool:
    """Whether a value without quotes is unlike words and names: it has small letters, capitals and several digits. One
    digit is enough if it has a sign that names do not have, or follows a name in capitals. A long hexadecimal number
    is also unlike them."""
    value, name = found.group(1), found.string[found.start() : found.start(1)]
    digits = sum(map(str.isdigit, value))
    mixed = any(map(str.islower, value)) and any(map(str.isupper, value)) and digits > 0
    sure = digits > 1 or name.isupper() or _SIGNS.search(value) is not None
    named = "://" in value or _NAME.fullmatch(value) is not None
    return (mixed and sure and not named) or _HEX.fullmatch(value) is not None


def _bits(text: str) -> float:
    """The Shannon entropy of a text's characters, in bits per character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def _stand_in(text: str) -> bool:
    """Whether a value is only a placeholder for one, such as a word."""
    return text.isalpha() or _PLACEHOLDER.search(text) is not None


def _masked(value: str) -> str:
    """The start of a secret: enough to find it, too little to use it."""
    return f"{' '.join(value[:8].split())}… ({len(value)} characters)"


CHECK = RowCheck((SECRET,), _run)
