"""Chat templates: where Hugging Face puts them, and their names. Knows nothing of what they say."""

from __future__ import annotations

import string
from typing import Any, Final

from converters.tokenizer.files import SideFiles, read_text
from turbopilot.base.errors import CorruptCheckpoint

_LETTERS: Final = frozenset(string.ascii_letters + string.digits)


def chat_templates(side: SideFiles) -> dict[str, str]:
    """Name → template; "default" is the one that is used unasked.

    chat_template.jinja stands for tokenizer_config.json's `chat_template`, as in transformers; that is one
    text, or a list of named ones. additional_chat_templates/NAME.jinja are named by their files.

    Raises:
        CorruptCheckpoint: it is of another form, or not UTF-8.
    """
    file = side.folder / "chat_template.jinja"
    found: Any = read_text(file) if file.is_file() else side.config.get("chat_template")
    where = side.folder / "tokenizer_config.json"
    templates: list[tuple[Any, Any]] = []
    if isinstance(found, str):
        templates = [("default", found)]
    elif isinstance(found, list) and all(isinstance(entry, dict) for entry in found):
        templates = [(entry.get("name"), entry.get("template")) for entry in found]
    elif found is not None:
        raise CorruptCheckpoint(f"{where}: chat_template is neither a text nor a list of them")
    for path in sorted((side.folder / "additional_chat_templates").glob("*.jinja")):
        templates.append((path.stem, read_text(path)))
    named: dict[str, str] = {}
    for name, template in templates:
        if not isinstance(name, str) or not isinstance(template, str) or not name:
            raise CorruptCheckpoint(f"{where}: chat_template {name!r:.80} is not a named text")
        try:
            template.encode()
        except UnicodeEncodeError as e:
            raise CorruptCheckpoint(f"{where}: chat_template {name!r:.80} is not Unicode") from e
        # a GGUF key: gguf's own writer replaces other characters likewise
        named.setdefault("".join(c if c in _LETTERS else "_" for c in name), template)
    return {name: template for name, template in named.items() if template}
