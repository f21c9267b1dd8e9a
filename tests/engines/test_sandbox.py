"""Hostile templates and constraints cost one error, never the process that asked."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from okno.core.errors import BadConstraint, BadRequest, BadTemplate, EngineFailed
from okno.core.request import Constraint, Message
from okno.engines.sandbox import Sandbox
from okno.engines.sandbox_child import WORN_OUT_BYTES
from okno.engines.template import FALLBACK_TEMPLATE

ASKED = (Message("user", "Привет"),)
ANSWERED = "<|im_start|>user\nПривет<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(template_timeout_s=2.0) as shared:
        yield shared


@pytest.fixture(scope="module")
def impatient():
    with Sandbox(template_timeout_s=1.0) as own:
        yield own


def write(sandbox, template=FALLBACK_TEMPLATE, messages=ASKED, **more):
    return sandbox.render(template, messages, special_tokens={"bos_token": "<s>"}, **more)


def children():
    return psutil.Process().children()


# Templates --------------------------------------------------------------------------------------

INJECTIONS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').popen('id').read() }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__.os.system('id') }}",
    "{{ namespace.__init__.__globals__.os.environ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ strftime_now.__self__.__class__.__subclasses__() }}",
    "{{ (messages|attr('__class__')) | attr('__mro__') }}",
    "{{ messages | map(attribute='__class__') | list | first | attr('mro') }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.__dict__ }}",
    "{{ messages.append({'role': 'system', 'content': 'obey'}) }}",
    "{{ messages[0].update({'content': 'other'}) }}",
    "{{ messages[0].__setitem__('content', 'other') }}",
    "{% import 'os' as os %}{{ os.system('id') }}",
    "{% include '/etc/passwd' %}",
    "{{ request.application.__globals__ }}",
    "{{ get_flashed_messages.__globals__ }}",
]


@pytest.mark.parametrize("template", INJECTIONS)
def test_an_injection_is_refused_or_gives_nothing(sandbox, template):
    try:
        text = write(sandbox, template)
    except BadTemplate:
        text = ""
    assert not any(leak in text for leak in ("class", "uid=", "root:", "PATH", "module", "obey"))
    assert write(sandbox) == ANSWERED


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(1000000000) %}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{{ ['a' * 1000] * 10000000000 }}",
        "{{ 'a' * 100000000 }}",
        "{% set ns = namespace(s='a') %}{% for i in range(60) %}"
        "{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "-" * 20000 + "1 }}",
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
        "{{ '%1000000000d' % 1 }}",
        "{{ lipsum(n=99999, min=9999) }}",
    ],
)
def test_a_resource_bomb_is_an_error(impatient, template):
    with pytest.raises(BadTemplate):
        write(impatient, template)
    assert write(impatient) == ANSWERED


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 10 ** (10 ** 9) }}",
    ],
)
def test_what_takes_too_long_is_ended_and_says_the_bound(impatient, template):
    with pytest.raises(BadTemplate, match="did not finish within 1 s") as caught:
        write(impatient, template)
    assert caught.value.info.details["limit_s"] == 1
    assert write(impatient) == ANSWERED


def test_a_prompt_may_be_large_but_not_endless(sandbox):
    messages = (Message("user", "я" * 1_000_000),)
    assert write(sandbox, messages=messages).count("я") == 1_000_000
    with pytest.raises(BadTemplate, match="more than 16,777,216 characters"):
        write(sandbox, "{{ messages[0].content * 20 }}", messages)


def test_only_an_assistant_message_can_be_continued(sandbox):
    with pytest.raises(BadRequest, match="Only an assistant"):
        write(sandbox, continue_last=True)
    told = (*ASKED, Message("assistant", "Ну"))
    assert write(sandbox, messages=told, continue_last=True).endswith("assistant\nНу")


# Constraints ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("json_object"),
        Constraint("json_schema", '{"type": "object", "properties": {"a": {"type": "integer"}}}'),
        Constraint("regex", r"\d{4}-\d\d"),
        Constraint("grammar", 'root ::= "yes" | "no"'),
        Constraint("grammar", 'start: "yes" | "no"'),
    ],
)
def test_an_ordinary_constraint_passes_the_trial(sandbox, constraint):
    sandbox.check_constraint(constraint)


def rule_chain(length):
    rules = [f'r{i} ::= r{i + 1} "a"' for i in range(length)]
    return "\n".join(["root ::= r0", *rules, f'r{length} ::= "b"'])


LARK_CHAIN = "\n".join(["start: r0", *(f'r{i}: r{i + 1} "a"' for i in range(3000)), 'r3000: "b"'])
HOSTILE = [
    Constraint("regex", "(a+)+b"),
    Constraint("regex", "a{1,1000000000}"),
    Constraint("regex", "(" * 30_000 + "a" + ")" * 30_000),
    Constraint("regex", "(a|b|" * 20_000 + "c" + ")" * 20_000),
    Constraint("json_schema", "[" * 60_000),
    Constraint("json_schema", '{"items":' * 5_000 + "{}" + "}" * 5_000),
    Constraint("json_schema", '{"allOf":[' * 50 + "{}" + "]}" * 50 + "}"),
    Constraint("json_schema", '{"not": {}}'),
    Constraint("grammar", "root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000),
    Constraint("grammar", "start: " + "(" * 30_000 + '"a"' + ")" * 30_000),
    Constraint("grammar", 'root ::= "a"{1,1000000000}'),
    Constraint("grammar", LARK_CHAIN),  # overflows the Rust compiler's stack
]


@pytest.mark.parametrize("constraint", HOSTILE, ids=lambda c: f"{c.kind} {c.source[:20]}")
def test_a_hostile_constraint_is_refused(sandbox, constraint):
    with pytest.raises(BadConstraint):
        sandbox.check_constraint(constraint)
    assert write(sandbox) == ANSWERED


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("grammar", rule_chain(2500)),
        Constraint("regex", "((a{1,1000}){1,1000}){1,1000}"),
        Constraint("regex", "a?" * 20_000 + "a" * 20_000),
        Constraint("regex", ".*" + "(a|b)" * 10 + ".{1000}"),
        Constraint("json_schema", '{"enum": [' + ",".join(f'"{i}"' for i in range(8000)) + "]}"),
        Constraint("json_schema", '{"$ref": "#"}'),
    ],
    ids=lambda c: f"{c.kind} {c.source[:20]}",
)
def test_a_heavy_constraint_passes_or_is_refused_and_the_sandbox_goes_on(impatient, constraint):
    with contextlib.suppress(BadConstraint):
        impatient.check_constraint(constraint)
    assert write(impatient) == ANSWERED


# The process ------------------------------------------------------------------------------------


def kill_when_at_work(pid):
    """SIGKILL once the process has computed for a while since now: it is in the middle of a job."""
    process = psutil.Process(pid)
    before_s = process.cpu_times().user
    while process.cpu_times().user < before_s + 0.1:
        pass
    process.kill()


def test_a_child_killed_at_work_costs_one_error_and_is_replaced():
    with Sandbox(template_timeout_s=60.0) as own:
        write(own)
        pid = own.pid
        killer = threading.Thread(target=kill_when_at_work, args=[pid])
        killer.start()
        endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        with pytest.raises(BadTemplate, match="SIGKILL"):
            write(own, endless)
        killer.join()
        assert own.pid != pid
        assert write(own) == ANSWERED


def test_a_large_parent_does_not_wear_its_child_out():
    held = b"x" * (WORN_OUT_BYTES + 2**20)
    with Sandbox() as own:
        pid = own.pid
        assert [write(own) for _ in range(3)] == 3 * [ANSWERED]
        assert own.pid == pid
    assert held


def test_a_child_that_is_killed_while_it_starts_costs_nothing():
    with Sandbox(template_timeout_s=60.0) as own:
        pid = own.pid
        os.kill(pid, signal.SIGSTOP)  # it cannot become ready, whenever the kill comes
        killer = threading.Timer(0.1, os.kill, [pid, signal.SIGKILL])
        killer.start()
        assert write(own) == ANSWERED
        killer.join()
        assert own.pid != pid


def test_a_child_that_can_never_start_is_said_with_what_to_run(monkeypatch, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(broken))
    with Sandbox() as own, pytest.raises(EngineFailed, match=r"exit status 3.*sandbox_child"):
        write(own)


def test_a_child_that_died_while_idle_costs_nothing(impatient):
    write(impatient)
    os.kill(impatient.pid, signal.SIGKILL)
    os.waitid(os.P_PID, impatient.pid, os.WEXITED | os.WNOWAIT)
    assert write(impatient) == ANSWERED


def test_the_child_has_none_of_our_environment_and_files(impatient, monkeypatch):
    monkeypatch.setenv("OKNO_API_KEY", "secret")
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    with Sandbox() as own:
        write(own)
        child = psutil.Process(own.pid)
        assert set(child.environ()) <= {"PYTHONPATH", "TZ", "SYSTEMROOT", "LC_CTYPE"}
        assert child.num_fds() <= 6
        assert "llama" not in " ".join(m.path for m in child.memory_maps())
    os.close(read_end)
    os.close(write_end)


def test_jobs_from_many_threads_do_not_mix(sandbox):
    def ask(i):
        return write(sandbox, messages=(Message("user", f"number {i}"),))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(200)))
    assert all(f"number {i}<" in answer for i, answer in enumerate(answers))


def test_closing_ends_the_child_and_refuses_work():
    before = len(children())
    own = Sandbox()
    write(own)
    own.close()
    own.close()
    assert len(children()) == before
    with pytest.raises(EngineFailed, match="closed"):
        write(own)


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_failures_leave_no_descriptor_and_no_process_behind(impatient):
    write(impatient)
    before = (psutil.Process().num_fds(), len(children()))
    for _ in range(3):
        with pytest.raises(BadTemplate):
            write(impatient, ENDLESS)
    assert (psutil.Process().num_fds(), len(children())) == before


def test_memory_is_bounded_and_a_child_that_grew_large_is_replaced(impatient):
    with pytest.raises(BadTemplate, match="too much memory"):
        write(impatient, "{{ ('a' * 1500000000) | length }}")
    pid = impatient.pid
    assert write(impatient, "{{ ('a' * 400000000) | length }}") == "400000000"
    assert write(impatient) == ANSWERED
    assert impatient.pid != pid


PARENT = """
import sys, threading
from okno.core.request import Message
from okno.engines.sandbox import Sandbox
sandbox = Sandbox(template_timeout_s=60)
sandbox.render("x", [Message("user", "x")], special_tokens={})
endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
if sys.argv[1] == "busy":
    ask = lambda: sandbox.render(endless, [Message("user", "x")], special_tokens={})
    threading.Thread(target=ask, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_the_child_dies_with_its_parent(state):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout.readline() == b"ready\n"
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.communicate()
    assert not psutil.wait_procs([child], timeout=10)[1]


def test_a_limit_is_never_above_the_one_there_is() -> None:
    """A user under `ulimit -t` may lower it further, not raise it."""
    code = (
        "import resource as r; from okno.engines.asked_process import limit_resource as limit\n"
        "r.setrlimit(r.RLIMIT_DATA, (1 << 30, 1 << 30))\n"
        "limit(r.RLIMIT_DATA, 4 << 30); print(*r.getrlimit(r.RLIMIT_DATA))\n"
        "limit(r.RLIMIT_DATA, 1 << 29); print(*r.getrlimit(r.RLIMIT_DATA))\n"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert said == [f"{1 << 30} {1 << 30}", f"{1 << 29} {1 << 29}"]
