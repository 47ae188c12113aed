"""Chat templates that behave as those of known models do, written with the special tokens of the tiny tokenizers."""

from collections.abc import Sequence

from pipeline.chat import Turn

_BEGIN = "{% if add_generation_prompt %}<turn>model\n{% endif %}"
_TURN = "<turn>{{ m['role'] }}\n{{ %s }}<eos>\n"


def _turns(content: str) -> str:
    return "{% for m in messages %}" + _TURN % content + "{% endfor %}"


_ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
)
KNOWN = {
    # Trims, answers as "model", has BOS of its own, wants roles to alternate.
    "gemma3": "{{ bos_token }}" + _ALTERNATE + "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "<turn>{{ role }}\n{{ m['content'] | trim }}<eos>\n{% endfor %}" + _BEGIN,
    # Trims, has headers, always begins an answer.
    "llama3": "{% for m in messages %}"
    "{% set content = '<turn>' + m['role'] + '<turn>\n\n' + m['content'] | trim + '<eos>' %}"
    "{% if loop.first %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "<turn>assistant<turn>\n\n",
    # A system's header with today's date.
    "llama3.1": "{{ bos_token }}{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}"
    "<turn>system\n\nToday Date: {{ date_string }}\n\n<eos>" + _turns("m['content'] | trim") + _BEGIN,
    # Thinks, unless it is told not to; forgets what was thought in turns before.
    "qwen3": "{% for m in messages %}{% set content = m['content'] %}"
    "{% if m['role'] == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<turn>{{ m['role'] }}\n{{ content }}<eos>\n{% endfor %}{% if add_generation_prompt %}<turn>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    # Opens a block of thinking.
    "r1": _turns("m['content']") + "{% if add_generation_prompt %}<turn>assistant\n<think>\n{% endif %}",
    # Answers stand in a channel, which the model is to choose.
    "harmony": "<turn>system<pad>You are.<eos>{% for m in messages %}<turn>{{ m['role'] }}"
    "{% if m['role'] == 'assistant' %}<pad>final{% endif %}<pad>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant{% endif %}",
    # A default message of the system.
    "smollm2": "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<turn>system\nYou are a helpful bridge.<eos>\n{% endif %}" + _TURN % "m['content']" + "{% endfor %}" + _BEGIN,
    # No generation prompt at all, and roles that must alternate.
    "mistral": "{{ bos_token }}" + _ALTERNATE + "{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
    # Nothing but the message, and trimmed at one end.
    "right": "{{ bos_token }}{{ messages[-1]['content'].rstrip() }}",
    "left": "{{ bos_token }}{{ messages[-1]['content'].lstrip() }}\n",
}  # fmt: skip
TRIM = {"gemma3": "both", "llama3": "both", "llama3.1": "both", "right": "right", "left": "left"}

ODD = {  # a template, and what is said of it
    "repeat": (_turns("m['content'] + m['content']") + _BEGIN, "repeats the message (2 times)"),
    "upper": (_turns("m['content'] | upper") + _BEGIN, "rewrites a message: of 'Article: Oil"),
    "lower": (_turns("m['content'] | lower") + _BEGIN, "rewrites the message"),
    "title": (_turns("m['content'] | title") + _BEGIN, "rewrites the message"),
    "escape": (_turns("m['content'] | e") + _BEGIN, "rewrites a message"),
    "json": (_turns("m['content'] | tojson") + _BEGIN, "the message"),
    "truncate": (_turns("m['content'][:500]") + _BEGIN, "cuts a message of"),
    "truncate far": (_turns("m['content'][:50000]") + _BEGIN, "to 50,000"),
    "drop": ("<turn>user\n<eos>" + _BEGIN, "drops the message"),
    "drop the long": (
        "{% if messages[0]['content'] | length < 3000 %}" + _turns("m['content']") + "{% endif %}" + _BEGIN,
        "writes other words around a message",
    ),
    "some sizes": (
        "{% for m in messages %}{% if 200 < m['content'] | length < 400 %}long: {% endif %}{{ m['content'] }}"
        "{% endfor %}" + _BEGIN,
        "rewrites a message: of 'Article: long",
    ),
    "condition": (
        _turns("'Hi' if 'secret word' in m['content'] else m['content']") + _BEGIN,
        "rewrites a message",
    ),
    "replace": (_turns("m['content'] | replace('\\n\\n', '\\n')") + _BEGIN, "rewrites a message"),
    "thoughts": (_turns("m['content'].split('</think>')[-1]") + _BEGIN, "rewrites a message"),
    "some blanks": (_turns("m['content'].strip('\\n')") + _BEGIN, "takes some white space from a message"),
    "words": (_turns("m['content'].split() | join(' ')") + _BEGIN, "rewrites a message"),
    "raise": ("{{ raise_exception('it does not chat') }}", "refuses the conversation: it does not chat"),
    "system first": (
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('a system message must come first') }}{% endif %}",
        "a system message must come first",
    ),
    "python": ("{{ messages[0]['content'] + 1 }}", "refuses the conversation: can only concatenate"),
    "parts": ("{{ messages[0]['content'][0]['text'][0] }}", "refuses the conversation"),
    "syntax": ("{% if %}", "cannot be read"),
    "no prompt": (_turns("m['content']"), "writes no generation prompt, and begins an answer with '<turn>assistant'"),
}  # fmt: skip


def conversation(message: str, turns: Sequence[Turn] = ()) -> list[dict[str, str]]:
    """Solved examples as turns, and an item's message behind them."""
    messages = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    return [*messages, {"role": "user", "content": message}]
