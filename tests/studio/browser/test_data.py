"""The page of files."""

from __future__ import annotations

import re
from pathlib import Path

from helpers.servers.browsing import IN_A_BROWSER, Watched
from helpers.servers.studios import Opened

pytestmark = IN_A_BROWSER


def test_a_file_that_cannot_be_used_leads_to_no_job(watched: Watched, opened: Opened) -> None:
    page = watched.page
    watched.go("data")
    # What is uploaded and deleted elsewhere comes and goes by itself.
    made = opened.client.files.create(file=("elsewhere.jsonl", b"{}\n"), purpose="fine-tune")
    page.get_by_role("link", name="elsewhere.jsonl").wait_for()
    opened.client.files.wait_for_processing(made.id, poll_interval=0.1)
    opened.client.files.delete(made.id)
    page.get_by_role("link", name="elsewhere.jsonl").wait_for(state="detached")
    file = {"name": "broken.jsonl", "mimeType": "application/jsonl", "buffer": b'{"prompt": '}
    page.locator("input[type=file]").set_input_files(file)
    row = page.get_by_role("row", name=re.compile("^broken.jsonl cannot be used"))
    row.wait_for()
    assert row.get_by_role("link", name="Train on it").count() == 0
    row.get_by_role("link", name="broken.jsonl").click()
    watched.sees("unusable-row")
    with page.expect_download() as taken:
        page.get_by_role("button", name="Findings as CSV").click()
    assert Path(taken.value.path()).read_text("utf-8").splitlines()[1] == "error,unusable-row,1"
    assert page.get_by_role("link", name="Train on it").count() == 0
    watched.go(f"new?file={page.url.rpartition('/')[2]}")
    page.locator("option:text-is('broken.jsonl: cannot be used')").wait_for(state="attached")
