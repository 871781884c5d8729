"""veneer: fine-tune language models with LoRA and QLoRA, and prove that it worked.

The Python API is the commands' functions and what they take::

    import veneer

    config = veneer.RunConfig.model_validate({"model": "model/", "output": "run/", "data": {"file": "train.jsonl"}})
    veneer.train(config)
    report = veneer.evaluate("model/", "test.jsonl", adapter="run/")
    assistant = veneer.open_assistant("model/", adapter="run/")

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from veneer.assistant import Assistant as Assistant
    from veneer.assistant import open_assistant as open_assistant
    from veneer.comparison.run import CompareConfig as CompareConfig
    from veneer.comparison.run import CompareResult as CompareResult
    from veneer.comparison.run import compare as compare
    from veneer.config import QuantSection as QuantSection
    from veneer.config import RunConfig as RunConfig
    from veneer.enums import Method as Method
    from veneer.errors import VeneerError as VeneerError
    from veneer.evaluation.run import Report as Report
    from veneer.evaluation.run import evaluate as evaluate
    from veneer.exports.certificate import Certificate as Certificate
    from veneer.exports.record import ExportRecord as ExportRecord
    from veneer.exports.request import StoredDtype as StoredDtype
    from veneer.exports.request import Target as Target
    from veneer.exports.run import export as export
    from veneer.exports.verify import verify as verify
    from veneer.generation import Sampling as Sampling
    from veneer.quantization import Quantised as Quantised
    from veneer.quantization import quantize as quantize
    from veneer.reproduction.run import Reproduction as Reproduction
    from veneer.reproduction.run import reproduce as reproduce
    from veneer.training.prepare import plan as plan
    from veneer.training.run import train as train
    from veneer.training.session import RunResult as RunResult
    from veneer.training.steps import SupposedRows as SupposedRows

__version__ = "0.1.0"

_HOMES = {
    "Assistant": "veneer.assistant",
    "Certificate": "veneer.exports.certificate",
    "CompareConfig": "veneer.comparison.run",
    "CompareResult": "veneer.comparison.run",
    "ExportRecord": "veneer.exports.record",
    "Method": "veneer.enums",
    "QuantSection": "veneer.config",
    "Quantised": "veneer.quantization",
    "Report": "veneer.evaluation.run",
    "Reproduction": "veneer.reproduction.run",
    "RunConfig": "veneer.config",
    "RunResult": "veneer.training.session",
    "Sampling": "veneer.generation",
    "StoredDtype": "veneer.exports.request",
    "SupposedRows": "veneer.training.steps",
    "Target": "veneer.exports.request",
    "VeneerError": "veneer.errors",
    "compare": "veneer.comparison.run",
    "evaluate": "veneer.evaluation.run",
    "export": "veneer.exports.run",
    "open_assistant": "veneer.assistant",
    "plan": "veneer.training.prepare",
    "quantize": "veneer.quantization",
    "reproduce": "veneer.reproduction.run",
    "train": "veneer.training.run",
    "verify": "veneer.exports.verify",
}

__all__ = [
    "Assistant",
    "Certificate",
    "CompareConfig",
    "CompareResult",
    "ExportRecord",
    "Method",
    "QuantSection",
    "Quantised",
    "Report",
    "Reproduction",
    "RunConfig",
    "RunResult",
    "Sampling",
    "StoredDtype",
    "SupposedRows",
    "Target",
    "VeneerError",
    "__version__",
    "compare",
    "evaluate",
    "export",
    "open_assistant",
    "plan",
    "quantize",
    "reproduce",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'veneer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
