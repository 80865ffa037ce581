"""What the value of a configuration key may be: types with their bounds, and forms that `schema` checks."""

from __future__ import annotations

from typing import Annotated

import msgspec

from supervisor.units import Duration, Form

Word = Annotated[str, msgspec.Meta(extra={"form": Form.WORD})]
NonEmpty = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
Argv = Annotated[tuple[Word, ...], msgspec.Meta(min_length=1)]
PathText = Annotated[str, msgspec.Meta(extra={"form": Form.PATH})]
Regex = Annotated[str, msgspec.Meta(extra={"form": Form.REGEX})]
EndpointText = Annotated[str, msgspec.Meta(extra={"form": Form.ENDPOINT})]
TransportText = Annotated[str, msgspec.Meta(extra={"form": Form.TRANSPORT})]
SynapseText = Annotated[str, msgspec.Meta(extra={"form": Form.SYNAPSE})]
LogLevel = Annotated[str, msgspec.Meta(extra={"form": Form.LOG_LEVEL})]
ListenText = Annotated[str, msgspec.Meta(extra={"form": Form.LISTEN})]
HttpText = Annotated[str, msgspec.Meta(extra={"form": Form.HTTP})]
TableText = Annotated[str, msgspec.Meta(extra={"form": Form.TABLE})]
TargetName = Annotated[str, msgspec.Meta(extra={"form": Form.TARGET_NAME})]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Pause = Annotated[Duration, msgspec.Meta(ge=0)]
Span = Annotated[Duration, msgspec.Meta(ge=0.01)]
Keep = Annotated[Duration, msgspec.Meta(ge=86400)]
RestartTime = Annotated[Duration, msgspec.Meta(ge=1, le=3600)]
Interval = Annotated[Duration, msgspec.Meta(ge=0.1)]
StepSpan = Annotated[Duration, msgspec.Meta(ge=0.01, le=3600)]
LineText = Annotated[str, msgspec.Meta(extra={"form": Form.LINE})]
EnvName = Annotated[
    str, msgspec.Meta(pattern="[A-Za-z_][A-Za-z0-9_]{0,99}", description="the name of an environment variable")
]

TimeText = Annotated[
    str, msgspec.Meta(pattern="(([01][0-9]|2[0-3]):[0-5][0-9])?", description='a time of day like "03:30"')
]
