"""Personal data in rows: e-mail addresses, and numbers of telephones, cards and accounts. Names are not searched for.

Numbers with a check digit are reported only if it is right: cards by Luhn's algorithm (ISO/IEC 7812), accounts by the
remainder of 97 (ISO 13616).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

PERSONAL_DATA = LintRule(
    "personal-data",
    Severity.INFO,
    Cost.TEXT,
    "contain an e-mail address, or a number of a telephone, card or account",
    "replace it by an invented one if it is a real person's",
)
_EMAIL = re.compile(r"(?:://[^\s/@]{1,200}@)|\b[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,5}[A-Za-z]{2,24}\b")
"""An address; or the user part of a URL, which is not an address and is matched so that it is skipped."""
_RESERVED = re.compile(r"@(?:[\w-]+\.)*(?:example\.(?:com|org|net)|example|invalid|test|localhost)$", re.IGNORECASE)
_CARD = re.compile(r"(?<![\d.,-])(?:\d[ -]?){12,18}\d(?![\d.,]*\d)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?\b")
_COUNTRIES = {
    15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
"""The lengths of account numbers, with the countries that use them (the registry of ISO 13616)."""
_LENGTHS = {country: length for length, countries in _COUNTRIES.items() for country in countries.split()}
_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4}|0\d{1,4}(?: \d{2,4}){2,4})(?![\w-])"
)
_DIGITS = re.compile(r"\d[\d ().-]{6,}\d|[A-Z]{2}\d\d")


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    whole = row.whole
    kinds = []
    if "@" in whole and any(map(_is_address, _EMAIL.findall(whole))):
        kinds.append("an e-mail address")
    if _DIGITS.search(whole) is not None:
        if any(luhn(found.group()) for found in _CARD.finditer(whole)):
            kinds.append("a card number")
        rest = without_accounts(whole)
        if rest != whole:
            kinds.append("an account number (IBAN)")
        if any(8 <= sum(c.isdigit() for c in found.group()) <= 15 for found in _PHONE.finditer(rest)):
            kinds.append("a telephone number")
    if kinds:
        yield PERSONAL_DATA.found(", ".join(kinds))


def _is_address(found: str) -> bool:
    return not found.startswith("://") and _RESERVED.search(found) is None


def luhn(number: str) -> bool:
    """Whether a card's number has the right check digit, and begins as cards do."""
    digits = [int(character) for character in number if character.isdigit()]
    if not 13 <= len(digits) <= 19 or digits[0] not in (2, 3, 4, 5, 6) or len(set(digits)) < 2:
        return False
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def iban(number: str) -> bool:
    """Whether an account's number has the right check digits."""
    plain = number.replace(" ", "")
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1


def without_accounts(text: str) -> str:
    """A text without its account numbers, whose digits look like those of telephones."""
    kept, start, at = [], 0, 0
    while found := _IBAN.search(text, at):
        places = [place for place in range(*found.span()) if text[place] != " "]
        # Words in capitals after the number look like more of it; the country determines its length.
        own = places[: _LENGTHS.get(text[places[0] : places[1] + 1])]
        end = own[-1] + 1
        if iban(text[found.start() : end]):
            kept.append(text[start : found.start()])
            start = end
        # What looks like more of one number may be the next one.
        at = max(start, places[3] + 1)
    return " ".join([*kept, text[start:]]) if kept else text


CHECK = RowCheck((PERSONAL_DATA,), _run)
