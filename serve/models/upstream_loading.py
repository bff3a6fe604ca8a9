"""Loading of a model that upstreams compute: its tokenizer here, and the connections to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from serve.models.loading import model_info
from serve.models.pool import ModelPool
from serve.models.pooled_model import PooledModel
from serve.models.service import CompletionService
from serve.prompt.next_edit import recognize
from serve.settings import ServerOptions
from serve.upstream.upstream_runner import UpstreamRunner
from serve.upstream.upstream_set import UpstreamSet
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.footprint import default_context


def make_upstream_pool(
    options: ServerOptions, notify: Callable[[str], None]
) -> tuple[ModelPool, UpstreamSet]:
    """Return a pool of one model, which upstreams compute, and the upstreams, which may change at any time.

    They are asked once. If none answers, the server starts nevertheless, and refuses completions until one does.

    Args:
        options: all settings of the server; those for computing a model are not used.
        notify: called with status lines.

    Raises:
        InvalidInput: the model file cannot be read, or does not support an option.
    """
    from serve.llama.facts import trained_context
    from serve.llama.tokenizer import FileTokenizer

    tokenizer = FileTokenizer(options.model_file, options.model)
    given = options.upstream
    upstreams = UpstreamSet(
        given.addresses, tokenizer, key=given.key or "", model=given.model or "", n_ctx=options.model.ctx,
        slots=options.model.n_seq,
    )  # fmt: skip
    upstreams.check()
    header = read_gguf(options.model_file)
    n_ctx = options.model.ctx or upstreams.n_ctx or default_context(trained_context(header))
    info = model_info(header, options, n_ctx, max(1, upstreams.n_slots))
    named = recognize(info.name, options.model_file.stem, options.model_name)
    text = replace(
        options.text, next_edit=options.text.next_edit or options.model.next_edit or named
    )
    runner = UpstreamRunner(
        upstreams,
        tokenizer,
        n_ctx,
        max_queue=options.limits.max_queue,
        random_seed=options.random_seed,
    )

    def load() -> CompletionService:
        _report(notify, info.name, n_ctx, tokenizer.fim.chosen.text if tokenizer.fim else "")
        for upstream in upstreams.statuses:
            state = (
                f"{upstream.engine}, {upstream.slots} at once"
                if upstream.engine
                else upstream.reason
            )
            notify(f"upstream {upstream.name} ({state})")
        upstreams.start()
        service = CompletionService(runner, tokenizer, info, options.limits, text, tokenizer.close)
        service.upstreams = upstreams
        return service

    return ModelPool([PooledModel(info, 0, load)], memory=1), upstreams


def _report(notify: Callable[[str], None], name: str, n_ctx: int, layout: str) -> None:
    notify(f"model    {name} (tokenizer only)")
    notify(f"context  {n_ctx} tokens")
    notify(f"FIM      {layout or 'none: only the text before the cursor is used'}")
