# ruff: noqa: E501
"""The chat formats of families that `chat_templates` lacks, each rebuilt in a few lines from its public description.

They are not the families' own files: tools, dates and default system texts are left out. What is kept is what a loss
mask depends on: the tokens around turns, where white space goes, what becomes of a system turn and of thoughts.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from helpers.texts.chat_templates import CORPUS
from veneer.io.tokenizer import Tokenizer, finish


@dataclass(frozen=True)
class Family:
    """A family's format."""

    template: str
    specials: tuple[str, ...]
    bos: str | None
    eos: str
    closing: str
    """What stands at the end of each assistant turn that trains, behind its words."""
    last: str | None = None
    """The same of the last turn, where that is another one."""
    before: str = ""
    """What stands before the words of a turn and trains with them."""
    system: bool = True
    """Whether it takes a system turn."""
    end_token: bool = True
    """Whether one special token closes every assistant turn."""
    stop: str | None = None
    """The token that generation stops at, where `closing` has more than one."""


def _turns(user: str, assistant: str, system: str, prompt: str, start: str = "") -> str:
    """A template that writes each turn by its role; %s stands for the content."""

    def part(text: str) -> str:
        before, _, after = text.partition("%s")
        return f"{{{{ {before!r} + m['content'] + {after!r} }}}}"

    return (
        f"{{{{ {start!r} }}}}{{% for m in messages %}}{{% if m['role'] == 'user' %}}{part(user)}"
        f"{{% elif m['role'] == 'assistant' %}}{part(assistant)}{{% else %}}{part(system)}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {prompt!r} }}}}{{% endif %}}"
    )


LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n'"
    " + (first if loop.first else '') + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL_V7 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}"
    "{% elif m['role'] == 'user' %}{{ '[INST]' + m['content'] + '[/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% else %}{% set said = m['content'] %}{% if '</think>' in said %}{% set said = said.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + said + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
HARMONY = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] + ('<|return|>' if loop.last else '<|end|>') }}"
    "{% else %}{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
QWEN3_EMPTY_THOUGHTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}"
)
HARMONY_WITH_SYSTEM = "{{ '<|start|>system<|message|>Be good.<|end|>' }}" + HARMONY
TULU = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' + m['content'] + eos_token }}{% if not loop.last %}{{ '\n' }}{% endif %}"
    "{% else %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
COMMAND_R = "<|START_OF_TURN_TOKEN|><|%s_TOKEN|>%%s<|END_OF_TURN_TOKEN|>"

FAMILIES = {
    "zephyr": Family(
        _turns("<|user|>\n%s</s>\n", "<|assistant|>\n%s</s>\n", "<|system|>\n%s</s>\n", "<|assistant|>\n"),
        ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"), "<s>", "</s>", "</s>",
    ),
    "llama2": Family(LLAMA2, ("<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>", " </s>", before=" "),
    "llama4": Family(
        _turns(
            "<|header_start|>user<|header_end|>\n\n%s<|eot|>", "<|header_start|>assistant<|header_end|>\n\n%s<|eot|>",
            "<|header_start|>system<|header_end|>\n\n%s<|eot|>", "<|header_start|>assistant<|header_end|>\n\n",
            "<|begin_of_text|>",
        ),
        ("<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>"), "<|begin_of_text|>", "<|eot|>", "<|eot|>",
    ),
    "gemma3": Family(
        GEMMA3, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", "<end_of_turn>"
    ),
    "mistral-v7": Family(
        MISTRAL_V7, ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), "<s>", "</s>", "</s>"
    ),
    "phi3": Family(
        _turns("<|user|>\n%s<|end|>\n", "<|assistant|>\n%s<|end|>\n", "<|system|>\n%s<|end|>\n", "<|assistant|>\n"),
        ("<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), "<s>", "<|endoftext|>", "<|end|>",
    ),
    "phi4": Family(
        _turns(
            "<|im_start|>user<|im_sep|>%s<|im_end|>", "<|im_start|>assistant<|im_sep|>%s<|im_end|>",
            "<|im_start|>system<|im_sep|>%s<|im_end|>", "<|im_start|>assistant<|im_sep|>",
        ),
        ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>"), None, "<|im_end|>", "<|im_end|>",
    ),
    "command-r": Family(
        _turns(
            COMMAND_R % "USER", COMMAND_R % "CHATBOT", COMMAND_R % "SYSTEM", "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
            "<BOS_TOKEN>",
        ),
        (
            "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
            "<|SYSTEM_TOKEN|>",
        ),
        "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
    ),
    "deepseek": Family(
        DEEPSEEK, ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
    ),
    "gpt-oss": Family(
        HARMONY, ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"), None, "<|return|>", "<|end|>",
        last="<|return|>", before="<|channel|>final<|message|>", end_token=False,
    ),
    "gpt-oss-system": Family(
        HARMONY_WITH_SYSTEM, ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"), None, "<|return|>",
        "<|end|>", last="<|return|>", before="<|channel|>final<|message|>", end_token=False,
    ),
    "command-r7b": Family(
        _turns(
            COMMAND_R % "USER", (COMMAND_R % "CHATBOT").replace("%s", "<|START_RESPONSE|>%s<|END_RESPONSE|>"),
            COMMAND_R % "SYSTEM", "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>", "<BOS_TOKEN>",
        ),
        (
            "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
            "<|SYSTEM_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>",
        ),
        "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", stop="<|END_RESPONSE|>",
    ),
    "qwen3-empty-thoughts": Family(
        QWEN3_EMPTY_THOUGHTS, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), None, "<|im_end|>", "<|im_end|>"
    ),
    "granite": Family(
        _turns(
            "<|start_of_role|>user<|end_of_role|>%s<|end_of_text|>\n",
            "<|start_of_role|>assistant<|end_of_role|>%s<|end_of_text|>\n",
            "<|start_of_role|>system<|end_of_role|>%s<|end_of_text|>\n", "<|start_of_role|>assistant<|end_of_role|>",
        ),
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"), "<|end_of_text|>", "<|end_of_text|>",
        "<|end_of_text|>",
    ),
    "tulu": Family(
        TULU, ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"), "<|endoftext|>", "<|endoftext|>",
        "<|endoftext|>",
    ),
    "falcon3": Family(
        _turns("<|user|>\n%s\n", "<|assistant|>\n%s<|endoftext|>\n", "<|system|>\n%s\n", "<|assistant|>\n"),
        ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"), None, "<|endoftext|>", "<|endoftext|>",
    ),
    "vicuna": Family(
        _turns("USER: %s ", "ASSISTANT: %s</s>", "%s ", "ASSISTANT:", "<s>"), ("<s>", "</s>"), "<s>", "</s>", "</s>",
        before=" ",
    ),
    "alpaca": Family(
        _turns("### Instruction:\n%s\n\n", "### Response:\n%s</s>\n\n", "%s\n\n", "### Response:\n"), ("<s>", "</s>"),
        "<s>", "</s>", "</s>",
    ),
    "openchat": Family(
        _turns(
            "GPT4 Correct User: %s<|end_of_turn|>", "GPT4 Correct Assistant: %s<|end_of_turn|>", "%s<|end_of_turn|>",
            "GPT4 Correct Assistant:", "<s>",
        ),
        ("<s>", "</s>", "<|end_of_turn|>"), "<s>", "<|end_of_turn|>", "<|end_of_turn|>", before=" ",
    ),
    "exaone": Family(
        _turns("[|user|]%s\n", "[|assistant|]%s[|endofturn|]\n", "[|system|]%s[|endofturn|]\n", "[|assistant|]"),
        ("[BOS]", "[|user|]", "[|assistant|]", "[|system|]", "[|endofturn|]"), "[BOS]", "[|endofturn|]", "[|endofturn|]",
    ),
    "kimi": Family(
        _turns(
            "<|im_user|>user<|im_middle|>%s<|im_end|>", "<|im_assistant|>assistant<|im_middle|>%s<|im_end|>",
            "<|im_system|>system<|im_middle|>%s<|im_end|>", "<|im_assistant|>assistant<|im_middle|>",
        ),
        ("[BOS]", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>", "<|im_end|>"), "[BOS]",
        "<|im_end|>", "<|im_end|>",
    ),
    "internlm2": Family(
        _turns(
            "<|im_start|>user\n%s<|im_end|>\n", "<|im_start|>assistant\n%s<|im_end|>\n",
            "<|im_start|>system\n%s<|im_end|>\n", "<|im_start|>assistant\n", "<s>",
        ),
        ("<s>", "</s>", "<|im_start|>", "<|im_end|>"), "<s>", "</s>", "<|im_end|>",
    ),
    "jamba": Family(
        _turns(
            "<|bom|><|user|> %s<|eom|>", "<|bom|><|assistant|> %s<|eom|>", "<|bom|><|system|> %s<|eom|>",
            "<|bom|><|assistant|>", "<|startoftext|>",
        ),
        ("<|startoftext|>", "<|bom|>", "<|eom|>", "<|user|>", "<|assistant|>", "<|system|>"), "<|startoftext|>",
        "<|eom|>", "<|eom|>", before=" ",
    ),
    "seed-oss": Family(
        _turns(
            "<seed:bos>user\n%s<seed:eos>", "<seed:bos>assistant\n%s<seed:eos>", "<seed:bos>system\n%s<seed:eos>",
            "<seed:bos>assistant\n",
        ),
        ("<seed:bos>", "<seed:eos>"), "<seed:bos>", "<seed:eos>", "<seed:eos>",
    ),
    "glm4": Family(
        _turns("<|user|>\n%s", "<|assistant|>\n%s", "<|system|>\n%s", "<|assistant|>\n", "[gMASK]<sop>"),
        ("[gMASK]", "<sop>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"), None, "<|user|>", "",
        end_token=False,
    ),
    "hunyuan": Family(
        _turns(
            "<｜hy_User｜>%s", "<｜hy_Assistant｜>%s<｜hy_place▁holder▁no▁2｜>", "%s<｜hy_place▁holder▁no▁3｜>",
            "<｜hy_Assistant｜>", "<｜hy_begin▁of▁sentence｜>",
        ),
        (
            "<｜hy_begin▁of▁sentence｜>", "<｜hy_User｜>", "<｜hy_Assistant｜>", "<｜hy_place▁holder▁no▁2｜>",
            "<｜hy_place▁holder▁no▁3｜>",
        ),
        "<｜hy_begin▁of▁sentence｜>", "<｜hy_place▁holder▁no▁2｜>", "<｜hy_place▁holder▁no▁2｜>",
    ),
}  # fmt: skip


@functools.cache
def backend(name: str) -> tokenizers.Tokenizer:
    """A byte-level BPE with the family's special tokens."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=450, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    made.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in FAMILIES[name].specials])
    return made


def tokenizer(name: str) -> Tokenizer:
    """veneer's tokenizer with the family's template."""
    family = FAMILIES[name]
    names = {"bos_token": family.bos, "eos_token": family.eos, "pad_token": None, "unk_token": None}
    return finish(tokenizers.Tokenizer.from_str(backend(name).to_str()), names, {"default": family.template}, {})


@functools.cache
def oracle(name: str) -> PreTrainedTokenizerFast:
    """transformers' tokenizer with the same vocabulary and template."""
    family = FAMILIES[name]
    made = PreTrainedTokenizerFast(tokenizer_object=backend(name), bos_token=family.bos, eos_token=family.eos)
    made.chat_template = family.template
    return made
