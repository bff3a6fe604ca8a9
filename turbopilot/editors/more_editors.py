"""Emacs, Zed and language servers for any editor, as data."""

from __future__ import annotations

from typing import Final

from turbopilot.editors.entry import Editor, Setting
from turbopilot.editors.notes import COPILOT_SIGN_IN, COPILOT_TOKEN, NAMES_TOKENS

OTHERS: Final[tuple[Editor, ...]] = (
    Editor(
        name="minuet-el",
        editor="Emacs",
        plugin="minuet.el",
        route="/v1/completions",
        evidence="documented",
        settings=(
            Setting(
                "init.el",
                "elisp",
                """
(use-package minuet
  :config
  (setq minuet-provider 'openai-fim-compatible)
  (setq minuet-n-completions 1)
  (plist-put minuet-openai-fim-compatible-options :end-point <<url/v1/completions>>)
  (plist-put minuet-openai-fim-compatible-options :name "TurboPilot")
  <<no key>>(plist-put minuet-openai-fim-compatible-options :api-key "TERM")
  (plist-put minuet-openai-fim-compatible-options :api-key (lambda () <<key>>))
  (plist-put minuet-openai-fim-compatible-options :model <<model>>)
  (minuet-set-optional-options minuet-openai-fim-compatible-options :max_tokens 64))
""",
            ),
        ),
        source="https://github.com/milanglacier/minuet-ai.el/blob/main/README.md",
        read="0.7.1, 2026-04-18",
        stream=True,
        fim="apart",
        cancel=True,
        auth=True,
        notes=(
            "`:api-key` is the name of an environment variable, or a function; TERM stands for any that is set.",
        ),
    ),
    Editor(
        name="copilot-el",
        editor="Emacs",
        plugin="copilot.el",
        route="/v1/engines/*/completions",
        evidence="replayed",
        settings=(
            Setting(
                "init.el",
                "elisp",
                """
(setopt copilot-lsp-settings
        '(:github (:copilot (:advanced (:debug.overrideEngine <<model>>
                                        :debug.testOverrideProxyUrl <<url>>
                                        :debug.overrideProxyUrl <<url>>)))))
""",
            ),
        ),
        source="https://github.com/copilot-emacs/copilot.el/blob/main/README.md",
        read="2026-07-07",
        stream=True,
        fim="apart",
        cancel=True,
        auth=False,
        notes=(
            COPILOT_TOKEN,
            COPILOT_SIGN_IN,
            "What is replayed is the requests of Copilot's language server, which it runs; how settings reach that is "
            "documented, these settings are not.",
        ),
        captured="copilot-language-server",
    ),
    Editor(
        name="zed",
        editor="Zed",
        plugin="Edit Prediction",
        route="/v1/completions",
        evidence="documented",
        settings=(
            Setting(
                "settings.json",
                "json",
                """
{
  "edit_predictions": {
    "provider": "open_ai_compatible_api",
    "open_ai_compatible_api": {
      "api_url": <<url/v1/completions>>,
      "model": <<model>>,
      "prompt_format": <<zed format>>,
      "max_output_tokens": 64
    }
  }
}
""",
            ),
            Setting(
                "the environment that Zed is started from, with a key",
                "sh",
                "export ZED_OPEN_AI_COMPATIBLE_EDIT_PREDICTION_API_KEY=<<key>>",
            ),
        ),
        source="https://zed.dev/docs/ai/edit-prediction, https://github.com/zed-industries/zed/pull/58771",
        read="June 2026",
        stream=False,
        fim="tokens",
        cancel=None,
        auth=True,
        notes=(
            NAMES_TOKENS,
            "`prompt_format` is `star_coder`, `qwen`, `code_llama`, `deepseek_coder`, `codestral` or `glm`; a slash at "
            "the end of `api_url` breaks it.",
        ),
    ),
    Editor(
        name="lsp-ai",
        editor="Helix, and any with a language server client",
        plugin="lsp-ai",
        route="/v1/completions",
        evidence="documented",
        settings=(
            Setting(
                "Helix: ~/.config/helix/languages.toml",
                "toml",
                """
[language-server.lsp-ai]
command = "lsp-ai"

[language-server.lsp-ai.config.memory]
file_store = {}

[language-server.lsp-ai.config.models.turbopilot]
type = "open_ai"
completions_endpoint = <<url/v1/completions>>
model = <<model>>
auth_token = <<key or dummy>>
max_requests_per_second = 4.0

[language-server.lsp-ai.config.completion]
model = "turbopilot"

[language-server.lsp-ai.config.completion.parameters]
max_context = 1024
max_tokens = 64

[language-server.lsp-ai.config.completion.parameters.fim]
start = <<fim prefix>>
middle = <<fim suffix>>
end = <<fim middle>>

[[language]]
name = "python"
language-servers = ["pylsp", "lsp-ai"]
""",
            ),
        ),
        source="https://github.com/SilasMarvin/lsp-ai/blob/main/crates/lsp-ai/src/config.rs, "
        "https://github.com/SilasMarvin/lsp-ai/tree/main/examples/helix",
        read="0.7, 09f602e",
        stream=False,
        fim="tokens",
        cancel=None,
        auth=True,
        notes=(
            "Leave out the part `fim` for a model that does not infill; its three are written around the text as they "
            "stand there.",
        ),
    ),
)
