"""Files of keys: who may read them, and what is a key."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from veneer.errors import ConfigError
from veneer.http_server.keys import Keys, read_keys

KEY = "0123456789abcdef"


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_key_stands_on_each_line(tmp_path: Path) -> None:
    keys = read_keys(written(tmp_path / "keys", f"# ours\n{KEY}1\n\n  {KEY}2 \n"))
    assert keys.accepts(f"Bearer {KEY}1")
    assert keys.accepts(f"Bearer {KEY}2")
    assert not keys.accepts("Bearer # ours")
    assert not keys.accepts("Bearer ")
    assert not keys.accepts(None)


@pytest.mark.scenario(42)
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_keys_that_others_may_read_are_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(written(tmp_path / "keys", KEY, mode))


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", f"{KEY}\nshort\n"])
def test_files_without_a_usable_key_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="at least 16 characters"):
        read_keys(written(tmp_path / "keys", text))


@pytest.mark.parametrize("key", [f"ü{KEY}", f"{KEY}\x07", f"{KEY}\u2028{KEY}"])
def test_keys_that_no_client_can_send_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=r"only printable ASCII.*number 2"):
        read_keys(written(tmp_path / "keys", f"{KEY}\n{key}\n"))


def test_files_of_windows_and_comments_that_are_indented(tmp_path: Path) -> None:
    keys = read_keys(written(tmp_path / "keys", f"\ufeff{KEY}1\r\n   # {KEY}2\r\n"))
    assert keys.accepts(f"Bearer {KEY}1")
    assert not keys.accepts(f"Bearer # {KEY}2")


@pytest.mark.scenario(35)
def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        seen.append((one, other))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    keys = Keys([f"{KEY}{number}" for number in range(5)])
    for given in (f"Bearer {KEY}0", "Bearer x", None):
        seen.clear()
        keys.accepts(given)
        assert len(seen) == 5
        assert {len(one) for pair in seen for one in pair} == {32}
