"""Coverage-guided fuzzing of one reader of strangers' files: `make fuzz READER=gguf SECONDS=600`.

atheris changes inputs towards code that no input has reached, from the sound file and the files of `corpus/`. What is
found stays in `--findings`: an input that another exception than the documented one comes from, that takes more than
a minute, or that wants more than 512 MB. To look at one again, name it: `fuzz.py gguf FILE`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

# Heavy libraries come first, so that only veneer's own code and the parsers below it are watched.
import tokenizers  # noqa: E402, F401
import torch  # noqa: E402, F401
import transformers  # noqa: E402, F401

with atheris.instrument_imports(include=["veneer", "json", "yaml", "csv", "jinja2"]):
    from helpers.rows import untrusted_files

SECONDS = 60
"""The longest that an input may take by the clock, on a machine that does other things too."""
MEGABYTES = 512


def main() -> None:
    """Fuzz for as long as was asked, or run one input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=sorted(untrusted_files.READERS))
    parser.add_argument("input", nargs="*", type=Path, help="run these inputs alone, once each")
    parser.add_argument("--seconds", type=int, default=600, help="0 fuzzes until it is interrupted")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    reader = untrusted_files.READERS[options.reader]
    folder = untrusted_files.write_sound_files(Path(tempfile.mkdtemp(prefix="veneer-fuzz-")))
    file = folder / reader.file
    findings = options.findings / options.reader
    (findings / "corpus").mkdir(parents=True, exist_ok=True)
    (findings / "corpus" / "sound").write_bytes(file.read_bytes())

    def meet(content: bytes) -> None:
        file.write_bytes(content)
        try:
            with untrusted_files.at_most(MEGABYTES):
                reader.read(folder)
        except reader.refusal:
            pass

    if options.input:
        for one in options.input:
            meet(one.read_bytes())
        return
    arguments = [
        sys.argv[0],
        f"-max_total_time={options.seconds}",
        f"-timeout={SECONDS}",
        f"-artifact_prefix={findings}/",
        f"-max_len={max(4096, 2 * file.stat().st_size)}",
        "-rss_limit_mb=0",
        "-print_final_stats=1",
        str(findings / "corpus"),
        *([str(HERE / "corpus" / options.reader)] if (HERE / "corpus" / options.reader).is_dir() else []),
    ]
    atheris.Setup(arguments, meet)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
