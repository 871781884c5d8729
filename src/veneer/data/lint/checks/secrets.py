"""Keys and passwords in rows: what a model learns, it may say.

The forms are those that the services document. A form is searched for only where its fixed letters stand in the row,
so that a row without any costs some searches for short strings. A random part must look random (Shannon entropy of
its characters), so that `sk-xxxxxxxxxxxxxxxxxxxxxxxx` in a manual is none.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from veneer.data.lint.row import Row, Setting
from veneer.data.lint.rules import Cost, Finding, RowCheck, Rule, Severity

SECRET = Rule(
    "secret",
    Severity.ERROR,
    Cost.TEXT,
    "hold what looks like a key or a password",
    "replace it by a placeholder, and revoke it where it was published",
)
_FORMS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("an AWS access key", ("AKIA", "ASIA"), r"\b((?:AKIA|ASIA)[0-9A-Z]{16})\b"),
    ("a GitHub token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\b(gh[pousr]_[0-9A-Za-z]{36,255})\b"),
    ("a GitHub token", ("github_pat_",), r"\b(github_pat_[0-9A-Za-z_]{60,255})\b"),
    ("a GitLab token", ("glpat-",), r"\b(glpat-[0-9A-Za-z_-]{20,})"),
    ("a Slack token", ("xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-"), r"\b(xox[bpars]-[0-9A-Za-z-]{20,})"),
    ("a Slack webhook", ("hooks.slack.com",), r"(hooks\.slack\.com/services/T\w{6,}/B\w{6,}/\w{16,})"),
    ("a Stripe key", ("sk_live_", "rk_live_"), r"\b([sr]k_live_[0-9A-Za-z]{16,})"),
    ("a Google API key", ("AIza",), r"\b(AIza[0-9A-Za-z_-]{35})"),
    ("an API key", ("sk-",), r"\b(sk-(?:proj-|ant-|svcacct-|or-v1-)?[0-9A-Za-z_-]{20,})"),
    ("a Hugging Face token", ("hf_",), r"\b(hf_[0-9A-Za-z]{30,})\b"),
    ("a package index token", ("pypi-",), r"\b(pypi-[0-9A-Za-z_-]{50,})"),
    ("an npm token", ("npm_",), r"\b(npm_[0-9A-Za-z]{36})\b"),
    ("a SendGrid key", ("SG.",), r"\b(SG\.[0-9A-Za-z_-]{22}\.[0-9A-Za-z_-]{43})"),
    ("a Twilio key", ("SK",), r"\b(SK[0-9a-f]{32})\b"),
    ("a signed web token", ("eyJ",), r"\b(eyJ[0-9A-Za-z_-]{10,}\.eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{20,})"),
    ("a private key", ("PRIVATE KEY-----",), r"(-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s*[0-9A-Za-z+/=:\s,-]{64,})"),
    ("a connection string with a password", ("://",), r"\b[a-z][a-z0-9+.-]{2,}://[^\s:@/'\"]+:([^\s:@/'\"{}<>$*]{6,})@[\w.-]+"),
)  # fmt: skip
_PATTERNS = tuple((name, hints, re.compile(pattern)) for name, hints, pattern in _FORMS)
_ASSIGNED = re.compile(
    r"(?i)\b(?:api[_-]?key|secret[_-]?key|access[_-]?token|auth[_-]?token|client[_-]?secret|password|passwd)"
    r"[\"']?\s{0,3}(?::|=>?|:=)\s{0,3}[\"']([^\s\"']{12,128})[\"']"
)
_WORDS = ("key", "ecret", "oken", "assw", "KEY", "ECRET", "OKEN", "ASSW")
_LEAST_BITS = 3.0
_ASSIGNED_BITS = 3.3
_PLACEHOLDER = re.compile(
    r"(?i)example|placeholder|your[_-]?|dummy|changeme|xxxx|\*\*\*|<|\{\{|\$\{|test|sample|1234567890"
)


def _run(row: Row, setting: Setting) -> Iterator[Finding]:
    whole = row.whole
    for name, hints, pattern in _PATTERNS:
        if any(hint in whole for hint in hints):
            for found in pattern.finditer(whole):
                if _random(found.group(1), _LEAST_BITS):
                    yield SECRET.found(f"{_path(row, found.group(1))}: {name}, {_masked(found.group(1))}")
                    return
    if any(word in whole for word in _WORDS):
        for found in _ASSIGNED.finditer(whole):
            value = found.group(1)
            if _random(value, _ASSIGNED_BITS) and any(c.isdigit() for c in value) and any(c.isalpha() for c in value):
                yield SECRET.found(f"{_path(row, value)}: a value that is named as secret, {_masked(value)}")
                return


def _random(text: str, bits: float) -> bool:
    if _PLACEHOLDER.search(text):
        return False
    counts = Counter(text)
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values()) >= bits


def _path(row: Row, value: str) -> str:
    return next((path for path, text in row.texts if value in text), "the row")


def _masked(value: str) -> str:
    """The start of a secret: enough to find it, too little to use it."""
    return f"{' '.join(value[:8].split())}… ({len(value)} characters)"


CHECK = RowCheck((SECRET,), _run)
