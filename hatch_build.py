"""Put `configs/` into the wheel, for `rlscan train --config cartpole` without a checkout."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CarryConfigs(BuildHookInterface):
    """A hook rather than `force-include`, which would copy them for an editable install too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["configs"] = "rlscan/runs/configs"
