"""Templates of strangers: bounds that no template passes, and a process that comes and goes unnoticed."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers.texts import chat_templates as ct
from helpers.texts import hostile_templates as hostile
from veneer.data.encoded.chat import Encoder, template_of
from veneer.data.encoded.encoding import encode_all
from veneer.data.forms.record import Record
from veneer.data.templates.bounded_template import BoundedTemplate, TemplateRefused
from veneer.data.templates.escape import GuardedChat
from veneer.enums import BadRows, Overlong
from veneer.errors import DataError

CHAT = tuple({"role": role, "content": text} for role, text in (("user", "How?"), ("assistant", "So."))) * 2
SAMPLES = (0, 24, 49, 62, 94, 109)
"""Templates that pass the counts: by comparing, counting in lists, multiplying, searching in strings, recursion, and
while they are compiled."""


def template(source: str) -> BoundedTemplate:
    return BoundedTemplate(source, tokens={"bos_token": "<s>"}, specials=["<s>", "<|im_end|>"])


def process_of(one: BoundedTemplate) -> subprocess.Popen[bytes]:
    process = one._child._process
    assert process is not None
    return process


def test_there_are_ninety_templates_that_pass_the_counts_or_try() -> None:
    everything = [*hostile.COUNTED, *hostile.UNCOUNTED, *hostile.ACROSS, *hostile.SHOWN]
    assert len(set(everything)) == len(everything)
    assert len(hostile.UNCOUNTED) >= 90


@pytest.mark.scenario(number=33)
@pytest.mark.parametrize(
    "index", [pytest.param(index, marks=pytest.mark.slow if index in SAMPLES[1::2] else ()) for index in SAMPLES]
)
def test_a_template_that_takes_too_long_is_refused_for_good(index: int) -> None:
    one = template(hostile.UNCOUNTED[index])
    with pytest.raises(TemplateRefused, match=r"takes too long: more than 1\.5 seconds"):
        one.find(GuardedChat(CHAT, None, changed=False))
    start = time.process_time()
    with pytest.raises(TemplateRefused, match="takes too long"):
        one.render(CHAT)
    assert time.process_time() - start < 0.75, "it took as long as it may once more"


def test_a_template_that_is_slow_on_every_row_is_refused() -> None:
    """And the error is the template's, not one of each row; skipping bad rows does not go around it."""
    tokenizer = ct.tokenizer("chatml")
    tokenizer = type(tokenizer)(**{**vars_of(tokenizer), "chat_template": hostile.ACROSS[0]})
    records = [Record(f"f:{n}", CHAT) for n in range(200)]
    with pytest.raises(TemplateRefused, match="takes too long"):
        encode_all(records, tokenizer, max_length=None, overlong=Overlong.DROP, bad_rows=BadRows.SKIP)


def vars_of(tokenizer: object) -> dict[str, object]:
    fields = type(tokenizer).__dataclass_fields__  # type: ignore[attr-defined]
    return {name: getattr(tokenizer, name) for name, field in fields.items() if field.init}


@pytest.mark.scenario(number=33)
def test_memory_is_bounded() -> None:
    source = (
        "{% set ns = namespace(l=[]) %}"
        "{% for i in range(60) %}{% set ns.l = ns.l + ['a%09d' % i * 900000] %}{% endfor %}x"
    )
    with pytest.raises(DataError, match=r"out of memory|too much work|takes too long"):
        template(source).render(CHAT)


def test_a_source_that_is_far_too_long_is_refused() -> None:
    with pytest.raises(TemplateRefused, match="the chat template has 1,000,001 characters; 1,000,000 are allowed"):
        template("x" * 1_000_001)


@pytest.mark.parametrize("source", hostile.SHOWN)
def test_control_characters_of_a_template_are_not_shown(source: str) -> None:
    with pytest.raises(DataError) as error:
        template(source).render(CHAT)
    text = str(error.value)
    assert text.isprintable()
    assert len(text) < 1000


def test_a_template_that_is_no_jinja_is_refused() -> None:
    with pytest.raises(TemplateRefused, match="not valid Jinja: Unexpected end of template"):
        template("{% for m in messages %}").render(CHAT)
    with pytest.raises(TemplateRefused, match="not valid Jinja"):
        encode_all(
            [Record("f:1", CHAT)], broken_tokenizer(), max_length=None, overlong=Overlong.DROP, bad_rows=BadRows.SKIP
        )


def broken_tokenizer() -> object:
    tokenizer = ct.tokenizer("chatml")
    return type(tokenizer)(**{**vars_of(tokenizer), "chat_template": "{% for m in messages %}"})


def test_a_process_that_was_started_ahead_is_the_one_that_renders() -> None:
    one = template("x")
    one.start()
    first = process_of(one)
    assert one.render(CHAT) == "x"
    one.start()
    assert process_of(one) is first


def test_a_process_that_has_ended_is_replaced() -> None:
    one = template("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert one.render(CHAT) == "How?So.How?So."
    first = process_of(one)
    first.stdin.close()  # as when it had been idle: it ends with code 0
    first.wait()
    assert first.returncode == 0
    assert one.render(CHAT) == "How?So.How?So."
    assert process_of(one).pid != first.pid


def test_a_request_that_meets_the_end_of_the_process_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    one = template("{% for m in messages %}{{ m.content }}{% endfor %}")
    one.render(CHAT)
    first = process_of(one)
    first.stdin.close()
    first.wait()
    monkeypatch.setattr(type(one._child), "_alive", lambda child: True)  # it was, a moment before
    assert one.render(CHAT) == "How?So.How?So."
    assert process_of(one) is not first


def test_a_process_that_crashes_is_an_error() -> None:
    one = template("x")
    one.render(CHAT)
    process_of(one).kill()
    process_of(one).wait()
    assert one.render(CHAT) == "x"  # it had nothing to answer: another is started
    os.kill(process_of(one).pid, 19)
    ticket = one.send([(GuardedChat(CHAT, None, changed=False), ())])
    process_of(one).kill()
    with pytest.raises(TemplateRefused, match="was killed by the system"):
        one.receive(ticket)


def test_it_ends_with_its_template() -> None:
    one = template("x")
    one.render(CHAT)
    process = process_of(one)
    del one
    gc.collect()
    assert process.returncode is not None


def test_answers_that_are_given_up_do_not_reach_others() -> None:
    tokenizer = ct.tokenizer("chatml")
    encoder = Encoder(tokenizer, template_of(tokenizer))
    records = [
        Record(f"f:{n}", ({"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "x"}))
        for n in range(300)
    ]
    started = encoder.traces(iter(records))
    first = next(started)
    started.close()
    again = next(encoder.traces([records[7]]))
    assert not isinstance(first, DataError)
    assert not isinstance(again, DataError)
    assert "7" in again.text
    one = template_of(tokenizer)
    assert one is not None
    assert not one._child._answers
    one.render(CHAT)
    assert not one._child._forgotten


def test_threads_get_their_own_answers() -> None:
    one = template("{% for m in messages %}{{ m.content }}{% endfor %}")
    wrong: list[str] = []

    def ask(name: str) -> None:
        for number in range(50):
            text = f"{name} {number} "
            if one.render([{"role": "user", "content": text}]) != text:
                wrong.append(text)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_values_survive_the_way() -> None:
    """What JSON has, other alphabets, and what only Parquet has as its text."""
    messages = [{"role": "user", "content": "é 漢 \U0001f5fc \u2028", "n": [1, 2.5, True, None, 10**30]}]
    assert template("{{ messages[0].content }}{{ messages[0].n }}").render(messages) == (
        "é 漢 \U0001f5fc \u2028" + str(messages[0]["n"])
    )
    # Half a character survives it too, to be refused by its name.
    with pytest.raises(DataError, match="half a character"):
        template("{{ messages[0].content }}").render([{"role": "user", "content": "\ud800"}])
    assert template("{{ messages[0].x }}").render([{"role": "user", "x": Path("a/b")}]) == "a/b"


def test_a_set_is_written_in_one_order() -> None:
    """A difference of keys is a set, whose order follows the hashes of texts, which each process draws at random."""
    source = (
        "{{ ({'one': 1, 'two': 2, 'three': 3, 'four': 4, 'five': 5, 'six': 6}.keys() - ['two'] - ['six']) | join }}"
    )
    assert template(source).render(CHAT) == "fivefouronethree"


def test_a_script_without_a_guard_can_use_it(tmp_path: Path) -> None:
    """The child imports no main module, as multiprocessing's would, nor anything that lies in the working folder."""
    (tmp_path / "jinja2.py").write_text("raise SystemExit('imported')")
    (tmp_path / "script.py").write_text(
        "import sys, json\nsys.path.remove(sys.path[0])\n"
        "from veneer.data.templates.bounded_template import BoundedTemplate\n"
        "one = BoundedTemplate('{{ bos_token }}x', tokens={'bos_token': 'b'}, specials=[])\n"
        "print(one.render([]))\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "bx\n"
    assert done.stderr == ""


@pytest.mark.scenario(number=33)
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limits are the system's, and differ elsewhere")
def test_no_hostile_template_passes_the_bounds() -> None:
    """2 seconds of processor time and 512 MB each, the start of the process included, in twenty rows."""
    done = subprocess.run([sys.executable, "-c", ATTACK], capture_output=True, text=True, check=True)
    *attacks, peaks = map(json.loads, done.stdout.splitlines())
    assert len(attacks) == len(hostile.COUNTED) + len(hostile.UNCOUNTED) + len(hostile.ACROSS)
    assert [attack for attack in attacks if attack["seconds"] > 2.0] == []
    assert max(peaks) < 512 << 20


ATTACK = """
import json, resource, sys
sys.path.insert(0, 'tests')
from helpers.texts import hostile_templates as hostile
from veneer.data.templates.bounded_template import BoundedTemplate, TemplateRefused
from veneer.data.templates.escape import GuardedChat
from veneer.errors import DataError
def used():
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
turns = tuple({'role': role, 'content': text} for role, text in (('user', 'How?'), ('assistant', 'So.'))) * 2
for source in (*hostile.COUNTED, *hostile.UNCOUNTED, *hostile.ACROSS):
    before = used()
    try:
        one = BoundedTemplate(source, tokens={'bos_token': '<s>'}, specials=['<s>'])
        for _ in range(20):
            try:
                one.find(GuardedChat(turns, ({'name': 'f'},), changed=False))
            except TemplateRefused:
                raise
            except DataError:
                pass
    except TemplateRefused:
        pass
    one = None
    print(json.dumps({'template': source[-80:], 'seconds': used() - before}))
# Not ru_maxrss: it keeps what the process was that this one was started by.
own = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM'))
print(json.dumps([own * 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""
