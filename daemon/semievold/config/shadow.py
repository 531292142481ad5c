"""Shadow pairs: live queries that two versions answer beside each other, unseen by clients."""

from __future__ import annotations

from pydantic import Field

from semievol.config.method import Section


class ShadowSettings(Section):
    """How many live queries are answered by both versions, while a candidate waits for its proof or its canary, and
    while a promoted version is watched. Never on the path of an answer.
    """

    share: float = Field(default=0.05, ge=0, le=1)
    """Share of the queries that the intake labels, drawn at random. Each costs two short greedy answers. 0: none, and
    one answer that takes over is not seen."""
    per_second: float = Field(default=2.0, gt=0)
    """Most pairs a second; more are left out and counted."""
    max_wait_s: float = Field(default=30.0, gt=0)
    """What is not answered by both versions so soon, seconds, is dropped and counted: the engine is busy."""
    gateway: bool = False
    """Draw from chat requests at the gateway too that are not captured (what is captured, the intake labels). Their
    questions are then kept in the state with the round. As with gateway.capture: tell your users; the header
    `x-semievol-no-capture` keeps a request out."""
