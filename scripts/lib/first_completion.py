#!/usr/bin/env python3
"""Wait for a server, show one completion and print next steps. Uses the standard library only.

first_completion.py URL PID
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

PROMPT = "def __repr__(self):\n    return "
NEXT = """
To see completions as you type, open this page:
    {url}

To ask for one from a shell:
    curl {url}/v1/completions -H 'Content-Type: application/json' \\
        -d '{{"prompt": "def get(self, key, default=None):\\n    try:\\n        return ", "max_tokens": 40}}'

To print the settings of an editor's plugin:
    .venv/bin/turbopilot editors                     # list the editors
    .venv/bin/turbopilot editors llama.vim --url {url}
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        value: dict[str, Any] = json.load(answer)
        return value


def main() -> int:
    url, pid = sys.argv[1], int(sys.argv[2])
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            break
        except urllib.error.HTTPError as e:
            if e.code != 503:  # 503: the model is still loading
                raise
        except OSError:
            pass
        if not alive(pid):
            print("error: the server ended; its output is above", file=sys.stderr)
            return 1
        time.sleep(0.1)
    answer = post(f"{url}/v1/completions", {"prompt": PROMPT, "max_tokens": 48, "temperature": 0})
    print(
        f"\nThe prompt, then a bar and the completion:\n\n{PROMPT}\u2502{answer['choices'][0]['text']}"
    )
    print(NEXT.format(url=url))
    return 0


if __name__ == "__main__":
    sys.exit(main())
