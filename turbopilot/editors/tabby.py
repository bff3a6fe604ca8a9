"""Tabby's plugins, all of which run tabby-agent, as data."""

from __future__ import annotations

from typing import Final

from turbopilot.editors.entry import Editor, Setting

AGENT_CONFIG: Final = Setting(
    "~/.tabby-client/agent/config.toml",
    "toml",
    """
[server]
endpoint = <<url>>
token = <<key>>

[anonymousUsageTracking]
disable = true
""",
)
ONLY_COMPLETION: Final = (
    "Tabby's chat asks for more of Tabby's server than completions, and stays off."
)

TABBY: Final[tuple[Editor, ...]] = (
    Editor(
        name="tabby",
        editor="VS Code, JetBrains, Vim, Neovim",
        plugin="Tabby",
        route="/v1/completions (segments)",
        evidence="tested",
        settings=(AGENT_CONFIG,),
        source="https://tabby.tabbyml.com/docs/extensions/configurations/",
        read="179fa6e; the VS Code extension's 1.27",
        stream=False,
        fim="apart",
        cancel=True,
        auth=True,
        notes=(
            "What is tested is tabby-agent, which all of Tabby's plugins run, and not the plugins.",
            "What is set in the editor goes before this file: leave the server's address empty there, or set the same "
            "(VS Code: the command Tabby: Connect to Server).",
            ONLY_COMPLETION,
        ),
        captured="tabby-agent",
    ),
    Editor(
        name="tabby-agent",
        editor="Helix, and any with a language server client",
        plugin="tabby-agent",
        route="/v1/completions (segments)",
        evidence="tested",
        settings=(
            AGENT_CONFIG,
            Setting(
                "Helix: ~/.config/helix/languages.toml",
                "toml",
                """
[language-server.tabby]
command = "npx"
args = ["tabby-agent", "--stdio"]

[[language]]
name = "python"
language-servers = ["pylsp", "tabby"]
""",
            ),
        ),
        source="https://github.com/TabbyML/tabby/blob/main/clients/tabby-agent/README.md",
        read="7f69f31, 1.8",
        stream=False,
        fim="apart",
        cancel=True,
        auth=True,
        notes=(
            "What is tested is the agent, and not Helix. Its README has the same for coc.nvim and for Emacs' lsp-mode.",
            "Before version 1.7 the command is `tabby-agent --lsp --stdio`.",
        ),
        captured="tabby-agent",
    ),
)
