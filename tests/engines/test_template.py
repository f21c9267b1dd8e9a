"""Templates of well-known models render as transformers renders them; broken ones say so."""

from datetime import datetime

import pytest

from okno.core.errors import BadTemplate
from okno.core.request import Message
from okno.engines.template import FALLBACK_TEMPLATE, render

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
NOON = datetime(2026, 3, 5, 12, 0).timestamp()

CHAT = (Message("system", "Be brief."), Message("user", " Привет "), Message("assistant", "Да."))
ASKED = (*CHAT, Message("user", "Why?"))

LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}"
    "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_3_1 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""  # noqa: E501
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}{% endfor %}"
)
QWEN_2_5 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""  # noqa: E501
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
PHI_3 = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
SAIGA = """{% for message in messages %}
    {% if message.role == 'assistant' %}
        {% set role = 'bot' %}
    {% else %}
        {% set role = message.role %}
    {% endif %}
{{ bos_token + role }}
{{ message.content | trim + eos_token }}
{% endfor %}
{% if add_generation_prompt %}
{{ bos_token + 'bot' }}
{% endif %}
"""

EXPECTED = {
    "Llama 2": (
        LLAMA_2,
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n Привет [/INST] Да. </s><s>[INST] Why? [/INST]",
    ),
    "Llama 3": (
        LLAMA_3,
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nПривет<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nДа.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "Llama 3.1": (
        LLAMA_3_1,
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 05 Mar 2026\n\n"
        "Be brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nПривет<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nДа.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "Qwen 2.5": (
        QWEN_2_5,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Привет <|im_end|>\n"
        "<|im_start|>assistant\nДа.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "ChatML": (
        FALLBACK_TEMPLATE,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Привет <|im_end|>\n"
        "<|im_start|>assistant\nДа.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "Phi 3": (
        PHI_3,
        "<|system|>\nBe brief.<|end|>\n<|user|>\n Привет <|end|>\n<|assistant|>\nДа.<|end|>\n"
        "<|user|>\nWhy?<|end|>\n<|assistant|>\n",
    ),
    "Saiga": (
        SAIGA,
        "<s>system\nBe brief.</s>\n<s>user\nПривет</s>\n<s>bot\nДа.</s>\n"
        "<s>user\nWhy?</s>\n<s>bot\n",
    ),
}
EXPECTED_WITHOUT_SYSTEM = {
    "Mistral": (MISTRAL, "<s>[INST]  Привет  [/INST]Да.</s> [INST] Why? [/INST]"),
    "Gemma": (
        GEMMA,
        "<s><start_of_turn>user\nПривет<end_of_turn>\n<start_of_turn>model\nДа.<end_of_turn>\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
    ),
}


def write(template, messages=ASKED, generation=True, continue_last=False, now_s=NOON):
    return render(
        template,
        messages,
        special_tokens=TOKENS,
        add_generation_prompt=generation,
        continue_last=continue_last,
        now_s=now_s,
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_a_well_known_template_renders_as_its_model_was_trained(name):
    template, expected = EXPECTED[name]
    assert write(template) == expected


@pytest.mark.parametrize("name", EXPECTED_WITHOUT_SYSTEM)
def test_templates_without_a_system_role_render_and_refuse_one(name):
    template, expected = EXPECTED_WITHOUT_SYSTEM[name]
    assert write(template, ASKED[1:]) == expected
    with pytest.raises(BadTemplate, match=r"refused the messages: .*role") as caught:
        write(template)
    assert caught.value.info.param == "messages"


@pytest.mark.parametrize("name", [*EXPECTED, *EXPECTED_WITHOUT_SYSTEM])
@pytest.mark.parametrize("answer", ["The answer", "Сорок  два: ", "</s> {{ 1 }}"])
def test_continuing_the_last_message_ends_inside_it(name, answer):
    template = (EXPECTED | EXPECTED_WITHOUT_SYSTEM)[name][0]
    messages = (Message("user", "Go on."), Message("assistant", answer))
    text = write(template, messages, continue_last=True)
    closed = write(template, messages, generation=False)
    shown = answer if answer in closed else answer.rstrip()
    assert text == closed[: closed.rindex(shown) + len(shown)]


def test_a_last_message_that_the_template_does_not_show_cannot_be_continued():
    with pytest.raises(BadTemplate, match="cannot be continued"):
        write("{{ messages[0].content }}", CHAT, continue_last=True)


def test_without_a_generation_prompt_nothing_is_opened():
    assert write(FALLBACK_TEMPLATE, ASKED[:1], generation=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
    )


def test_the_environment_is_that_of_transformers():
    template = (
        "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}"
        "{{ tools is none and documents is none }}{{ missing }}{{ ['ж'] | tojson(indent=1) }}"
    )
    assert write(template) == ('{"role": "system", "content": "Be brief."}True[\n "ж"\n]')


def test_a_name_is_given_to_the_template_only_if_there_is_one():
    named = (Message("user", "hi", "Anna"), Message("user", "hi"))
    assert write("{% for m in messages %}{{ m.name }}|{% endfor %}", named) == "Anna||"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}", r"failed \(line 1\).*endfor"),
        ("ok\n{{ 1 + }}", r"\(line 2\)"),
        ("{{ messages[0].content + 1 }}", "concatenate"),
        ("{{ missing.field }}", "missing"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ messages[0] | nosuch }}", "nosuch"),
        ("{% include 'other' %}", "loader"),
    ],
)
def test_a_broken_template_says_what_is_wrong(template, reason):
    with pytest.raises(BadTemplate, match=reason):
        write(template)
