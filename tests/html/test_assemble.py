from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence

import pytest

from veneer.errors import OutputError
from veneer.evaluation.page.write import SCRIPTS
from veneer.html.assemble import page

HOSTILE = "</script><script>document.title='broken'</script> <!-- 😀"
PAGES: list[tuple[str, str, str, str, Sequence[str]]] = [
    ("veneer.data.page", "veneer data", "page.html", "page.css", ("page.js",)),
    ("veneer.evaluation.page", "veneer evaluate", "report.html", "report.css", SCRIPTS),
]


@pytest.mark.parametrize("parts", PAGES)
def test_a_page_allows_its_own_style_and_script_alone_and_holds_its_values(
    parts: tuple[str, str, str, str, Sequence[str]],
) -> None:
    text = page(*parts, {"text": HOSTILE})
    assert len(re.findall("<script", text)) == 2
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert json.loads(data) == {"text": HOSTILE}
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    script = text.replace(data, "")
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\son\w+=", script)
    assert set(re.findall(r"\w+://[^\"' ]+", script)) <= {"http://www.w3.org/2000/svg"}
    assert "@" not in re.sub(r"@media", "", script)


def test_what_json_has_no_number_for_is_refused() -> None:
    with pytest.raises(OutputError, match="loss: nan"):
        page(*PAGES[0], {"loss": float("nan")})
