"""How models were asked in training whose files do not say it themselves, in Jinja as transformers' files have it."""

from __future__ import annotations

from typing import Final

# Source: the prompt of WizardLM's src/inference_wizardcoder.py. What came before is repeated in the same form.
WIZARDCODER: Final = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}"
    "{% else %}Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.{% endif %}{{ '\n\n' }}"
    "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n### Response:"
    "{% elif m.role == 'assistant' %}{{ m.content + '\n\n' }}{% endif %}{% endfor %}"
)

# Source: the card of stabilityai/stablecode-instruct-alpha-3b. It knows no system's message: that leads the first
# instruction.
STABLECODE_INSTRUCT: Final = (
    "{% for m in messages %}{% if m.role == 'system' %}###Instruction\n{{ m.content }}\n"
    "{% elif m.role == 'user' %}"
    "{% if not (loop.previtem is defined and loop.previtem.role == 'system') %}###Instruction\n{% endif %}"
    "{{ m.content }}###Response\n"
    "{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
)
