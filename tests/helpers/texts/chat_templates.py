# ruff: noqa: E501
"""Chat templates in the manner of the model families, and tiny tokenizers that know their special tokens."""

from __future__ import annotations

import functools

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from veneer.io.tokenizer import Tokenizer, finish

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_NO_PROMPT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
LLAMA3 = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
# Later Mistral templates put the system prompt into the last question, which rewrites earlier turns.
MISTRAL_SYSTEM_LAST = (
    "{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}"
    "{% else %}{% set turns = messages %}{% endif %}{{ bos_token }}"
    "{% for m in turns %}{% if m.role == 'user' %}"
    "{% if system is defined and not (turns[loop.index0 + 1:] | selectattr('role', 'equalto', 'user') | list) %}"
    "[INST] {{ system }}\n\n{{ m.content }}[/INST]{% else %}[INST] {{ m.content }}[/INST]{% endif %}"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' }}
            {{- content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if call.function %}{% set call = call.function %}{% endif %}
            {{- '\\n<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# The generation prompt opens the thoughts, earlier turns have none.
THINKING = QWEN3.replace(
    "{{- '<|im_start|>assistant\\n' }}\n{%- endif", "{{- '<|im_start|>assistant\\n<think>\\n' }}\n{%- endif"
)
LLAMA31_TOOLS = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'ipython' if m.role == 'tool' else m.role %}"
    "<|start_header_id|>{{ role }}<|end_header_id|>\n\n"
    "{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}<|eom_id|>"
    "{% else %}{{ m.content | trim }}<|eot_id|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GENERATION = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Turns are opened by control tokens and closed by none.
UNCLOSED = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# Every turn is written as part of one summary: nothing tells where the assistant's words are.
UNMASKABLE = "{{ messages | map(attribute='content') | list | tojson }}"

TEMPLATES = {
    "chatml": CHATML,
    "chatml_no_prompt": CHATML_NO_PROMPT,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "mistral_system_last": MISTRAL_SYSTEM_LAST,
    "gemma": GEMMA,
    "qwen3": QWEN3,
    "thinking": THINKING,
    "llama31_tools": LLAMA31_TOOLS,
    "generation": GENERATION,
    "unclosed": UNCLOSED,
    "unmaskable": UNMASKABLE,
}
SPECIALS = {
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama3": ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]"],
    "gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    "unclosed": ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"],
}
BOS_EOS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "mistral": ("<s>", "</s>"),
    "gemma": ("<bos>", "<eos>"),
    "unclosed": (None, "<|endoftext|>"),
}
FAMILY = {
    "chatml": "chatml",
    "chatml_no_prompt": "chatml",
    "llama3": "llama3",
    "mistral": "mistral",
    "mistral_system_last": "mistral",
    "gemma": "gemma",
    "qwen3": "chatml",
    "thinking": "chatml",
    "llama31_tools": "llama3",
    "generation": "chatml",
    "unclosed": "unclosed",
    "unmaskable": "chatml",
}
CORPUS = [
    "You are a helpful assistant. What is the capital of France? The capital of France is Paris.",
    "system user assistant model tool ipython name arguments function content role think",
    "How many claims were opened in March? There were forty two claims, and the answer is 42.",
    " ".join(chr(code) for code in range(33, 127)) + "\n",
    "the quick brown fox jumps over the lazy dog  and  again,\n\nand a new line\n\tindented 0123456789",
]


@functools.cache
def backend(family: str) -> tokenizers.Tokenizer:
    """Byte-level BPE; for "mistral" and "gemma" a SentencePiece-like BPE with ▁ and byte fallback."""
    specials = [AddedToken(token, special=True, normalized=False) for token in SPECIALS[family]]
    if family in ("mistral", "gemma"):
        byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
        made = tokenizers.Tokenizer(models.BPE(unk_token=None, byte_fallback=True, fuse_unk=True))
        steps = [normalizers.Replace(" ", "▁")]
        if family == "mistral":
            steps.insert(0, normalizers.Prepend("▁"))
        made.normalizer = normalizers.Sequence(steps)
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=byte_tokens, show_progress=False)
        made.train_from_iterator(CORPUS, trainer)
        made.add_special_tokens(specials)
        return made
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=450, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    made.add_special_tokens(specials)
    made.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>", "<tool_call>")])
    if family == "llama3":
        made.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", made.token_to_id("<|begin_of_text|>"))]
        )
    return made


def tokenizer(name: str | None, family: str = "chatml") -> Tokenizer:
    """The veneer tokenizer with the template `name` (None: without a template)."""
    family = family if name is None else FAMILY[name]
    bos, eos = BOS_EOS[family]
    names = {"bos_token": bos, "eos_token": eos, "pad_token": None, "unk_token": None}
    copy = tokenizers.Tokenizer.from_str(backend(family).to_str())
    return finish(copy, names, {} if name is None else {"default": TEMPLATES[name]}, {})


@functools.cache
def oracle(name: str) -> PreTrainedTokenizerFast:
    """transformers' tokenizer with the same vocabulary and template."""
    bos, eos = BOS_EOS[FAMILY[name]]
    made = PreTrainedTokenizerFast(tokenizer_object=backend(FAMILY[name]), bos_token=bos, eos_token=eos)
    made.chat_template = TEMPLATES[name]
    return made
