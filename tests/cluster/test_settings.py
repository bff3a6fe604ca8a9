"""Settings of replicas, checked by `cluster deploy` and read again on each node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from turbopilot.base.errors import InvalidInput
from turbopilot.cluster.roles import Role, Size
from turbopilot.cluster.settings import make_settings, read_role


def settings(model: str = "", size: Size | None = None, **given: Any) -> dict[str, Any]:
    return make_settings(model, given, size or Size(), lambda _: None)


def test_file_gets_its_whole_path(demo_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_gguf.parent)
    assert settings(demo_gguf.name)["model"] == str(demo_gguf)


def test_known_model_keeps_its_name() -> None:
    assert settings("santacoder")["model"] == "santacoder"


@pytest.mark.parametrize(
    ("size", "given", "threads"),
    [(Size(num_cpus=4), {}, 4), (Size(num_cpus=0.5), {}, 1), (Size(), {"threads": 8}, 8)],
)
def test_engine_has_a_thread_for_each_processor(
    size: Size, given: dict[str, Any], threads: int
) -> None:
    assert settings(size=size, **given)["threads"] == threads


def test_key_file_is_read_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("abcdefgh12345678\n")
    file.chmod(0o600)
    found = settings(api_key_file=str(file))
    assert found["api_key"] == ["abcdefgh12345678"]
    assert "api_key_file" not in found


def test_key_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBOPILOT_API_KEY", "abcdefgh12345678")
    assert settings()["api_key"] == ["abcdefgh12345678"]


@pytest.mark.parametrize("name", ["host", "port", "upstream", "models"])
def test_options_of_the_cluster_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        make_settings("", {name: "x"}, Size(), lambda _: None)


def test_wrong_value_is_refused_before_the_deployment() -> None:
    with pytest.raises(InvalidInput, match="--max-queue"):
        settings(max_queue=-1)


def test_engine_reads_its_options(demo_gguf: Path) -> None:
    options = read_role(Role(settings(str(demo_gguf), ctx=512, parallel="2"), 1))
    assert (options.model_file, options.model.ctx, options.model.n_seq) == (demo_gguf, 512, 2)
    assert not options.upstream.addresses


def test_front_reads_only_the_tokenizer(demo_gguf: Path) -> None:
    role = Role(settings(str(demo_gguf), draft=str(demo_gguf)), 1, "secret")
    options = read_role(role, ["http://127.0.0.1:1", "http://127.0.0.1:2"])
    assert [a.port for a in options.upstream.addresses] == [1, 2]
    assert options.upstream.key == "secret"
    assert options.caches.draft_file is None


def test_key_of_a_node_is_not_asked_for(demo_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    role = Role(settings(str(demo_gguf)), 1)
    monkeypatch.setenv("TURBOPILOT_API_KEY", "abcdefgh12345678")
    assert read_role(role).security.api_keys == ()


def test_fewer_replicas_at_most_than_at_least_are_refused() -> None:
    with pytest.raises(InvalidInput, match="--max-replicas 2"):
        Size(replicas=3, max_replicas=2)


@pytest.mark.parametrize(
    ("size", "free", "surges"),
    [
        (Size(num_cpus=2), {"CPU": 2.0}, True),
        (Size(num_cpus=2), {"CPU": 1.0}, False),  # it would wait forever
        (Size(num_gpus=1), {"CPU": 8.0}, False),
        (Size(replicas=2), {"CPU": 8.0}, False),  # the other engine answers meanwhile
        (Size(replicas=2, surge=True), {}, True),
        (Size(surge=False), {"CPU": 8.0}, False),
    ],
)
def test_update_starts_the_new_engine_first(
    size: Size, free: dict[str, float], surges: bool
) -> None:
    assert size.surges(free) is surges
