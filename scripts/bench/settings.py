"""Settings of each server for each scenario.

Which are the fastest depends on the processor and on the file's type, so a comparison measures several of each server
and takes the best for each number. `bench_serve --search` measures all candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.servers import LLAMA_CPP_PYTHON, LLAMA_SERVER, OURS


@dataclass(frozen=True)
class Settings:
    """Named command-line arguments."""

    name: str
    args: tuple[str, ...] = ()


def _of(name: str, args: str) -> Settings:
    return Settings(name, tuple(args.split()))


# Ours is measured with its defaults, and with a slot for each client if there are several.
_DEFAULTS = (_of("defaults", ""),)
_OURS = {
    "eight": (_of("8 slots", "--parallel 8"), *_DEFAULTS),
    "sixteen": (_of("16 slots", "--parallel 16"), *_DEFAULTS),
    "shared": (_of("16 slots", "--parallel 16"), *_DEFAULTS),
}

# `--spec-type ngram-*` drafts from the text alone, as ours does. llama-server's draft models need a second file, so a
# comparison on one file does not use them. Names: common/arg.cpp.
_SPECULATION = {
    "ngram-simple": "--spec-type ngram-simple",
    "ngram-simple 4/8": "--spec-type ngram-simple --spec-ngram-simple-size-n 4 --spec-ngram-simple-size-m 8",
    "ngram-map-k 4/8": "--spec-type ngram-map-k --spec-ngram-map-k-size-n 4 --spec-ngram-map-k-size-m 8",
    "ngram-cache": "--spec-type ngram-cache",
    "ngram-mod": "--spec-default",
}


def _llama(base: str, name: str, *, speculation: bool) -> list[Settings]:
    found = [_of(name, base)]
    if speculation:
        found += [_of(f"{name}, {k}", f"{base} {v}") for k, v in _SPECULATION.items()]
    return found


# Whether plain attention or flash attention, llama-server's default, is faster depends on the processor and the type.
_PLAIN = "-fa off"
_ONE = f"-np 1 -c 4096 {_PLAIN}"
_REUSE = "--cache-reuse 32"
_LLAMA_SERVER: Mapping[str, tuple[Settings, ...]] = {
    "one": (
        _of("1 slot", "-np 1 -c 4096"),
        *_llama(_ONE, "1 slot, fa off", speculation=True),
    ),
    "eight": (
        _of("8 slots, split", "-np 8 -c 8192 --no-kv-unified --cache-ram 0"),
        _of("8 slots, split, fa off", f"-np 8 -c 8192 --no-kv-unified --cache-ram 0 {_PLAIN}"),
        _of("8 slots, unified", "-np 8 -c 8192 --kv-unified --cache-ram 0"),
        _of("8 slots, unified, RAM cache", "-np 8 -c 8192 --kv-unified"),
        _of("4 slots, unified", "-np 4 -c 8192 --kv-unified --cache-ram 0"),
        _of("8 slots, split, batch 512", "-np 8 -c 8192 --no-kv-unified --cache-ram 0 -b 512"),
    ),
    "sixteen": (
        _of("16 slots, split", "-np 16 -c 16384 --no-kv-unified --cache-ram 0"),
        _of("16 slots, split, fa off", f"-np 16 -c 16384 --no-kv-unified --cache-ram 0 {_PLAIN}"),
        _of("16 slots, unified", "-np 16 -c 16384 --kv-unified --cache-ram 0"),
    ),
    "sliding": (
        _of("defaults", ""),
        _of("1 slot, reuse 32", f"-np 1 -c 4096 {_REUSE}"),
        _of("1 slot, fa off, reuse 32", f"{_ONE} {_REUSE}"),
    ),
    "shared": (
        # A slot finds a prefix only in its own cache: with a slot for each client, each prefills the whole prompt.
        _of("1 slot, fa off", _ONE),
        _of("1 slot", "-np 1 -c 4096"),
        _of("2 slots, unified", "-np 2 -c 8192 --kv-unified"),
        _of("4 slots, unified", "-np 4 -c 32768 --kv-unified"),
        _of("16 slots, unified", "-np 16 -c 32768 --kv-unified"),
        _of("16 slots, split", "-np 16 -c 32768 --no-kv-unified"),
    ),
    "typing": (
        _of("defaults", ""),
        _of("1 slot", "-np 1 -c 4096"),
        *_llama(_ONE, "1 slot, fa off", speculation=True),
        _of("4 slots, unified", "-np 4 -c 8192 --kv-unified"),
        _of("4 slots, split", "-np 4 -c 8192 --no-kv-unified"),
        _of("1 slot, reuse 256", f"{_ONE} --cache-reuse 256"),
    ),
}

_PYTHON = "--n_ctx 4096"
_LLAMA_CPP_PYTHON: Mapping[str, tuple[Settings, ...]] = {
    "one": (
        _of("defaults", _PYTHON),
        _of("flash attention", f"{_PYTHON} --flash_attn true"),
        _of("lookup 10", f"{_PYTHON} --draft_model prompt-lookup-decoding"),
        _of("lookup 2", f"{_PYTHON} --draft_model prompt-lookup-decoding --draft_model_num_pred_tokens 2"),
    ),
    "eight": (_of("defaults", _PYTHON),),
    "sixteen": (_of("defaults", _PYTHON),),
    "sliding": (_of("defaults", _PYTHON),),
    # By default a prompt is compared with the previous request's prompt; --cache true also keeps older ones.
    "shared": (_of("defaults", _PYTHON), _of("cache", f"{_PYTHON} --cache true")),
    "typing": (
        _of("defaults", _PYTHON),
        _of("cache", f"{_PYTHON} --cache true"),
        _of("lookup 2", f"{_PYTHON} --draft_model prompt-lookup-decoding --draft_model_num_pred_tokens 2"),
    ),
}  # fmt: skip

_TABLES = {LLAMA_SERVER: _LLAMA_SERVER, LLAMA_CPP_PYTHON: _LLAMA_CPP_PYTHON}
_SAME = {"typing-debounced": "typing", "repository": "sliding", "beside": "one"}
# Number of settings of each server that a comparison measures.
_COMPARED = 2


def candidates(server: str, scenario: str) -> tuple[Settings, ...]:
    """Return the settings worth measuring, those that were the fastest on most machines first."""
    if server == OURS:
        return _OURS.get(scenario, _DEFAULTS)
    return _TABLES[server][_SAME.get(scenario, scenario)]


def compared(server: str, scenario: str) -> tuple[Settings, ...]:
    """Return the settings of a comparison without a search."""
    return candidates(server, scenario)[:_COMPARED]
