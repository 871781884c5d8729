from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lint_rows import JOHN, Q, chat, found_alone

FAULTS: list[tuple[str, Any]] = [
    ("chatml", chat(f"u:{Q}", f"a:{JOHN} AKIAIOSFODNN7EXAMQLE")),
    ("chatml", chat(f"u:My token is ghp_9aZ3kQ7mTx2LbVw8RnYc4Dd1Ee6Ff5Gg0Hh2 {Q}", f"a:{JOHN}")),
    ("chatml", chat(f"u:{Q}", f'a:{JOHN} password = "tR4!vQz9#LmX2"')),
    ("chatml", chat(f"u:{Q} postgres://admin:s3cr3tP4ss@db.internal:5432/x", f"a:{JOHN}")),
    ("chatml", chat(f"u:{Q}", f"a:-----BEGIN RSA PRIVATE KEY-----\n{'MIIEpAIBAAKCAQEA7bq2' * 5}\n {JOHN}")),
]


@pytest.mark.parametrize(("template", "row"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(template: str, row: Any, tmp_path: Path) -> None:
    found_alone("secret", template, row, tmp_path)
