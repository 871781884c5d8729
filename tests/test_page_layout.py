"""The layout of the package's own pages: scripts, styles and HTML files are readable as they are served."""

from __future__ import annotations

from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "veneer"
STATIC = SOURCE / "studio" / "static"
FOLDERS = ("library", "common", "plots", "data", "jobs", "runs", "results", "chat")
"""The folders of the studio's scripts, the lowest first. Above them is `app.js`."""
MOST_COLUMNS = 120
VENDORED = {f"studio/static/library/{name}" for name in ("preact.js", "uplot.css", "uplot.js")}
"""Files of other projects, as they publish them."""


def own_pages() -> dict[str, str]:
    """The text of each script, style and HTML file, by its path in the package."""
    paths = (path for path in SOURCE.rglob("*") if path.suffix in (".css", ".html", ".js"))
    texts = {path.relative_to(SOURCE).as_posix(): path.read_text("utf-8") for path in paths}
    return {path: text for path, text in texts.items() if path not in VENDORED}


def test_no_line_is_longer_than_a_screen_is_wide() -> None:
    long = [
        f"{path}:{number}: {len(line)} columns"
        for path, text in own_pages().items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > MOST_COLUMNS
    ]
    assert long == []


def test_vendored_files_exist() -> None:
    assert [path for path in sorted(VENDORED) if not (SOURCE / path).is_file()] == []


def imports_of_the_studio() -> list[tuple[str, str]]:
    """Each import of the studio's scripts: the importing and the imported file, by their paths below `static`."""
    return [
        (path.relative_to(STATIC).as_posix(), name.removeprefix("/static/"))
        for path in sorted(STATIC.rglob("*.js"))
        for line in path.read_text("utf-8").splitlines()
        if line.startswith(("import ", "} from ")) and (name := line.split('"')[1]).startswith("/static/")
    ]


def test_scripts_of_the_studio_import_only_files_that_exist() -> None:
    assert [(path, name) for path, name in imports_of_the_studio() if not (STATIC / name).is_file()] == []


def test_scripts_of_the_studio_import_from_their_own_folder_and_from_those_below() -> None:
    def height(path: str) -> int:
        return len(FOLDERS) if "/" not in path else FOLDERS.index(path.partition("/")[0])

    assert [(path, name) for path, name in imports_of_the_studio() if height(name) > height(path)] == []
