from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.rows.lint_rows import JOHN, Q, chat, found_alone, write
from veneer.data.lint.checks.personal_data import _EMAIL, _is_address, iban, luhn, without_accounts
from veneer.data.lint.run import lint

FAULTS: list[tuple[str, Any]] = [
    ("chatml", chat(f"u:Write to jane.roe@post.net. {Q}", f"a:{JOHN}")),
    ("chatml", chat(f"u:Card 4111 1111 1111 1111. {Q}", f"a:{JOHN}")),
    ("chatml", chat(f"u:DE89 3704 0044 0532 0130 00 is it. {Q}", f"a:{JOHN}")),
    ("chatml", chat(f"u:Le 06 12 34 56 78, s'il vous plaît. {Q}", f"a:{JOHN}")),
    ("chatml", chat(f"u:Call +49 30 1234 5678. {Q}", f"a:{JOHN}")),
]


@pytest.mark.parametrize(("template", "row"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(template: str, row: Any, tmp_path: Path) -> None:
    found_alone("personal-data", template, row, tmp_path)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("AT61 1904 3002 3457 3201 BIC OPSKATWW", "  BIC OPSKATWW"),
        ("pay ES91 2100 0418 4502 0005 1332 BANK now", "pay   BANK now"),
        ("BE68539007547034 AB", "  AB"),
        ("AT61 1904 3002 3457 3201 DE89 3704 0044 0532 0130 00.", "   ."),
        ("AT61 1904 3002 3457 3201 0664 1234 567", "  0664 1234 567"),
        ("ITEM AT61 1904 3002 3457 3201", "ITEM  "),
    ],
)
def test_an_account_ends_where_its_country_says(text: str, rest: str) -> None:
    assert without_accounts(text) == rest


@pytest.mark.parametrize("text", ["", "AT61 1904 3002 3457 3202 BIC", "AT61", "REF12 ABCD EFGH"])
def test_a_text_without_an_account_stays_as_it_is(text: str) -> None:
    assert without_accounts(text) is text


def test_an_account_is_no_telephone(tmp_path: Path) -> None:
    report = lint(write(tmp_path / "f.jsonl", [chat(f"u:DE89 3704 0044 0532 0130 00 is it. {Q}", f"a:{JOHN}")]))
    [found] = [one for one in report.found if one.rule.name == "personal-data"]
    assert list(found.details.values()) == ["an account number (IBAN)"]


def test_who_logs_in_at_the_host_of_a_url_has_no_address_there() -> None:
    said = "Use postgres://admin:S3cr3t@db.internal.net:5432/x or https://me@files.net/a"
    assert not any(map(_is_address, _EMAIL.findall(said)))
    assert any(map(_is_address, _EMAIL.findall(f"{said}, and write to jane.roe@post.net.")))


@given(st.text("0123456789", min_size=12, max_size=18), st.sampled_from("23456"))
def test_one_last_digit_of_ten_makes_a_card(middle: str, first: str) -> None:
    """The digit is the one that makes the sum of Luhn's table divisible by ten."""
    body = first + middle[1:]
    total = sum(sum(divmod(int(digit) * (2 - at % 2), 10)) for at, digit in enumerate(reversed(body)))
    fitting = str(-total % 10)
    if len(set(body + fitting)) > 1:
        assert [last for last in "0123456789" if luhn(body + last)] == [fitting]


@given(st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=11, max_size=30))
def test_one_pair_of_check_digits_makes_an_account(account: str) -> None:
    """ISO 13616: letters count from 10, country and digits go to the end, and the digits are 98 less the remainder."""
    number = int("".join(str(int(letter, 36)) for letter in f"{account}DE00"))
    digits = f"{98 - number % 97:02}"
    assert [pair for pair in (f"{i:02}" for i in range(2, 99)) if iban(f"DE{pair}{account}")] == [digits]
