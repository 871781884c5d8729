from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from helpers.rows.lint_rows import JOHN, Q, chat, found_alone, read_row
from veneer.data.lint.checks.secrets import CHECK
from veneer.data.lint.row import LintSetting

FAULTS: list[tuple[str, Any]] = [
    ("chatml", chat(f"u:{Q}", f"a:{JOHN} AKIAIOSFODNN7EXAMQLE")),
    ("chatml", chat(f"u:My token is ghp_9aZ3kQ7mTx2LbVw8RnYc4Dd1Ee6Ff5Gg0Hh2 {Q}", f"a:{JOHN}")),
    ("chatml", chat(f"u:{Q}", f'a:{JOHN} password = "tR4!vQz9#LmX2"')),
    ("chatml", chat(f"u:{Q} postgres://admin:s3cr3tP4ss@db.internal:5432/x", f"a:{JOHN}")),
    ("chatml", chat(f"u:{Q} DB_PASSWORD=q7Rw2LmZ9xKd4TbV8nHs {JOHN}", f"a:{JOHN}")),
    ("chatml", chat(f"u:{Q} password: fLDAFV!u6IHqPP {JOHN}", f"a:{JOHN}")),
    ("chatml", chat(f"u:{Q}", f"a:aws_secret_access_key = wQ9rXt/nFK7dENG+bPxRfiCYzR4mKeYv8Lp2Ts6Bd {JOHN}")),
    ("chatml", chat(f"u:{Q}", f"a:Authorization: Bearer 8fGh2KqLm5Zx7Vb9Nc4Dw1Rt6Yp3Us0 {JOHN}")),
    ("chatml", chat(f"u:{Q}", f'a:"apiKey": "x8Lm2Qz7Vb9Nc4Dw1Rt6Yp3Us0Kj5" {JOHN}')),
    ("chatml", chat(f"u:{Q}", f"a:-----BEGIN RSA PRIVATE KEY-----\n{'MIIEpAIBAAKCAQEA7bq2' * 5}\n {JOHN}")),
]


NONE = (
    "password = config.Database2.Password1Value",
    "apiKey: process.env.API_KEY_2a",
    "access_key = MyAccessKeyOfTypeB",
    "PASSWORD=your_password_Here12",
    "api_key = https://docs.acme.io/Keys/V1b2",
    "The secret key: everything begins with a plan for 1984 and 2001.",
    "auth_token = make_token(user.Id12, Secret34Value)",
    'password: "correct horse battery staple"',
    '<label class="sk-toggleable__label-arrow sk-toggleable__label-arrow">',
    '<div class="sk-estimator-doc-link-container"><div id="sk-estimator-id-3-StandardScaler-2">',
    "the folder sk-learn-preprocessing-standard-scaler-pipeline",
    "AKIAIOSFODNN7EXAMPLE",
    "A key begins with -----BEGIN PGP PRIVATE KEY BLOCK-----. Behind it stand lines of letters for nobody to see.",
    "api_key = 12345678901234567890123456789012",
    "the commit 3fa91c0b7d2e4856a1b9c07d5e8f23469b0d7c1a",
    "at 12:30:AAHq8ZrXw2LcVn6YpKd9HsJf3GtUe7RaWi1",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
    ".eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ"
    ".SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
)
KEYS = (
    "sk-3fa91c0b7d2e4856a1b9c07d5e8f2346",
    "sk-T4bQm8ZrXw2LcVn6YpKd9HsJf3GtUe7RaWi1BoNx5MvCq0Ez",
    "sk-ant-api03-Zr8_kQm2-vXw7LcTn4YpKd9HsJf3GtUe7RaWi1BoNx5MvCq0Ez",
    f"-----BEGIN PRIVATE KEY-----\n{'MIIEpAIBAAKCAQEA7bq2' * 9}\n-----END PRIVATE KEY-----\nan example of mine",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm5hQGFjbWUuaW8ifQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
    rf'"private_key":"-----BEGIN PRIVATE KEY-----\n{"MIIEpAIBAAKCAQEA7bq2" * 3}\n{"Zr8kQm2vXw7LcTn4YpKd" * 3}\n"',
    rf'"{{\"key\":\"-----BEGIN RSA PRIVATE KEY-----\\n{"MIIEpAIBAAKCAQEA7bq2" * 4}\\n\"}}"',
    f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2.0.22 (GNU/Linux)\n\n{'lQOYBFzKQm2vXw7LcTn4' * 4}",
    "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",
    f"dop_v1_{'3fa91c0b7d2e4856a1b9c07d5e8f2346' * 2}",
    "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",
    "7481920356:AAHq8ZrXw2LcVn6YpKd9HsJf3GtUe7RaWi1",
    "WANDB_API_KEY=3fa91c0b7d2e4856a1b9c07d5e8f23469b0d7c1a",
    "api_key: 3fa91c0b7d2e4856a1b9c07d5e8f2346",
)


def test_what_programs_and_people_say_of_secrets_is_none() -> None:
    for text in NONE:
        row = read_row("f:1", chat(f"u:{text}", f"a:{text}"), LintSetting())
        assert list(CHECK.run(row, LintSetting())) == [], text


def test_keys_of_services_are_found() -> None:
    for text in KEYS:
        row = read_row("f:1", chat(f"u:{Q}", f"a:{JOHN} {text}"), LintSetting())
        assert len(list(CHECK.run(row, LintSetting()))) == 1, text


@pytest.mark.parametrize(("template", "row"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(template: str, row: Any, tmp_path: Path) -> None:
    found_alone("secret", template, row, tmp_path)


@pytest.mark.parametrize(
    "text",
    ["http://x " + "a-" * 100_000, "-eyJabcdefghijkl" * 40_000, "abc://x:" * 60_000],
    ids=["scheme", "token", "user"],
)
def test_the_search_takes_time_in_proportion_to_the_row(text: str) -> None:
    begun = time.process_time()
    row = read_row("f:1", chat(f"u:{text}", "a:ok"), LintSetting())
    assert list(CHECK.run(row, LintSetting())) == []
    # Where every place is a start that is tried to the end, this takes a minute.
    assert time.process_time() - begun < 8


@pytest.mark.parametrize(
    "text",
    [
        f"Bearer-eyJ{'aZ3kQ7mTx2' * 90}.eyJ{'Lb8wRnYc4D' * 1000}.{'d1Ee6Ff5Gg' * 4} ",
        "a-rather-long-word-that-ends-in-postgres://admin:s3cr3tP4ss@db", "--mongodb+srv://a.b:s3cr3tP4ss@c.d",
    ],
)  # fmt: skip
def test_long_tokens_and_schemes_behind_other_words_are_found(text: str) -> None:
    row = read_row("f:1", chat(f"u:{text}", "a:ok"), LintSetting())
    assert len(list(CHECK.run(row, LintSetting()))) == 1
