"""Sources of the options of `turbopilot serve` and their precedence: command line, variables, file, default."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from serve.http.request_log import prompts_log
from serve.model_choice import ModelChoice, NamedModel
from serve.models.loading import make_pool
from serve.pool_options import PoolOptions
from serve.settings import IDLE_SECONDS, CacheOptions, ServerOptions
from turbopilot.app.served_models import with_models
from turbopilot.base.errors import InvalidInput
from turbopilot.base.progress import Reporter
from turbopilot.cli import app
from turbopilot.commands.serve_flags import PANELS

Serve = Callable[..., ServerOptions]
Fail = Callable[..., str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ServerOptions]]:
    found: list[ServerOptions] = []
    monkeypatch.setattr("serve.http.server.serve", lambda options, *_: found.append(options))
    yield found
    prompts_log.setLevel(logging.CRITICAL)


@pytest.fixture
def serve(served: list[ServerOptions], demo_gguf: Path) -> Serve:
    """Function that runs `serve` and returns the server's options; the model is the bundled one by default."""

    def run(*arguments: str, config: str = "", model: bool = True, **env: str) -> ServerOptions:
        if config:
            Path("turbopilot.toml").write_text(config)
            arguments = ("--config", "turbopilot.toml", *arguments)
        if model:
            arguments = (*arguments, str(demo_gguf))
        done = CliRunner().invoke(app, ["serve", *arguments], env=env)
        assert done.exit_code == 0, done.stderr
        return served.pop()

    return run


@pytest.fixture
def fails(served: list[ServerOptions]) -> Fail:
    """Function that runs `serve`, expects it to fail, and returns stderr."""

    def run(*arguments: str, config: str | bytes = "", **env: str) -> str:
        if config:
            raw = config if isinstance(config, bytes) else config.encode()
            Path("turbopilot.toml").write_bytes(raw)
            arguments = ("--config", "turbopilot.toml", *arguments)
        done = CliRunner().invoke(app, ["serve", *arguments], env=env)
        assert done.exit_code == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert served == []
        return " ".join(done.stderr.split())

    return run


def test_command_line_overrides_environment_and_file(serve: Serve) -> None:
    sources: dict[str, Any] = {
        "config": "threads = 1", "THREADS": "2", "TURBOPILOT_THREADS": "3",
    }  # fmt: skip
    assert serve().model.threads is None
    assert serve(config=sources["config"]).model.threads == 1
    assert serve(config=sources["config"], THREADS="2").model.threads == 2
    assert serve(**sources).model.threads == 3
    assert serve("-t", "4", **sources).model.threads == 4
    assert serve(config="threads = 1", THREADS="", TURBOPILOT_THREADS="").model.threads == 1


def test_variables_of_the_original_image_are_read(serve: Serve, demo_gguf: Path) -> None:
    options = serve(
        model=False, THREADS="5", MODEL=str(demo_gguf), MODEL_TYPE="codegen", GPU_LAYERS="7", BATCHSIZE="64",
    )  # fmt: skip
    assert options.model_file == demo_gguf
    assert options.model.threads == 5
    assert options.model.devices.n_gpu_layers == 7
    assert options.model.n_batch == 64


# For each option by key: value in a file, value in a variable, accessor, expected result.
OPTIONS: dict[str, tuple[str, str, Callable[[ServerOptions], object], object]] = {
    "port": ("1234", "1234", lambda o: o.port, 1234),
    "host": ('"::1"', "::1", lambda o: o.host, "::1"),
    "threads": ("3", "3", lambda o: o.model.threads, 3),
    "n-gpu-layers": ("3", "3", lambda o: o.model.devices.n_gpu_layers, 3),
    "gpu-margin": ('"1GiB"', "1GiB", lambda o: o.model.devices.wish.margin, 2**30),
    "gpu-memory": ('"8GB,6GB"', "8GB,6GB", lambda o: o.model.devices.memory, (8 * 10**9, 6 * 10**9)),
    "device": ('["CUDA0", "CUDA1"]', "CUDA0,CUDA1", lambda o: o.model.devices.names, ("CUDA0", "CUDA1")),
    "main-gpu": ("1", "1", lambda o: o.model.devices.main_gpu, 1),
    "split-mode": ('"row"', "row", lambda o: o.model.devices.split_mode, "row"),
    "tensor-split": ('"3, 1.5"', "3,1.5", lambda o: o.model.devices.tensor_split, (3.0, 1.5)),
    "override-tensor": ('"exps=CPU"', "exps=CPU", lambda o: o.model.devices.tensor_overrides, (("exps", "CPU"),)),
    "no-mmap": ("true", "1", lambda o: o.model.main_memory.maps, False),
    "mlock": ("true", "1", lambda o: o.model.main_memory.locks, True),
    "numa": ('"isolate"', "isolate", lambda o: o.model.main_memory.numa, "isolate"),
    "rpc": ('"a:1,b:2"', "a:1,b:2", lambda o: o.model.devices.workers, ("a:1", "b:2")),
    "no-heal": ("true", "1", lambda o: o.text.heals, False),
    "no-end-loops": ("true", "1", lambda o: o.text.ends_loops, False),
    "fim-order": ('"spm"', "spm", lambda o: o.model.fim_layout, "spm"),
    "next-edit-format": ('"Zeta2"', "zeta2", lambda o: o.text.next_edit, "zeta2"),
    "random-seed": ("-3", "-3", lambda o: o.random_seed, -3),
    "temperature": ("1", "1", lambda o: o.defaults.temperature, 1.0),
    "top-p": ("0.5", "0.5", lambda o: o.defaults.top_p, 0.5),
    "batch-size": ("32", "32", lambda o: o.model.n_batch, 32),
    "ctx": ("512", "512", lambda o: o.model.ctx, 512),
    "cache-type": ('"q8_0"', "q8_0", lambda o: o.model.cache_type, "q8_0"),
    "flash-attn": ('"on"', "on", lambda o: o.model.flash_attention, True),
    "no-tune": ("true", "1", lambda o: o.model.tunes, False),
    "no-reuse": ("true", "1", lambda o: o.caches.reuses, False),
    "parallel": ("4", "4", lambda o: o.model.n_seq, 4),
    "max-queue": ("5", "5", lambda o: o.limits.max_queue, 5),
    "deadline": ("2.5", "2.5", lambda o: o.limits.deadline, 2.5),
    "max-tokens": ("6", "6", lambda o: o.limits.max_tokens, 6),
    "max-prompt": ("77", "77", lambda o: o.limits.max_prompt, 77),
    "grace": ("8", "8", lambda o: o.limits.grace, 8.0),
    "prefix-cache": ('"1MB"', "1MB", lambda o: o.caches.prefix_bytes, 10**6),
    "no-ahead": ("true", "1", lambda o: o.caches.looks_ahead, False),
    "no-page": ("true", "1", lambda o: o.security.has_page, False),
    "no-drafts": ("true", "yes", lambda o: o.caches.drafts, False),
    "api-key": ('["k1", "k2"]', "k1", lambda o: o.security.api_keys[:1], ("k1",)),
    "cors-origin": ('"https://a.b"', "https://a.b", lambda o: o.security.cors_origins, ("https://a.b",)),
    "allowed-host": ('["a.b"]', "a.b", lambda o: o.security.allowed_hosts, ("a.b",)),
    "copilot-request-id": ("true", "1", lambda o: o.security.copilot_request_id, True),
    "log-format": ('"json"', "json", lambda o: o.port, 18080),
    "log-prompts": ("true", "1", lambda _: prompts_log.isEnabledFor(logging.INFO), True),
    "debug": ("false", "0", lambda o: o.port, 18080),
    "model-type": ('"codegen"', "codegen", lambda o: o.port, 18080),
    "model-memory": ('"2GB"', "2GB", lambda o: o.pool.memory, 2 * 10**9),
    "idle-unload": ("0.5", "0.5", lambda o: o.pool.idle, 30.0),
    "lora-switch": ("true", "1", lambda o: o.adapters.can_switch, True),
    "upstream": (
        '["http://a:1/v1", "http://b:2"]', "http://a:1,http://b:2", lambda o: [a.name for a in o.upstream.addresses],
        ["http://a:1", "http://b:2"],
    ),
    "upstream-model": ('"m"', "m", lambda o: o.upstream.model, "m"),
    "upstream-key": ('"k"', "k", lambda o: o.upstream.key, "k"),
}  # fmt: skip


@pytest.mark.parametrize("key", OPTIONS)
def test_every_option_is_read_from_file_and_variable(serve: Serve, key: str) -> None:
    in_file, in_variable, get, wanted = OPTIONS[key]
    assert get(serve(config=f"{key} = {in_file}")) == wanted
    variable = f"TURBOPILOT_{key.upper().replace('-', '_')}"
    assert get(serve(**{variable: in_variable})) == wanted


def test_layout_option_replaces_the_order_option(serve: Serve) -> None:
    assert serve(config="fim-layout = 'qwen'").model.fim_layout == "qwen"
    assert serve(TURBOPILOT_FIM_LAYOUT="qwen").model.fim_layout == "qwen"
    assert serve("--fim-layout", "qwen", config="fim-order = 'spm'").model.fim_layout == "qwen"
    assert serve("--fim-layout", "auto", config="fim-layout = 'spm'").model.fim_layout is None


def test_layout_option_is_for_the_default_model_alone(serve: Serve, demo_gguf: Path) -> None:
    options = serve("--fim-layout", "spm", "--model", f"other={demo_gguf}")
    assert options.model.fim_layout == "spm"
    assert options.of(options.more[0]).model.fim_layout is None


def test_options_table_covers_every_option() -> None:
    command: Any = typer.main.get_command(app)
    names = {
        next(o for o in reversed(p.opts) if o.startswith("--")).removeprefix("--")
        for p in command.commands["serve"].params
        if p.name != "model"
    }
    # Tested elsewhere.
    elsewhere = {
        "help", "config", "model", "model-file", "prefix-cache-dir", "draft", "api-key-file", "lora",
    }  # fmt: skip
    assert names - elsewhere == set(OPTIONS)


def test_every_settings_group_has_flags() -> None:
    groups = {f.default_factory for f in fields(ServerOptions)} - {MISSING}
    assert groups <= {group for section in PANELS.values() for group in section}


def test_auto_options_accept_auto_and_numbers(serve: Serve) -> None:
    options = serve(config='n-gpu-layers = "auto"\nparallel = "auto"\nprefix-cache = 0')
    assert options.model.devices.n_gpu_layers is options.model.n_seq is None
    assert options.caches.prefix_bytes == 0
    assert serve(config="ngl = 3").model.devices.n_gpu_layers == 3


def test_command_line_reverts_a_switch_from_the_file(serve: Serve) -> None:
    config = "no-ahead = true\nno-drafts = true"
    assert serve("--ahead", "--drafts", config=config).caches == serve().caches


def test_config_is_read_only_if_named(serve: Serve) -> None:
    Path("turbopilot.toml").write_text("port = 99")
    assert serve().port == 18080
    assert serve(TURBOPILOT_CONFIG="turbopilot.toml").port == 99
    Path("other.toml").write_text("port = 98")
    assert serve("--config", "other.toml", TURBOPILOT_CONFIG="turbopilot.toml").port == 98


def test_default_model_is_taken_from_the_overriding_source(serve: Serve, demo_gguf: Path) -> None:
    other = demo_gguf.with_name("other.gguf")
    if not other.exists():
        other.symlink_to(demo_gguf)
    in_file = f'model = "{other}"'
    assert serve(config=in_file, model=False).model_file == other
    assert serve(config=f'model-file = "{other}"', model=False).model_file == other
    assert serve(config=in_file).model_file == demo_gguf
    assert serve("-f", str(demo_gguf), config=in_file, model=False).model_file == demo_gguf
    assert serve(config=in_file, model=False, MODEL=str(demo_gguf)).model_file == demo_gguf
    assert serve(MODEL=str(other)).model_file == demo_gguf
    both = {"MODEL": str(other), "TURBOPILOT_MODEL": str(demo_gguf)}
    assert serve(model=False, **both).model_file == demo_gguf


def test_two_default_models_are_refused(fails: Fail, demo_gguf: Path) -> None:
    assert "two models" in fails("a.gguf", "-f", "b.gguf")
    assert "two models" in fails(config='model = "a.gguf"\nmodel-file = "b.gguf"')


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("paralel = 4", ["turbopilot.toml: paralel", "did you mean parallel?"]),
        ("n_gpu_layers = 4", ["n_gpu_layers", "n-gpu-layers"]),
        ("xyzzy = 4", ["turbopilot.toml: xyzzy", "--help"]),
        ("[server]\nport = 4", ["turbopilot.toml: server"]),
        ("config = 'x'", ["turbopilot.toml: config"]),
        ("port = 'x'", ["turbopilot.toml: port must be a whole number", "'x'"]),
        ("port = true", ["turbopilot.toml: port must be a whole number", "True"]),
        ("port = 1.5", ["turbopilot.toml: port must be a whole number"]),
        ("port = 70000", ["turbopilot.toml: port", "70000"]),
        ("host = 4", ["turbopilot.toml: host must be a string"]),
        ("parallel = 1.5", ["turbopilot.toml: parallel must be a string or a whole number"]),
        ("idle-unload = -1", ["turbopilot.toml: idle-unload = -1", "negative"]),
        ("parallel = 300", ["turbopilot.toml: parallel = 300", "256"]),
        ("fim-layout = 'qwne'", ["turbopilot.toml: fim-layout = qwne", "did you mean qwen"]),
        ("prefix-cache = 'much'", ["turbopilot.toml: prefix-cache = much", "500MB"]),
        ("top-p = 'much'", ["turbopilot.toml: top-p must be a number"]),
        ("top-p = 2", ["turbopilot.toml: top-p", "2"]),
        ("no-drafts = 1", ["turbopilot.toml: no-drafts must be true or false"]),
        ("cors-origin = [1]", ["turbopilot.toml: cors-origin must be a string or a list of strings", "[1]"]),
        ("log-prompts = 'no'", ["turbopilot.toml: log-prompts must be true or false"]),
        ("prefix-cache-dir = 1", ["turbopilot.toml: prefix-cache-dir must be a string"]),
        ("ngl = 1\nn-gpu-layers = 2", ["turbopilot.toml: n-gpu-layers", "twice"]),
        ("models = 'x'", ["turbopilot.toml: models must be a table", "[models]"]),
        ("[models]\nsmall = 1", ["turbopilot.toml: models.small must be a string"]),
        ("[models]\nqwen-1.5b = 'x'", ["turbopilot.toml: models.qwen-1 must be a string", "quotes"]),
        ("port =", ["turbopilot.toml: invalid TOML"]),
        (b"host = '\xff'", ["turbopilot.toml: invalid TOML"]),
    ],
)  # fmt: skip
def test_bad_config_error_names_file_and_key(
    fails: Fail, config: str | bytes, words: list[str]
) -> None:
    said = fails(config=config)
    assert said.startswith("error: ")
    assert "hint: " in said
    assert all(w in said for w in words), said


def test_api_key_is_not_shown_in_an_error(fails: Fail) -> None:
    assert "1234567" not in fails(config="api-key = 1234567")


def test_api_keys_of_config_and_key_file_are_merged(serve: Serve) -> None:
    Path("keys").write_text("k3\n")
    Path("keys").chmod(0o600)
    options = serve(config='api-key = ["k1", "k2"]\napi-key-file = "keys"')
    assert options.security.api_keys == ("k1", "k2", "k3")
    assert serve("--api-key", "k4", config='api-key = "k1"').security.api_keys == ("k4",)


def test_missing_config_is_refused(fails: Fail) -> None:
    assert "no.toml: no such file" in fails("--config", "no.toml")
    assert "no.toml: no such file" in fails(TURBOPILOT_CONFIG="no.toml")


def test_named_models_from_flags_variable_and_config(serve: Serve, demo_gguf: Path) -> None:
    file = str(demo_gguf)
    options = serve("--model", f"a={file}", "--model", f"b={file}")
    assert (options.model_file, options.model_name) == (demo_gguf, "")
    assert options.more == (NamedModel("a", demo_gguf), NamedModel("b", demo_gguf))
    options = serve("--model", f"a={file}", "--model", f"b={file}", model=False)
    assert (options.model_file, options.model_name) == (demo_gguf, "a")
    assert options.more == (NamedModel("b", demo_gguf),)
    options = serve(model=False, TURBOPILOT_MODELS=f"c={file} d={file}")
    assert [options.model_name, *(m.name for m in options.more)] == ["c", "d"]
    config = f'[models]\n"qwen-1.5b" = "{file}"\ne = "{file}"'
    options = serve(config=config, model=False)
    assert [options.model_name, *(m.name for m in options.more)] == ["qwen-1.5b", "e"]
    options = serve("--model", f"f={file}", config=config, model=False)
    assert (options.model_name, options.more) == ("f", ())


def test_config_paths_are_relative_to_its_folder(
    serve: Serve, demo_gguf: Path, elsewhere: Path
) -> None:
    folder = elsewhere / "etc"
    folder.mkdir()
    (folder / "m.gguf").symlink_to(demo_gguf)
    config = 'model = "m.gguf"\ndraft = "m.gguf"\nprefix-cache-dir = "kept"\n[models]\na = "m.gguf"'
    (folder / "x.toml").write_text(config)
    options = serve("--config", "etc/x.toml", model=False)
    here = Path("etc/m.gguf")
    assert [options.model_file, options.caches.draft_file, options.more[0].file] == [here] * 3
    assert options.caches.prefix_folder == Path("etc/kept")


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("file", "is not a folder"), ("file/below", "Not a directory"), ("x" * 300, "File name too long"),
        ("d/" * 3000, "File name too long"), ("nul\0byte", "null byte"),
        pytest.param(
            "/proc", "cannot be used", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
        ),
    ],
)  # fmt: skip
def test_unusable_prefix_cache_folder_is_refused_before_the_model_is_loaded(
    demo_gguf: Path, tmp_path: Path, folder: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    options = ServerOptions(demo_gguf, caches=CacheOptions(prefix_folder=tmp_path / folder))
    with pytest.raises(InvalidInput, match="--prefix-cache-dir") as caught:
        with_models(options, ModelChoice(str(demo_gguf)), Reporter())
    assert reason in caught.value.message
    assert len(caught.value.message) < 400


def test_missing_prefix_cache_folder_is_created(demo_gguf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a/b"
    options = ServerOptions(demo_gguf, caches=CacheOptions(prefix_folder=folder))
    with_models(options, ModelChoice(str(demo_gguf)), Reporter())
    assert list(folder.iterdir()) == []
    assert os.name != "posix" or folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "demo"], ["--model demo", "NAME=FILE"]), (["--model", "=demo"], ["NAME=FILE"]),
        (["--model", "a="], ["NAME=FILE"]), (["--model", "a\n=demo"], ["NAME=FILE"]),
        (["--model", "a=demo", "--model", "a=demo"], ["two models are called a"]),
        (["--model", "a=no.gguf"], ["no.gguf: no such file"]),
        (["--model-memory", "much"], ["--model-memory much", "4GB"]),
        (["--idle-unload", "-1"], ["--idle-unload"]),
    ],
)  # fmt: skip
def test_invalid_model_arguments_are_refused(
    fails: Fail, arguments: list[str], words: list[str]
) -> None:
    said = fails(*arguments)
    assert all(w in said for w in words), said


def ignore(_: str) -> None:
    pass


def test_model_names_and_memory_are_checked_before_loading(demo_gguf: Path) -> None:
    more = (NamedModel("small", demo_gguf),)
    options = ServerOptions(demo_gguf, more=more)
    pool = make_pool(options, ignore)
    assert [(m.name, m.n_ctx) for m in pool.known] == [("demo_model", 1024), ("small", 1024)]
    assert pool.loaded == ()
    idle = [m.idle for m in pool._models]
    assert idle == [None, IDLE_SECONDS]
    for minutes, wanted in ((0.0, [None, None]), (90.0, [90.0, 90.0])):
        pool = make_pool(replace(options, pool=PoolOptions(idle=minutes)), ignore)
        assert [m.idle for m in pool._models] == wanted
    with pytest.raises(InvalidInput, match="two models have the name small"):
        make_pool(replace(options, model_name="small"), ignore)
    with pytest.raises(InvalidInput, match=r"takes about .* --model-memory is 1\.0 MB"):
        make_pool(replace(options, pool=PoolOptions(memory=10**6)), ignore)


def test_model_larger_than_memory_is_not_refused(
    demo_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turbopilot.llama.footprint.total_bytes", lambda: 10**6)
    pool = make_pool(ServerOptions(demo_gguf, more=(NamedModel("b", demo_gguf),)), ignore)
    assert [m.n_bytes for m in pool._models] == [750_000] * 2
