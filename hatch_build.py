"""Build hook: compile the CPU kernels where a C compiler is there, and make a plain wheel where none is."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelBuildHook(BuildHookInterface):
    """Runs `src/veneer/native/build.py` before the wheel (editable or not) is put together."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add what was compiled to the wheel."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        spec = importlib.util.spec_from_file_location("veneer_native_build", root / "src/veneer/native/build.py")
        if spec is None or spec.loader is None:
            return
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made = module.build(on_failure=self._warn)
        if not made:
            self.app.display_warning("veneer: no CPU kernels could be compiled; torch's own operations are used")
            return
        # The libraries are loaded by path, so they fit every Python but one platform only.
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        if version != "editable":
            for path in made:
                build_data["force_include"][str(path)] = f"veneer/native/{path.name}"

    def _warn(self, variant: str, why: str) -> None:
        self.app.display_warning(f"veneer: the CPU kernels for {variant} could not be compiled:\n{why}")
