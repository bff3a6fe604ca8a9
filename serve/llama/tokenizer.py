"""The `Tokenizer` of a model file, whether its weights are loaded or not."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from serve.llama.facts import chat_template, fim_layouts, model_name
from serve.settings import ModelOptions
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.model import LlamaModel, ModelParameters


class LlamaTokenizer:
    """Tokenizer of a model in llama.cpp. See `serve.decoder.Tokenizer` for the interface.

    Attributes:
        name: name of the model.
    """

    def __init__(self, model: LlamaModel, options: ModelOptions) -> None:
        self.fim = fim_layouts(model.header, options)
        header = model.header
        self.name = model_name(header)
        self.n_vocab = model.n_vocab
        self.adds_bos = model.adds_bos
        self.chat_template = chat_template(header, options.chat_template)
        spaced = header.metadata.get("tokenizer.ggml.add_space_prefix") is not False
        self.adds_space = model.is_sentencepiece and spaced
        self.bos, self.eos = model.token_text(model.bos), model.token_text(model.eos)
        # GPT-2 models have no begin-of-sequence token: a document begins after an end-of-text token.
        self.start_token = next((t for t in (model.bos, model.eos) if t >= 0), 0)
        # A FIM token begins a new document, so generating one ends this completion.
        framing = self.fim.ends if self.fim else frozenset()
        self.tokenize = model.tokenize
        # Cached because they are called for every token. Special tokens have no text, nor have ids of no token, for
        # which llama.cpp would abort: an upstream may send any.
        known = range(model.n_vocab)
        self.piece = cache(lambda t: model.piece(t) if t in known and t not in framing else b"")
        self.named_piece = partial(model.piece, special=True)
        self.is_eog = cache(lambda token: token in framing or model.is_eog(token))


class FileTokenizer(LlamaTokenizer):
    """Tokenizer of a model file without its weights; `close` frees it.

    Raises:
        CorruptModel: llama.cpp cannot read the file.
    """

    def __init__(self, path: Path, options: ModelOptions) -> None:
        self.model = LlamaModel(read_gguf(path), ModelParameters(vocab_only=True))
        try:
            super().__init__(self.model, options)
        except BaseException:
            self.model.close()
            raise

    def close(self) -> None:
        """Free the vocabulary. A second call does nothing."""
        self.model.close()
