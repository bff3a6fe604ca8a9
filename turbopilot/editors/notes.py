"""What is true of several plugins. Data."""

from __future__ import annotations

from typing import Final

NAMES_TOKENS: Final = (
    "It writes the model's tokens for fill-in-the-middle itself, and guesses them from the model's name: give yours "
    "(`--model qwen2.5-coder`). A name that says nothing means StarCoder's tokens, which the bundled model has too; "
    "for SantaCoder and CodeGen take a plugin that sends the text before and after the cursor apart."
)
COPILOT_TOKEN: Final = (
    "Copilot sends a live token of your GitHub account with every request. Point it only at a server that is your "
    "own. TurboPilot needs no token, keeps none and never logs one."
)
COPILOT_SIGN_IN: Final = (
    "It still asks GitHub whether you may use Copilot, and it sends its own token instead of a key, so that "
    "`serve --api-key` shuts it out. The newest language server takes an answer only with a header that "
    "`serve --copilot-request-id` adds."
)
