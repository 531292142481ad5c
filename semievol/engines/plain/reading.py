"""Requests to servers that read texts themselves: one in which text could become control tokens goes as tokens.

A chat endpoint renders its template around the messages and reads the whole, control texts in a message included; vLLM
has no way to say which are which. A prompt of token ids (`/v1/completions`) it takes as it is. So what holds no control
text goes as messages, and is read by the server's own template; the rest is rendered and read here, where the
model's tokenizer can be loaded, and has its control texts broken by a space where it cannot. Owns this choice alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from semievol.config.method import ModelConfig
from semievol.engines.language_model import Prompts, load_prompts
from semievol.engines.plain.control_texts import ControlTexts, control_texts_of
from semievol.engines.plain.tally import NEUTRALISED, asked_by
from semievol.errors import ConfigError
from semievol.types import GenerationRequest, Message

logger = logging.getLogger(__name__)


class PromptReader:
    """Reads for the servers of one model; one event loop."""

    def __init__(self, model: ModelConfig | None = None) -> None:
        """Read nothing yet; without a model all control texts of the usual families are broken."""
        self._model = model
        self._lock = asyncio.Lock()
        self._texts: ControlTexts | None = None
        self._prompts: Prompts | None = None
        self._unreadable = model is None

    async def neutral(self, request: GenerationRequest) -> GenerationRequest:
        """The request as it may be sent.

        Raises:
            DataError: the chat template refuses it, or a text cannot be told from a control token.
        """
        texts = await self._control_texts()
        if not any(texts.holds(message.content) for message in request.messages):
            return request
        prompts = await self._loaded()
        if prompts is None:
            NEUTRALISED.add(asked_by(request.interactive))
            return replace(request, messages=broken(request.messages, texts))
        read = await asyncio.to_thread(prompts.read, request.messages)
        if not read.neutralised:
            return request
        NEUTRALISED.add(asked_by(request.interactive))
        return replace(request, prompt_ids=tuple(read.ids))

    async def _control_texts(self) -> ControlTexts:
        if self._texts is None:
            self._texts = await asyncio.to_thread(control_texts_of, self._model)
        return self._texts

    async def _loaded(self) -> Prompts | None:
        async with self._lock:
            if self._prompts is None and self._model is not None and not self._unreadable:
                try:
                    self._prompts = await asyncio.to_thread(load_prompts, self._model)
                except (ConfigError, ImportError) as error:
                    self._unreadable = True
                    logger.warning(
                        "model.name: its tokenizer cannot be loaded here (%s); control texts in prompts are broken "
                        "by a space instead",
                        error,
                    )
            return self._prompts


def broken(messages: Sequence[Message], texts: ControlTexts) -> tuple[Message, ...]:
    """The messages with each control text in them broken."""
    return tuple(Message(message.role, texts.broken(message.content)) for message in messages)
