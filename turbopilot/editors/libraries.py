"""Libraries and commands that talk to the server without an editor, as data."""

from __future__ import annotations

from typing import Final

from turbopilot.editors.entry import Editor, Setting

LIBRARIES: Final[tuple[Editor, ...]] = (
    Editor(
        name="curl",
        editor="the shell",
        plugin="curl",
        route="/v1/completions",
        evidence="tested",
        settings=(
            Setting(
                "a shell",
                "sh",
                """
curl <<url/v1/completions>> -H 'Content-Type: application/json' \\
    -H <<bearer>> \\
    -d <<request>>
""",
            ),
        ),
        source="https://curl.se/docs/manpage.html",
        read="7.88",
        stream=True,
        fim="apart",
        cancel=True,
        auth=True,
        notes=('With `-N` and `"stream": true` the tokens come as they are written.',),
    ),
    Editor(
        name="openai-python",
        editor="Python",
        plugin="openai",
        route="/v1/completions",
        evidence="tested",
        settings=(
            Setting(
                "pip install openai",
                "python",
                """
from openai import OpenAI

client = OpenAI(base_url=<<url/v1>>, api_key=<<key or dummy>>)
answer = client.completions.create(
    model=<<model>>, prompt="def fib(n):\\n", suffix="\\nprint(fib(10))\\n", max_tokens=60
)
print(answer.choices[0].text)
""",
            ),
        ),
        source="https://github.com/openai/openai-python/blob/main/README.md",
        read="3.54",
        stream=True,
        fim="apart",
        cancel=True,
        auth=True,
        captured="openai-python",
    ),
    Editor(
        name="openai-node",
        editor="Node.js",
        plugin="openai-node",
        route="/v1/completions",
        evidence="tested",
        settings=(
            Setting(
                "npm install openai",
                "javascript",
                """
import OpenAI from "openai";

const client = new OpenAI({ baseURL: <<url/v1>>, apiKey: <<key or dummy>> });
const answer = await client.completions.create({
  model: <<model>>, prompt: "def fib(n):\\n", suffix: "\\nprint(fib(10))\\n", max_tokens: 60,
});
console.log(answer.choices[0].text);
""",
            ),
        ),
        source="https://github.com/openai/openai-node/blob/master/README.md",
        read="6.49",
        stream=True,
        fim="apart",
        cancel=True,
        auth=True,
        captured="openai-node",
    ),
    Editor(
        name="llm",
        editor="the shell",
        plugin="llm",
        route="/v1/completions",
        evidence="tested",
        settings=(
            Setting(
                'extra-openai-models.yaml in the folder of: dirname "$(llm logs path)"',
                "yaml",
                """
- model_id: turbopilot
  model_name: <<model>>
  api_base: <<url/v1>>
  api_key_name: turbopilot<<with key>>
  completion: true
""",
            ),
            Setting("a shell, with a key", "sh", "llm keys set turbopilot --value <<key>>"),
            Setting("a shell", "sh", "llm -m turbopilot 'def fib(n):'"),
        ),
        source="https://llm.datasette.io/en/stable/other-models.html",
        read="0.32, 2026-08-05",
        stream=True,
        fim="none",
        cancel=True,
        auth=True,
        captured="llm",
    ),
)
