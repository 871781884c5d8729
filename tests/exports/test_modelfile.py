from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import TEMPLATE, chat_tokenizer
from veneer.exports.modelfile import frame_of, go_template, write_modelfile
from veneer.io.tokenizer import from_directory


def templated(tmp_path: Path, template: str, **settings: Any) -> Any:
    folder = tmp_path / "tokenizer"
    folder.mkdir(exist_ok=True)
    chat_tokenizer().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return from_directory(folder)


def test_a_template_becomes_a_frame_and_a_go_template(tmp_path: Path) -> None:
    tokenizer = templated(tmp_path, TEMPLATE, eos_token="<|im_end|>")
    frame = frame_of(tokenizer)
    assert frame is not None
    assert go_template(frame) == (
        '{{ range .Messages }}{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        "{{ end }}{{ end }}<|im_start|>assistant\n"
    )
    write_modelfile(tmp_path, tokenizer, "./m.gguf")
    text = (tmp_path / "Modelfile").read_text()
    assert text == f'FROM ./m.gguf\nTEMPLATE """{go_template(frame)}"""\nPARAMETER stop "<|im_end|>"\n'


def test_a_default_system_message_is_kept(tmp_path: Path) -> None:
    template = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + TEMPLATE
    frame = frame_of(templated(tmp_path, template))
    assert frame is not None
    assert frame.opening == "<|im_start|>system\nBe kind.<|im_end|>\n"
    assert '{{ if eq (index .Messages 0).Role "system" }}' in go_template(frame)
    conversation = [{"role": "system", "content": "Hush."}, {"role": "user", "content": "Hi"}]
    assert frame.render(conversation) == (
        "<|im_start|>system\nHush.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ strftime_now('%d') }}" + TEMPLATE,
        "{% for m in messages %}{{ loop.index }}: {{ m['content'] }}\n{% endfor %}",
        "{{ messages | length }}" + TEMPLATE,
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",
        "{{ raise_exception('no') }}",
        TEMPLATE.replace("message['content']", "message['content'] | trim"),
        TEMPLATE.replace("message['content']", "message['content'].split('</think>')[-1].lstrip('\n')"),
    ],
)
def test_a_template_that_does_more_is_left_out(template: str, tmp_path: Path) -> None:
    tokenizer = templated(tmp_path, template)
    assert frame_of(tokenizer) is None
    write_modelfile(tmp_path, tokenizer, "base", adapter="./a.gguf")
    assert 'TEMPLATE "' not in (tmp_path / "Modelfile").read_text()
    assert "# The chat template does more" in (tmp_path / "Modelfile").read_text()


def test_the_token_that_tokenizing_adds_is_not_said_again(tmp_path: Path) -> None:
    frame = frame_of(templated(tmp_path, "{{ bos_token }}" + TEMPLATE, bos_token="<|endoftext|>"))
    assert frame is not None
    assert frame.opening == "<|endoftext|>"
    assert go_template(frame).startswith("<|endoftext|>{{ range")
    assert go_template(frame, bos="<|endoftext|>").startswith("{{ range")


def test_text_that_means_something_to_go_or_to_a_modelfile_is_printed_as_it_is(tmp_path: Path) -> None:
    quotes = "{{ '\"\"\"' }}{{ '{' ~ '{ x }' ~ '}' }}"
    frame = frame_of(templated(tmp_path, quotes + TEMPLATE))
    assert frame is not None
    assert frame.opening == '"""{{ x }}'
    template = go_template(frame)
    assert '"""' not in template
    assert template.startswith('{{ "\\"\\"\\"" }}{{ "{{" }} x }}')


def test_a_brace_and_a_quote_do_not_run_into_what_stands_behind_them(tmp_path: Path) -> None:
    """`{{{ .Content }}` is no Go, and four quotes end a Modelfile's text one too early."""
    template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ '{' }}{{ m['content'] }}}\n{% endfor %}"
        '{% if add_generation_prompt %}"{% endif %}'
    )
    frame = frame_of(templated(tmp_path, template))
    assert frame is not None
    written = go_template(frame)
    assert '<user>{{ "{" }}{{ .Content }}}' in written
    assert written.endswith('{{ end }}{{ end }}{{ "\\"" }}')
