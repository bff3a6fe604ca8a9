"""Visual Studio Code's plugins, as data."""

from __future__ import annotations

from typing import Final

from turbopilot.editors.entry import Editor, Setting
from turbopilot.editors.notes import COPILOT_SIGN_IN, COPILOT_TOKEN, NAMES_TOKENS

VSCODE: Final[tuple[Editor, ...]] = (
    Editor(
        name="fauxpilot",
        editor="VS Code",
        plugin="vscode-fauxpilot",
        route="/v1/engines/*/completions",
        evidence="replayed",
        settings=(
            Setting(
                "settings.json",
                "json",
                """
{
  "fauxpilot.token": <<key or dummy>>,
  "fauxpilot.engine": <<model>>,
  "fauxpilot.server": <<url/v1/engines>>
}
""",
            ),
        ),
        source="https://github.com/Venthe/vscode-fauxpilot/blob/master/package.json",
        read="1.1.9",
        stream=False,
        fim="none",
        cancel=False,
        auth=True,
        notes=(
            "The plugin that the original TurboPilot recommended. Its author has archived it and points to Twinny.",
            'The key is sent unless "fauxpilot.requestType" is "axios".',
        ),
        captured="vscode-fauxpilot",
    ),
    Editor(
        name="llama-vscode",
        editor="VS Code",
        plugin="llama.vscode",
        route="/infill",
        evidence="replayed",
        settings=(
            Setting(
                "settings.json",
                "json",
                """
{
  "llama-vscode.ask_install_llamacpp": false,
  "llama-vscode.api_key": <<key>>,
  "llama-vscode.endpoint": <<url>>
}
""",
            ),
        ),
        source="https://github.com/ggml-org/llama.vscode/blob/master/package.json",
        read="0.0.63, 2026-08-19",
        stream=False,
        fim="apart",
        cancel=False,
        auth=True,
        notes=(
            "A suggestion has half a second (`llama-vscode.t_max_predict_ms`) and comes as far as it got by then.",
            "A completion model that is selected in the plugin's menu goes before this setting.",
        ),
        captured="llama.vscode",
    ),
    Editor(
        name="continue",
        editor="VS Code, JetBrains",
        plugin="Continue",
        route="/v1/completions",
        evidence="replayed",
        settings=(
            Setting(
                "~/.continue/config.yaml",
                "yaml",
                """
name: TurboPilot
version: 0.0.1
schema: v1
models:
  - name: TurboPilot
    provider: openai
    model: <<model>>
    apiBase: <<url/v1>>
    apiKey: <<key>>
    useLegacyCompletionsEndpoint: true
    roles:
      - autocomplete
""",
            ),
            Setting(
                "~/.continue/config.json, which is deprecated and not read where config.yaml is",
                "json",
                """
{
  "tabAutocompleteModel": {
    "title": "TurboPilot",
    "provider": "openai",
    "model": <<model>>,
    "apiBase": <<url/v1>>,
    "apiKey": <<key>>,
    "useLegacyCompletionsEndpoint": true
  }
}
""",
            ),
        ),
        source="https://docs.continue.dev/customize/model-providers/top-level/openai, "
        "https://docs.continue.dev/yaml-migration",
        read="November 2026",
        stream=True,
        fim="tokens",
        cancel=True,
        auth=True,
        notes=(
            NAMES_TOKENS,
            "For a model that does not infill, add to the model in config.yaml: "
            '`promptTemplates: {autocomplete: "{{{prefix}}}"}`.',
        ),
        captured="continue",
    ),
    Editor(
        name="twinny",
        editor="VS Code",
        plugin="Twinny",
        route="/v1/completions",
        evidence="replayed",
        settings=(
            Setting(
                "Twinny's side bar, Providers, Add provider",
                "text",
                """
Label         TurboPilot
Type          FIM
FIM template  <<twinny template>>
Provider      lmstudio
Protocol      <<scheme>>
Model name    <<model>>
Hostname      <<host>>
Port          <<port>>
API path      <<path>>/v1/completions
API key       <<key>>
""",
            ),
        ),
        source="https://github.com/twinnydotdev/twinny/blob/main/src/extension/provider-options.ts",
        read="3.23.31, 2025-08-07",
        stream=True,
        fim="tokens",
        cancel=True,
        auth=True,
        notes=(
            NAMES_TOKENS,
            "The provider decides what is sent: `lmstudio` is OpenAI's completions. `openai-compatible` and `ollama` "
            "send Ollama's requests, for which the path is /api/generate.",
        ),
        captured="twinny",
    ),
    Editor(
        name="copilot",
        editor="VS Code",
        plugin="GitHub Copilot",
        route="/v1/engines/*/completions",
        evidence="documented",
        settings=(
            Setting(
                "the user's settings.json",
                "json",
                """
{
  "github.copilot.advanced": {
    "debug.overrideEngine": <<model>>,
    "debug.testOverrideProxyUrl": <<url>>,
    "debug.overrideProxyUrl": <<url>>
  }
}
""",
            ),
        ),
        source="https://github.com/microsoft/vscode/tree/main/extensions/copilot/src/extension/completions-core, "
        "https://github.com/fauxpilot/fauxpilot/blob/main/documentation/client.md",
        read="1e5a4a1, 2026",
        stream=True,
        fim="apart",
        cancel=True,
        auth=False,
        notes=(
            COPILOT_TOKEN,
            COPILOT_SIGN_IN,
            "New versions read these in the user's settings only, not in a workspace's.",
            "Chat is not led here, and VS Code's own models by key do not serve inline suggestions "
            "(https://github.com/microsoft/vscode/issues/318545).",
        ),
    ),
)
