"""veneer: fine-tune language models with LoRA and QLoRA, and prove that it worked.

The Python API has a function of the same name and meaning for every command (except that `lint` is `veneer data`, and
`open_studio` is `veneer studio`), and the types of their arguments and results::

    import veneer

    veneer.train({"model": "model/", "output": "run/", "data": {"file": "train.jsonl"}})
    report = veneer.evaluate("model/", "test.jsonl", adapter="run/")
    answer = veneer.generate("model/", "What is a veneer?", adapter="run/")
    veneer.export("run/", "merged/", to="merged")

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from veneer.adapters.arithmetic import CombinationType as CombinationType
    from veneer.adapters.arithmetic import Majority as Majority
    from veneer.assistant.ask import chat as chat
    from veneer.assistant.ask import generate as generate
    from veneer.assistant.assistant import Assistant as Assistant
    from veneer.assistant.conversation import Answering as Answering
    from veneer.assistant.conversation import Conversation as Conversation
    from veneer.assistant.load import open_assistant as open_assistant
    from veneer.assistant.request import AssistantRequest as AssistantRequest
    from veneer.combination import CombinationResult as CombinationResult
    from veneer.combination import combine as combine
    from veneer.comparison.order import RunOutcome as RunOutcome
    from veneer.comparison.request import CompareRequest as CompareRequest
    from veneer.comparison.result import CompareResult as CompareResult
    from veneer.comparison.run import compare as compare
    from veneer.comparison.summary import Difference as Difference
    from veneer.comparison.summary import Figure as Figure
    from veneer.comparison.summary import MethodSummary as MethodSummary
    from veneer.config import ComputeSection as ComputeSection
    from veneer.config import CpoSection as CpoSection
    from veneer.config import DataSection as DataSection
    from veneer.config import DistillationSection as DistillationSection
    from veneer.config import DpoSection as DpoSection
    from veneer.config import GrpoSection as GrpoSection
    from veneer.config import KtoSection as KtoSection
    from veneer.config import LoraSection as LoraSection
    from veneer.config import OrpoSection as OrpoSection
    from veneer.config import QuantSection as QuantSection
    from veneer.config import RewardSection as RewardSection
    from veneer.config import RewardSpec as RewardSpec
    from veneer.config import RunConfig as RunConfig
    from veneer.config import SimpoSection as SimpoSection
    from veneer.config import SourceSection as SourceSection
    from veneer.config import SplitSection as SplitSection
    from veneer.config import TrackingSection as TrackingSection
    from veneer.config import TrainSection as TrainSection
    from veneer.data.files.in_memory import RowSource as RowSource
    from veneer.data.lint.report import LintReport as LintReport
    from veneer.diagnosis.facts import Facts as Facts
    from veneer.diagnosis.facts import doctor as doctor
    from veneer.enums import Backend as Backend
    from veneer.enums import BadRows as BadRows
    from veneer.enums import Bias as Bias
    from veneer.enums import Check as Check
    from veneer.enums import Column as Column
    from veneer.enums import Dtype as Dtype
    from veneer.enums import Factors as Factors
    from veneer.enums import Init as Init
    from veneer.enums import JobCode as JobCode
    from veneer.enums import Method as Method
    from veneer.enums import ObjectiveName as ObjectiveName
    from veneer.enums import OnRewardError as OnRewardError
    from veneer.enums import OptimizerName as OptimizerName
    from veneer.enums import OtherBase as OtherBase
    from veneer.enums import Overlong as Overlong
    from veneer.enums import Products as Products
    from veneer.enums import Publish as Publish
    from veneer.enums import Recompute as Recompute
    from veneer.enums import Scaling as Scaling
    from veneer.enums import Schedule as Schedule
    from veneer.enums import Scheme as Scheme
    from veneer.enums import Sharding as Sharding
    from veneer.enums import SplitBy as SplitBy
    from veneer.enums import Task as Task
    from veneer.enums import TokenCache as TokenCache
    from veneer.enums import TrackerName as TrackerName
    from veneer.enums import TrackingMode as TrackingMode
    from veneer.enums import Variant as Variant
    from veneer.errors import AdapterError as AdapterError
    from veneer.errors import CheckpointError as CheckpointError
    from veneer.errors import ConfigError as ConfigError
    from veneer.errors import DataError as DataError
    from veneer.errors import Diverged as Diverged
    from veneer.errors import Interrupted as Interrupted
    from veneer.errors import ModelError as ModelError
    from veneer.errors import OutOfMemory as OutOfMemory
    from veneer.errors import OutputError as OutputError
    from veneer.errors import RankLost as RankLost
    from veneer.errors import TrainingStopped as TrainingStopped
    from veneer.errors import VeneerError as VeneerError
    from veneer.evaluation.forgetting import SuiteResult as SuiteResult
    from veneer.evaluation.gate import Condition as Condition
    from veneer.evaluation.gate import GateResult as GateResult
    from veneer.evaluation.gate import Verdict as Verdict
    from veneer.evaluation.judge.verdicts import JudgedShare as JudgedShare
    from veneer.evaluation.judge.verdicts import JudgeResult as JudgeResult
    from veneer.evaluation.lint import lint as lint
    from veneer.evaluation.report import Report as Report
    from veneer.evaluation.report import Sample as Sample
    from veneer.evaluation.request import EvaluationRequest as EvaluationRequest
    from veneer.evaluation.run import evaluate as evaluate
    from veneer.evaluation.scoring import RowScore as RowScore
    from veneer.evaluation.statistics.compare import Comparison as Comparison
    from veneer.evaluation.statistics.compare import Metric as Metric
    from veneer.events import AnswersJudged as AnswersJudged
    from veneer.events import CheckpointSaved as CheckpointSaved
    from veneer.events import Evaluated as Evaluated
    from veneer.events import Event as Event
    from veneer.events import Level as Level
    from veneer.events import MicroBatchHalved as MicroBatchHalved
    from veneer.events import Note as Note
    from veneer.events import Result as Result
    from veneer.events import RunDone as RunDone
    from veneer.events import RunEnd as RunEnd
    from veneer.events import RunEvent as RunEvent
    from veneer.events import RunFailed as RunFailed
    from veneer.events import RunFinished as RunFinished
    from veneer.events import RunsJoined as RunsJoined
    from veneer.events import RunStarted as RunStarted
    from veneer.events import SamplesAnswered as SamplesAnswered
    from veneer.events import StageBegun as StageBegun
    from veneer.events import StageEnded as StageEnded
    from veneer.events import StageProgress as StageProgress
    from veneer.events import StepBudget as StepBudget
    from veneer.events import StepDone as StepDone
    from veneer.events import StepSkipped as StepSkipped
    from veneer.events import Subscriber as Subscriber
    from veneer.exports.certificate import Agreement as Agreement
    from veneer.exports.certificate import Certificate as Certificate
    from veneer.exports.certificate import ParityError as ParityError
    from veneer.exports.certificate import TensorReport as TensorReport
    from veneer.exports.certificate import Threshold as Threshold
    from veneer.exports.measure import Loss as Loss
    from veneer.exports.measure import Survival as Survival
    from veneer.exports.merge import MergeSummary as MergeSummary
    from veneer.exports.record import ExportRecord as ExportRecord
    from veneer.exports.record import LossReport as LossReport
    from veneer.exports.record import RequantisedLoss as RequantisedLoss
    from veneer.exports.request import ExportRequest as ExportRequest
    from veneer.exports.request import StoredDtype as StoredDtype
    from veneer.exports.request import Target as Target
    from veneer.exports.request import VerifyRequest as VerifyRequest
    from veneer.exports.run import export as export
    from veneer.exports.verify import verify as verify
    from veneer.formulas import Baseline as Baseline
    from veneer.formulas import Divergence as Divergence
    from veneer.formulas import DpoLoss as DpoLoss
    from veneer.formulas import GrpoLoss as GrpoLoss
    from veneer.formulas import ImportanceLevel as ImportanceLevel
    from veneer.formulas import KlPlace as KlPlace
    from veneer.formulas import ReferencePolicy as ReferencePolicy
    from veneer.formulas import ScaleRewards as ScaleRewards
    from veneer.generation.sampling import Sampling as Sampling
    from veneer.generation.share import Share as Share
    from veneer.planning.estimate import Estimate as Estimate
    from veneer.planning.plan import Plan as Plan
    from veneer.quantization import QuantizeResult as QuantizeResult
    from veneer.quantization import quantize as quantize
    from veneer.reproduction.differences import TensorDifference as TensorDifference
    from veneer.reproduction.run import Reproduction as Reproduction
    from veneer.reproduction.run import reproduce as reproduce
    from veneer.reward_model import PairAccuracy as PairAccuracy
    from veneer.reward_model import open_reward_model as open_reward_model
    from veneer.reward_model import pair_accuracy as pair_accuracy
    from veneer.run_records.find import runs as runs
    from veneer.run_records.record import RunRecord as RunRecord
    from veneer.run_records.state import RunState as RunState
    from veneer.serving.request import Serving as Serving
    from veneer.serving.run import serve as serve
    from veneer.studio.request import StudioRunning as StudioRunning
    from veneer.studio.run import open_studio as open_studio
    from veneer.sweeps.outcome import PointState as PointState
    from veneer.sweeps.outcome import SweepOutcome as SweepOutcome
    from veneer.sweeps.run import sweep as sweep
    from veneer.tracked_run import train as train
    from veneer.training.folder.progress import Progress as Progress
    from veneer.training.plan import plan as plan
    from veneer.training.rewarding.reward_model import RewardModel as RewardModel
    from veneer.training.session import RunResult as RunResult
    from veneer.training.supposed_steps import SupposedRows as SupposedRows
    from veneer.walkthrough import QuickstartResult as QuickstartResult
    from veneer.walkthrough import Shortening as Shortening
    from veneer.walkthrough import quickstart as quickstart

__version__ = "0.1.0"

# fmt: off
_NAMES = {
    "veneer.adapters.arithmetic": ("CombinationType", "Majority"),
    "veneer.assistant.ask": ("chat", "generate"),
    "veneer.assistant.assistant": ("Assistant",),
    "veneer.assistant.conversation": ("Answering", "Conversation"),
    "veneer.assistant.load": ("open_assistant",),
    "veneer.assistant.request": ("AssistantRequest",),
    "veneer.combination": ("CombinationResult", "combine"),
    "veneer.comparison.order": ("RunOutcome",),
    "veneer.comparison.result": ("CompareResult",),
    "veneer.comparison.run": ("compare",),
    "veneer.comparison.request": ("CompareRequest",),
    "veneer.comparison.summary": ("Difference", "Figure", "MethodSummary"),
    "veneer.config": (
        "ComputeSection", "CpoSection", "DataSection", "DistillationSection", "DpoSection", "GrpoSection", "KtoSection",
        "LoraSection", "OrpoSection", "QuantSection", "RewardSection", "RewardSpec", "RunConfig", "SimpoSection",
        "SourceSection", "SplitSection", "TrackingSection", "TrainSection",
    ),
    "veneer.data.files.in_memory": ("RowSource",),
    "veneer.data.lint.report": ("LintReport",),
    "veneer.diagnosis.facts": ("Facts", "doctor"),
    "veneer.enums": (
        "Backend", "BadRows", "Bias", "Check", "Column", "Dtype", "Factors", "Init", "JobCode", "Method",
        "ObjectiveName", "OnRewardError", "OptimizerName", "OtherBase", "Overlong", "Products", "Publish", "Recompute",
        "Scaling", "Schedule", "Scheme", "Sharding", "SplitBy", "Task", "TokenCache", "TrackerName", "TrackingMode",
        "Variant",
    ),
    "veneer.errors": (
        "AdapterError", "CheckpointError", "ConfigError", "DataError", "Diverged", "Interrupted", "ModelError",
        "OutOfMemory", "OutputError", "RankLost", "TrainingStopped", "VeneerError",
    ),
    "veneer.evaluation.forgetting": ("SuiteResult",),
    "veneer.evaluation.gate": ("Condition", "GateResult", "Verdict"),
    "veneer.evaluation.judge.verdicts": ("JudgeResult", "JudgedShare"),
    "veneer.evaluation.lint": ("lint",),
    "veneer.evaluation.report": ("Report", "Sample"),
    "veneer.evaluation.request": ("EvaluationRequest",),
    "veneer.evaluation.run": ("evaluate",),
    "veneer.evaluation.scoring": ("RowScore",),
    "veneer.evaluation.statistics.compare": ("Comparison", "Metric"),
    "veneer.events": (
        "AnswersJudged", "CheckpointSaved", "Evaluated", "Event", "Level", "MicroBatchHalved", "Note", "Result",
        "RunDone", "RunEnd", "RunEvent", "RunFailed", "RunFinished", "RunStarted", "RunsJoined", "SamplesAnswered",
        "StageBegun", "StageEnded", "StageProgress", "StepBudget", "StepDone", "StepSkipped", "Subscriber",
    ),
    "veneer.exports.certificate": ("Agreement", "Certificate", "ParityError", "TensorReport", "Threshold"),
    "veneer.exports.measure": ("Loss", "Survival"),
    "veneer.exports.merge": ("MergeSummary",),
    "veneer.exports.record": ("ExportRecord", "LossReport", "RequantisedLoss"),
    "veneer.exports.request": ("ExportRequest", "StoredDtype", "Target", "VerifyRequest"),
    "veneer.exports.run": ("export",),
    "veneer.exports.verify": ("verify",),
    "veneer.formulas": (
        "Baseline", "Divergence", "DpoLoss", "GrpoLoss", "ImportanceLevel", "KlPlace", "ReferencePolicy",
        "ScaleRewards",
    ),
    "veneer.generation.sampling": ("Sampling",),
    "veneer.generation.share": ("Share",),
    "veneer.planning.estimate": ("Estimate",),
    "veneer.planning.plan": ("Plan",),
    "veneer.quantization": ("QuantizeResult", "quantize"),
    "veneer.reproduction.differences": ("TensorDifference",),
    "veneer.reproduction.run": ("Reproduction", "reproduce"),
    "veneer.reward_model": ("PairAccuracy", "open_reward_model", "pair_accuracy"),
    "veneer.run_records.find": ("runs",),
    "veneer.run_records.record": ("RunRecord",),
    "veneer.run_records.state": ("RunState",),
    "veneer.serving.request": ("Serving",),
    "veneer.serving.run": ("serve",),
    "veneer.studio.request": ("StudioRunning",),
    "veneer.studio.run": ("open_studio",),
    "veneer.sweeps.outcome": ("PointState", "SweepOutcome",),
    "veneer.sweeps.run": ("sweep",),
    "veneer.tracked_run": ("train",),
    "veneer.training.folder.progress": ("Progress",),
    "veneer.training.plan": ("plan",),
    "veneer.training.rewarding.reward_model": ("RewardModel",),
    "veneer.training.session": ("RunResult",),
    "veneer.training.supposed_steps": ("SupposedRows",),
    "veneer.walkthrough": ("QuickstartResult", "Shortening", "quickstart"),
}
# fmt: on
"""The public names by their modules. A module is imported when one of its names is first used."""

_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted((*_HOMES, "__version__"))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'veneer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
