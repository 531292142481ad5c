"""The base model with its tokenizer: loading, and prompts as tokens.

Owns what generation and training must agree on: the chat template, the tokens that end a turn, the number of
positions. Owns no adapters, no decoding, and not what keeps text from becoming control tokens (plain.encoding). torch
and transformers are imported when a model is loaded, not before.
Invariant: the tokens of `read_completion(messages, text)`, put together, are the sequence that the model would have
read and produced, had it answered `text` to `messages`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from semievol.config.method import ModelConfig
from semievol.engines.cpu import has_bfloat16
from semievol.engines.plain.encoding import Encoded, PlainText
from semievol.engines.plain.tally import NEUTRALISED, asked_by
from semievol.errors import ConfigError, DataError, TooLongError
from semievol.types import GenerationRequest, Message

logger = logging.getLogger(__name__)

# Tokens by which chat models end a turn; some models list only their end-of-text token as eos.
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")


@dataclass(slots=True)
class Prompts:
    """The tokenizer side of a base model; usable from any thread, without the weights."""

    tokenizer: Any
    positions: int | None
    """Longest sequence in tokens. None: not known."""
    end_tokens: frozenset[int]
    """Generation stops after any of them."""
    turn_end: int
    """The one that the chat template puts after an assistant turn; training teaches it."""
    _plain: PlainText = field(init=False)

    def __post_init__(self) -> None:
        self._plain = PlainText(self.tokenizer)

    @property
    def padding(self) -> int:
        """Fills masked places; its value never reaches a result."""
        padding = self.tokenizer.pad_token_id
        return self.turn_end if padding is None else int(padding)

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The conversation as the chat template writes it, up to where the model's turn starts.

        Raises:
            DataError: the template refuses the conversation (for instance two user turns in a row).
        """
        return self._written([m.role for m in messages], [m.content for m in messages])

    def prompt_tokens(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's tokens."""
        return self.read(messages).ids

    def read(self, messages: Sequence[Message]) -> Encoded:
        """The prompt's tokens, and whether text in it was kept from becoming control tokens.

        Raises:
            DataError: as `prompt_text`; or a text cannot be told from a control token.
        """
        roles = [m.role for m in messages]
        return self._plain.encode(lambda contents: self._written(roles, contents), [m.content for m in messages])

    def request_tokens(self, request: GenerationRequest) -> list[int]:
        """What the model reads before it answers a request: its conversation, or its prompt as that stands.

        Raises:
            DataError: the template refuses the conversation, or a token is none.
        """
        prompt = request.prompt
        if prompt is None:
            read = self.read(request.messages)
            if read.neutralised:
                NEUTRALISED.add(asked_by(request.interactive))
            return read.ids
        if isinstance(prompt, str):
            try:
                prompt.encode()
            except UnicodeEncodeError:
                raise DataError("prompt: holds half of a surrogate pair, which no encoding takes") from None
            with self._plain.lock:
                return list(self.tokenizer(prompt)["input_ids"])
        self.check_tokens(prompt, "prompt")
        return list(prompt)

    def check_tokens(self, tokens: Sequence[int], field: str) -> None:
        """Refuse tokens that the model does not have.

        Raises:
            DataError: names `field`, and the tokens that there are.
        """
        vocabulary = len(self.tokenizer)
        if odd := next((token for token in tokens if not 0 <= token < vocabulary), None):
            raise DataError(f"{field}: {odd} is no token; the model has the tokens 0 to {vocabulary - 1}")

    def read_completion(self, messages: Sequence[Message], completion: str) -> tuple[list[int], Encoded]:
        """The prompt's tokens, and those that answer `completion` to it, the end of turn included.

        `neutralised` says whether text in either was kept from becoming control tokens.
        """
        roles = [m.role for m in messages]
        head = self.read(messages).ids
        whole = self._plain.encode(
            lambda contents: self._written(roles, contents[:-1]) + contents[-1],
            [*(m.content for m in messages), completion],
        )
        # Tokenisers that mark the start of a text read a completion alone differently than after its prompt; where
        # prompt and completion would melt into one token, generation cannot follow and they are read apart.
        if len(whole.ids) > len(head) and whole.ids[: len(head)] == head:
            ids = whole.ids[len(head) :]
        else:
            ids = self._plain.encode("".join, [completion]).ids
        return head, Encoded([*ids, self.turn_end], whole.neutralised)

    def text(self, token_ids: Sequence[int]) -> str:
        """Decode without special tokens."""
        with self._plain.lock:
            return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def check_length(self, prompt_tokens: int, max_tokens: int) -> None:
        """Refuse a prompt that leaves no room for its answer.

        Raises:
            TooLongError: names the tokens of the prompt and the limit.
        """
        if self.positions is not None and prompt_tokens > self.positions - max_tokens:
            raise TooLongError(
                f"the prompt has {prompt_tokens} tokens, the limit is {self.positions - max_tokens} "
                f"({self.positions} positions less {max_tokens} for the answer): shorten it"
            )

    def _written(self, roles: Sequence[str], contents: Sequence[str]) -> str:
        turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        if odd := next((role for role in roles if not role.isidentifier()), None):
            raise DataError(f"messages: {odd!r} is no role")
        try:
            text = str(self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
            text.encode()
        except UnicodeEncodeError:
            raise DataError("messages: a text holds half of a surrogate pair, which no encoding takes") from None
        except Exception as error:  # jinja raises what the template's author chose
            if list(roles[:2]) != ["system", "user"]:
                raise DataError(f"messages: the chat template refuses them ({error})") from error
            # Some templates (Gemma's) have no system turn: what it says opens the user's.
            return self._written(roles[1:], [f"{contents[0]}\n\n{contents[1]}", *contents[2:]])
        return text


def load_prompts(config: ModelConfig) -> Prompts:
    """Load tokenizer, chat template and end tokens.

    Raises:
        ConfigError: the model is not found, or has no chat template.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(config.name, revision=config.revision)
        model_config = AutoConfig.from_pretrained(config.name, revision=config.revision)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.name: cannot read {config.name!r}: {error}") from error
    if config.chat_template is not None:
        try:
            tokenizer.chat_template = config.chat_template.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise ConfigError(f"model.chat_template: cannot read {config.chat_template}: {error}") from error
    if not tokenizer.chat_template:
        raise ConfigError(f"model.chat_template: {config.name} has no chat template of its own, set a jinja file")
    try:
        generation_ends = GenerationConfig.from_pretrained(config.name, revision=config.revision).eos_token_id
    except OSError:
        generation_ends = model_config.eos_token_id
    ends = set(generation_ends) if isinstance(generation_ends, list) else {generation_ends}
    ends.add(tokenizer.eos_token_id)
    vocabulary = tokenizer.get_vocab()
    ends.update(vocabulary.get(token) for token in _TURN_ENDS)
    end_tokens = frozenset(int(token) for token in ends if token is not None)
    if not end_tokens:
        raise ConfigError(f"model.name: {config.name} names no end-of-sequence token in its tokenizer or configuration")
    positions = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return Prompts(tokenizer, positions, end_tokens, _turn_end(tokenizer, end_tokens))


def load_model(config: ModelConfig) -> Any:
    """Load the weights for inference: on their device, frozen, in evaluation mode.

    Raises:
        ConfigError: the model or the device is not there.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            config.name, revision=config.revision, dtype=getattr(torch, config.dtype)
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.name: cannot load {config.name!r}: {error}") from error
    device = device_of(config)
    if device == "cpu" and config.dtype == "bfloat16" and not has_bfloat16():
        _warn_of_slow_dtype()
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"model.device: cannot use {config.device!r}: {error}") from error
    model.requires_grad_(False)
    # Cut to the positions that are needed, the hidden states are no longer contiguous; torch would then copy the whole
    # vocabulary projection once per row (on a CPU that takes longer than the rest of the model).
    model.get_output_embeddings().register_forward_pre_hook(_contiguous)
    return model.eval()


@functools.cache
def _warn_of_slow_dtype() -> None:
    """Once a process, however many models it loads."""
    logger.warning(
        "model.dtype: this processor has no bfloat16 instructions and computes it several times more slowly than "
        "float32; set float32"
    )


def fast_dtype(device: str = "auto") -> Literal["bfloat16", "float32"]:
    """The `model.dtype` that suits what `model.device` means on this machine."""
    import torch

    where = "cuda" if device == "auto" and torch.cuda.is_available() else device
    return "bfloat16" if where not in ("auto", "cpu") or has_bfloat16() else "float32"


def device_of(config: ModelConfig) -> str:
    """The torch device that `model.device` means on this machine."""
    import torch

    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _contiguous(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].contiguous(), *inputs[1:])


def _turn_end(tokenizer: Any, end_tokens: frozenset[int]) -> int:
    """The end token that the template writes after an assistant turn; the tokenizer's eos where it writes none."""
    answer = "the-assistant-said-this"
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": answer}]
    try:
        tail = str(tokenizer.apply_chat_template(turns, tokenize=False)).split(answer)[-1]
        written = [t for t in tokenizer(tail, add_special_tokens=False)["input_ids"] if t in end_tokens]
    except Exception:  # a template that refuses this conversation tells nothing about its turns
        written = []
    if written:
        return int(written[0])
    return int(tokenizer.eos_token_id) if tokenizer.eos_token_id is not None else min(end_tokens)
