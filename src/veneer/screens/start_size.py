"""`python -m veneer.screens.start_size MODEL`: the resident bytes of a process that is about to plan a run of a model.

The process imports what `veneer train` imports and opens the tokenizer, which is most of the rest if the vocabulary is
large. The studio calls this, because its own process is larger than that of a run.
"""

from __future__ import annotations

import sys

import veneer.screens.train  # noqa: F401 (counts by what it imports)
from veneer.backends.describe import describe_model
from veneer.data.encoded.chat import start_template
from veneer.enums import Backend
from veneer.io.checkpoint import open_checkpoint
from veneer.planning.memory import resident


def start_size(model: str) -> int:
    """The resident bytes of this process after it has opened the tokenizer of a model, as a run does before its plan.

    Args:
        model: a directory, a GGUF file or a hub id.

    Raises:
        VeneerError: the model cannot be used.
    """
    tokenizer = describe_model(open_checkpoint(model), Backend.AUTO).tokenizer()
    start_template(tokenizer)
    tokenizer.encode("What is opened at the first text counts too.")
    return resident()


if __name__ == "__main__":
    print(start_size(sys.argv[1]))
