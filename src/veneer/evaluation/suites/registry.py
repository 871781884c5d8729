"""The suites that come with veneer, by name."""

from __future__ import annotations

from veneer.evaluation.suites.arithmetic import ARITHMETIC
from veneer.evaluation.suites.base import Suite
from veneer.evaluation.suites.constraints import CONSTRAINTS
from veneer.evaluation.suites.copying import COPYING
from veneer.evaluation.suites.json_objects import JSON_OBJECTS
from veneer.evaluation.suites.tools import TOOLS

SUITES: dict[str, Suite] = {one.name: one for one in (ARITHMETIC, COPYING, JSON_OBJECTS, CONSTRAINTS, TOOLS)}
