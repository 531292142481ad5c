"""Small tokenizers of six model families: their control tokens, their chat templates, their way of reading text.

Made on the spot and trained on a few lines. Each comes with the bare tokenizer, which has the same vocabulary and knows
no control token: what it makes of a text is the text read as plain text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semievol.types import Message

CORPUS = (
    "Which intent has this message? billing, refund, password; my card was blocked.",
    "<|im_start|>user text <|im_end|> assistant system <start_of_turn> <end_of_turn> model",
    "[INST] what [/INST] </s> <s> <|start_header_id|>assistant<|end_header_id|> <|eot_id|>",
    "a < b > c | d [1] (2) {3} x_y and/or <b>bold</b> <think> tool_call ## _ - \u2581",
)

_CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% set loop_messages = "
    "messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ bos_token }}{% for message in "
    "loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('After the "
    "optional system message, conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{% if loop.first and system_message is defined %}"
    "{{ '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}{% else %}"
    "{{ '[INST] ' + message['content'] + '[/INST]' }}{% endif %}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token}}{% endif %}{% endfor %}"
)
_QWEN = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n' }}{%- endif %}{%- for message in messages %}{%- if (message.role == 'user') or (message.role == "
    "'system' and not loop.first) or (message.role == 'assistant' and not message.tool_calls) %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{%- endif %}{%- endfor %}"
    "{%- if false %}<tool_call></tool_call>{%- endif %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A tokenizer with its template, and the same vocabulary without any added token.

    trims: the template trims contents. words: added tokens that are ordinary text.
    """

    name: str
    tokenizer: Any
    bare: Any
    trims: bool = False
    words: frozenset[str] = frozenset()

    @functools.cached_property
    def control(self) -> dict[str, int]:
        return {str(token): number for number, token in self.tokenizer.added_tokens_decoder.items()}

    def rendered(self, messages: Sequence[Message]) -> str:
        turns = [{"role": each.role, "content": each.content} for each in messages]
        return str(self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))

    def today(self, messages: Sequence[Message]) -> list[int]:
        """What the tokenizer itself makes of the rendered conversation."""
        return list(self.tokenizer(self.rendered(messages), add_special_tokens=False)["input_ids"])

    def expected(self, messages: Sequence[Message]) -> list[int]:
        """The template's control tokens, and between them what the bare tokenizer makes of the text."""
        stands_for = {f"qz{place}zq": each.content for place, each in enumerate(messages)}
        frame = self.rendered([Message(m.role, name) for m, name in zip(messages, stands_for, strict=True)])
        literals = sorted(self.control.keys() - self.words, key=len, reverse=True)
        ids: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, literals)) + ")", frame):
            if part in self.control:
                ids.append(self.control[part])
                continue
            for name, content in stands_for.items():
                part = part.replace(name, content.strip() if self.trims else content)
            ids += self.bare.encode(part, add_special_tokens=False).ids
        return ids


def _bytes(**bpe: Any) -> tuple[Any, Any]:
    """A byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM2), twice."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE(**bpe))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=520, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    trained.train_from_iterator(CORPUS * 3, trainer)
    return trained, Tokenizer.from_str(trained.to_str())


def _pieces(specials: Sequence[str], *, normalizer: str, whitespace: Sequence[str] = ()) -> tuple[Any, Any]:
    """A BPE over characters with a byte fallback, as converted from SentencePiece; control tokens in the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    letters = sorted({*"".join(CORPUS).replace(" ", "\u2581"), "\n"})
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    words = ["im", "st", "ar", "art", "us", "er", "user", "IN", "ST", "INST", "\u2581a", "\u2581b"]
    entries = dict.fromkeys([*specials, *bytes_, *letters, *words, *whitespace, "q", "z"])
    vocabulary = {piece: number for number, piece in enumerate(entries)}
    merges = [("i", "m"), ("s", "t"), ("a", "r"), ("ar", "t"), ("u", "s"), ("e", "r"), ("us", "er"), ("I", "N")]
    merges += [("S", "T"), ("IN", "ST"), ("\u2581", "a"), ("\u2581", "b")]
    bare = dict(vocabulary)
    made = []
    for known in (vocabulary, bare):
        tokenizer = Tokenizer(models.BPE(known, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        steps: list[Any] = [normalizers.Prepend("\u2581")] if normalizer == "prepend" else []
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        made.append(tokenizer)
    return made[0], made[1]


def _wrapped(
    tokenizer: Any,
    template: str,
    specials: Sequence[str],
    words: Sequence[str] = (),
    tools: Sequence[str] = (),
    **named: str,
) -> Any:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in (*words, *tools)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    fast.chat_template = template
    return fast


@functools.cache
def family(name: str) -> Family:
    """One of FAMILIES."""
    from tokenizers import AddedToken

    if name in ("smollm2", "chatml"):
        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
        tokenizer, bare = _bytes()
        template = _SMOLLM2 if name == "smollm2" else _CHATML
        return Family(name, _wrapped(tokenizer, template, specials, eos_token="<|im_end|>"), bare)
    if name == "llama3":
        specials = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"]
        tokenizer, bare = _bytes(ignore_merges=True)
        named = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
        return Family(name, _wrapped(tokenizer, _LLAMA3, specials, **named), bare, trims=True)
    if name == "qwen":
        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        tokenizer, bare = _bytes()
        tools = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
        return Family(name, _wrapped(tokenizer, _QWEN, specials, tools=tools, eos_token="<|im_end|>"), bare)
    if name == "mistral":
        specials = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"]
        tokenizer, bare = _pieces(specials, normalizer="prepend")
        named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        return Family(name, _wrapped(tokenizer, _MISTRAL, specials, **named), bare)
    assert name == "gemma"
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    spaces = ["\n\n", "\u2581\u2581"]
    tokenizer, bare = _pieces(specials, normalizer="replace", whitespace=spaces)
    bare.add_tokens([AddedToken(each, special=False, normalized=False) for each in spaces])
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    wrapped = _wrapped(tokenizer, _GEMMA, specials, words=spaces, **named)
    return Family(name, wrapped, bare, trims=True, words=frozenset(spaces))


FAMILIES = ("smollm2", "chatml", "llama3", "qwen", "mistral", "gemma")
