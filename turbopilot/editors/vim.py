"""Vim's and Neovim's plugins, as data."""

from __future__ import annotations

from typing import Final

from turbopilot.editors.entry import Editor, Setting
from turbopilot.editors.notes import COPILOT_SIGN_IN, COPILOT_TOKEN

VIM: Final[tuple[Editor, ...]] = (
    Editor(
        name="llama-vim",
        editor="Vim, Neovim",
        plugin="llama.vim",
        route="/infill",
        evidence="tested",
        settings=(
            Setting(
                "~/.vimrc, before the plugin is loaded",
                "vim",
                """
let g:llama_config = {
    \\ 'api_key': <<key>>,
    \\ 'endpoint_fim': <<url/infill>>,
    \\ }
""",
            ),
            Setting(
                "Neovim: init.lua, before the plugin is loaded",
                "lua",
                """
vim.g.llama_config = {
  api_key = <<key>>,
  endpoint_fim = <<url/infill>>,
}
""",
            ),
        ),
        source="https://github.com/ggml-org/llama.vim/blob/master/doc/llama.txt",
        read="a1c8e6e, 2026-01-31",
        stream=False,
        fim="apart",
        cancel=True,
        auth=True,
        notes=(
            "Older versions call it `endpoint`; newer ones still take that, and say so.",
            "A suggestion has one second (`t_max_predict_ms`) and comes as far as it got by then.",
        ),
        captured="llama.vim",
    ),
    Editor(
        name="minuet",
        editor="Neovim",
        plugin="minuet-ai.nvim",
        route="/v1/completions",
        evidence="replayed",
        settings=(
            Setting(
                "init.lua",
                "lua",
                """
require("minuet").setup({
  provider = "openai_fim_compatible",
  n_completions = 1,
  provider_options = {
    openai_fim_compatible = {
      name = "TurboPilot",
      <<no key>>api_key = "TERM",
      api_key = function() return <<key>> end,
      end_point = <<url/v1/completions>>,
      model = <<model>>,
      stream = true,
      optional = { max_tokens = 64, top_p = 0.9 },
    },
  },
})
""",
            ),
        ),
        source="https://github.com/milanglacier/minuet-ai.nvim/blob/main/README.md",
        read="0.10.0, 2026-08-07",
        stream=True,
        fim="apart",
        cancel=True,
        auth=True,
        notes=(
            "`api_key` is the name of an environment variable, or a function; TERM stands for any that is set.",
            "Leave its `template` alone: the server frames the text after the cursor for the model, which "
            "llama.cpp's own server does not.",
        ),
        captured="minuet-ai.nvim",
    ),
    Editor(
        name="copilot-vim",
        editor="Vim, Neovim",
        plugin="copilot.vim",
        route="/v1/engines/*/completions",
        evidence="replayed",
        settings=(
            Setting(
                "~/.vimrc",
                "vim",
                """
let g:copilot_settings = {
    \\ 'advanced': {
    \\   'debug.overrideEngine': <<model>>,
    \\   'debug.testOverrideProxyUrl': <<url>>,
    \\   'debug.overrideProxyUrl': <<url>>,
    \\ }}
""",
            ),
        ),
        source="https://github.com/github/copilot.vim/blob/release/autoload/copilot/client.vim",
        read="a09c07a",
        stream=True,
        fim="apart",
        cancel=True,
        auth=False,
        notes=(
            COPILOT_TOKEN,
            COPILOT_SIGN_IN,
            "What is replayed is its language server's requests; that these settings reach it is read from the source. "
            "`g:copilot_proxy` is something else: a proxy on the way to GitHub.",
        ),
        captured="copilot.vim agent",
    ),
)
