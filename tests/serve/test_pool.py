"""Pool of several models in one process: loading, unloading, waiting and errors."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.models import PooledModel
from serve.models.pooled_model import make_room
from serve.models.service import CompletionService
from serve.runner.generation import ClientGone, stays
from tests.support.pooled import Client, Lab, info
from tests.support.serving import wait
from turbopilot.base.errors import CorruptModel, Overloaded, TurboPilotError


def use(lab: Lab, name: str, client: Client | None = None) -> str:
    """Use a model briefly and return the name of the model that answers."""
    with lab.pool.use(name, client.when_gone if client else stays) as service:
        return service.model.name


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def begin(lab: Lab, name: str, threads: ThreadPoolExecutor) -> tuple[Future[str], threading.Event]:
    """Begin to load a model in a thread; loading ends when the returned event is set."""
    gate = lab.gates[name] = threading.Event()
    future = threads.submit(use, lab, name)
    wait(lab.began)
    return future, gate


def queue(lab: Lab, name: str, threads: ThreadPoolExecutor) -> tuple[Future[str], Client]:
    """Request a model in a thread while another thread loads it; return once the request waits."""
    client = Client()
    future = threads.submit(use, lab, name, client)
    wait(client.waits)
    return future, client


def test_model_is_loaded_once_by_its_first_request() -> None:
    lab = Lab({"a": 1, "b": 1})
    assert [m.name for m in lab.pool.known] == ["a", "b"]
    assert list(lab.pool.loaded) == []
    assert lab.states() == {"a": "unloaded", "b": "unloaded"}
    assert [use(lab, n) for n in ("b", "b", "a", "b")] == ["b", "b", "a", "b"]
    assert lab.loads == ["b", "a"]
    assert [s.model.name for s in lab.pool.loaded] == ["a", "b"]
    assert lab.states() == {"a": "ok", "b": "ok"}


@pytest.mark.parametrize("name", ["", "fastertransformer", "google/gemini-2.5-flash", "B"])
def test_unknown_name_selects_the_default_model(name: str) -> None:
    assert use(Lab({"a": 1, "b": 1}), name) == "a"


def test_least_recently_used_models_are_unloaded_to_make_room() -> None:
    lab = Lab({"a": 40, "b": 40, "c": 40, "d": 90}, memory=100)
    for name in ("a", "b", "a", "c"):
        lab.now += 1
        use(lab, name)
    assert lab.unloads == ["b"]
    lab.now += 1
    use(lab, "d")
    assert lab.unloads == ["b", "a", "c"]
    assert set(lab.alive) == {"d"}


def test_model_in_use_or_with_open_requests_stays_loaded() -> None:
    lab = Lab({"a": 40, "b": 40, "c": 30}, memory=100)
    use(lab, "b")
    lab.alive["b"].n_open = 1
    with lab.pool.use("a"):
        with pytest.raises(Overloaded, match=r"no room for c .*a .*b .*in use") as caught:
            use(lab, "c")
        assert caught.value.retry_after >= 1
        assert "--model-memory" in caught.value.hint
    assert lab.unloads == []
    assert lab.states()["c"] == "unloaded"  # not "failed"
    assert use(lab, "c") == "c"
    assert lab.unloads == ["a"]


def sized(name: str, n_bytes: int, *, last_used: float = 0.0, n_users: int = 0) -> PooledModel:
    def load() -> CompletionService:
        raise AssertionError("the model must not be loaded")

    m = PooledModel(info(name), n_bytes, load)
    m.last_used, m.n_users = last_used, n_users
    return m


def test_no_model_is_unloaded_if_that_would_not_make_enough_room() -> None:
    a, b = sized("a", 10, last_used=1.0), sized("b", 80, n_users=1)
    with pytest.raises(Overloaded, match=r"b .* in use"):
        make_room(sized("c", 30), 100, [a, b])
    assert make_room(sized("c", 20), 100, [a, b]) == [a]
    assert make_room(sized("c", 10), 100, [a, b]) == []


def test_loading_a_model_does_not_block_loaded_models(threads: ThreadPoolExecutor) -> None:
    lab = Lab({"a": 1, "b": 1, "c": 1})
    use(lab, "a")
    wait(lab.began)
    first, gate = begin(lab, "b", threads)
    assert lab.states() == {"a": "ok", "b": "loading", "c": "unloaded"}
    second, same = queue(lab, "b", threads)
    third, other = queue(lab, "c", threads)
    assert [s.waiting for s in lab.pool.statuses] == [0, 1, 1]
    assert use(lab, "a") == "a"
    assert lab.loads == ["a"]
    gate.set()
    assert [f.result(60) for f in (first, second, third)] == ["b", "b", "c"]
    assert lab.loads == ["a", "b", "c"]
    assert [s.waiting for s in lab.pool.statuses] == [0, 0, 0]
    assert same.forgotten
    assert other.forgotten


def test_model_that_requests_wait_for_is_not_unloaded(threads: ThreadPoolExecutor) -> None:
    """Let the loading request end at once while the last request needs the memory for another model."""
    lab = Lab({"a": 60, "b": 60}, memory=100)
    first, gate = begin(lab, "a", threads)
    futures = [queue(lab, name, threads)[0] for name in "aaab"]
    gate.set()
    assert first.result(60) == "a"
    assert [f.result(60) for f in futures[:3]] == ["a"] * 3
    try:
        assert futures[3].result(60) == "b"
    except Overloaded:  # it ran while other requests still used the model
        assert lab.loads == ["a"]
    assert lab.loads.count("a") == 1


def test_waiting_requests_are_limited(threads: ThreadPoolExecutor) -> None:
    lab = Lab({"a": 1}, max_waiting=1)
    first, gate = begin(lab, "a", threads)
    second, _ = queue(lab, "a", threads)
    with pytest.raises(Overloaded, match="queue is full: 1 waiting for a model"):
        use(lab, "a")
    gate.set()
    assert first.result(60) == second.result(60) == "a"
    assert use(lab, "a") == "a"


def test_disconnected_client_stops_waiting_for_a_load(threads: ThreadPoolExecutor) -> None:
    lab = Lab({"a": 1}, max_waiting=1)
    first, gate = begin(lab, "a", threads)
    client = Client()
    second = threads.submit(use, lab, "a", client)
    wait(client.waits)
    client.leave()
    with pytest.raises(ClientGone):
        second.result(60)
    assert client.forgotten
    assert lab.pool.statuses[0].waiting == 0
    gate.set()
    assert first.result(60) == "a"


def test_failed_load_is_reported_to_all_waiting_requests_and_retried(
    threads: ThreadPoolExecutor,
) -> None:
    lab = Lab({"a": 1, "b": 1})
    lab.errors["b"] = [CorruptModel("b.gguf: cut off")]
    first, gate = begin(lab, "b", threads)
    second, _ = queue(lab, "b", threads)
    gate.set()
    for future in (first, second):
        with pytest.raises(CorruptModel, match="cut off"):
            future.result(60)
    failed = lab.pool.statuses[1]
    assert (failed.state, failed.reason, failed.loads) == ("failed", "b.gguf: cut off", 0)
    assert use(lab, "b") == "b"
    assert lab.states()["b"] == "ok"
    assert lab.pool.statuses[1].reason == ""


def test_unexpected_load_error_is_not_exposed_in_the_status() -> None:
    lab = Lab({"a": 1})
    lab.errors["a"] = [RuntimeError("a secret")]
    with pytest.raises(RuntimeError):
        use(lab, "a")
    assert "secret" not in lab.pool.statuses[0].reason
    assert lab.states() == {"a": "failed"}


def test_idle_models_except_the_default_are_unloaded() -> None:
    lab = Lab({"a": 1, "b": 1, "c": 1}, idle=60)
    for name in ("a", "b", "c"):
        use(lab, name)
    assert lab.pool.unload_idle() == 60
    lab.now = 20
    use(lab, "c")
    lab.now = 59
    assert lab.pool.unload_idle() == 1
    lab.now = 60
    assert lab.pool.unload_idle() == 20
    assert lab.unloads == ["b"]
    with lab.pool.use("c"):
        lab.now = 500
        assert lab.pool.unload_idle() == 60
    lab.alive["c"].n_open = 1
    lab.now = 1000
    assert lab.pool.unload_idle() == 60
    lab.alive["c"].n_open = 0
    lab.now = 1059
    assert lab.pool.unload_idle() == 1
    lab.now = 1060
    lab.pool.unload_idle()
    assert lab.unloads == ["b", "c"]
    assert use(lab, "a") == "a"  # the default stays
    assert use(lab, "b") == "b"
    assert lab.loads == ["a", "b", "c", "b"]


def test_idle_models_stay_loaded_without_an_idle_limit() -> None:
    lab = Lab({"a": 1})
    use(lab, "a")
    lab.now = 1e9
    assert lab.pool.unload_idle() is None
    assert lab.unloads == []


def test_idle_thread_unloads_models_and_ends_on_close() -> None:
    lab = Lab({"a": 1, "b": 1}, idle=0.0)
    use(lab, "b")
    lab.pool.start()
    while lab.unloads != ["b"]:
        pass
    lab.pool.close()
    while any(t.name == "turbopilot-idle" for t in threading.enumerate()):
        pass


def test_draining_refuses_requests_and_close_waits_for_a_load(threads: ThreadPoolExecutor) -> None:
    lab = Lab({"a": 1, "b": 1})
    use(lab, "a")
    wait(lab.began)
    first, gate = begin(lab, "b", threads)
    second, _ = queue(lab, "b", threads)
    lab.alive["a"].n_open = 1
    a = lab.alive["a"]
    lab.pool.drain()
    with pytest.raises(Overloaded, match="shutting down"):
        second.result(60)
    for name in ("a", "b"):
        with pytest.raises(Overloaded, match="shutting down"):
            use(lab, name)
    assert lab.states()["b"] == "draining"
    assert a.told == ["drain"]
    assert not lab.pool.wait_until_idle(0)
    lab.pool.request_stop()
    assert lab.pool.wait_until_idle()
    closing = threads.submit(lab.pool.close)
    assert not closing.done()  # waits for the load, which cannot be interrupted
    gate.set()
    assert first.result(60) == "b"
    closing.result(60)
    assert sorted(lab.unloads) == ["a", "b"]
    assert lab.alive == {}
    lab.pool.close()


def test_model_loaded_after_a_stop_is_stopped_at_once(threads: ThreadPoolExecutor) -> None:
    lab = Lab({"a": 1})
    future, gate = begin(lab, "a", threads)
    lab.pool.request_stop()
    gate.set()
    assert future.result(60) == "a"
    assert {"drain", "stop"} <= set(lab.alive["a"].told)
    lab.pool.close()
    assert lab.unloads == ["a"]


def test_close_waits_until_models_are_unused(threads: ThreadPoolExecutor) -> None:
    lab = Lab({"a": 1})
    with lab.pool.use("a"):
        lab.users["a"] += 1
        closing = threads.submit(lab.pool.close)
        while not lab.pool.is_draining:
            pass
        assert lab.unloads == []
        lab.users["a"] -= 1
    closing.result(60)
    assert lab.unloads == ["a"]


@pytest.mark.parametrize("error", [None, CorruptModel("bad")])
def test_preload_loads_the_default_model_and_reports_the_result(
    error: TurboPilotError | None,
) -> None:
    lab = Lab({"a": 1, "b": 1})
    gate = lab.gates["a"] = threading.Event()
    if error:
        lab.errors["a"] = [error]
    told: list[BaseException | None] = []
    done = threading.Semaphore(0)

    def on_done(e: BaseException | None) -> None:
        told.append(e)
        done.release()

    lab.pool.preload(on_done)
    assert lab.states() == {"a": "loading", "b": "unloaded"}
    gate.set()
    wait(done)
    assert told == [error]
    assert lab.states()["a"] == ("failed" if error else "ok")
    lab.pool.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.sampled_from("abcd")),
        st.tuples(st.just("leave"), st.integers(0, 3)),
        st.tuples(st.just("open"), st.integers(0, 3)),
        st.tuples(st.just("finish"), st.sampled_from("abcd")),
        st.tuples(st.just("fail"), st.sampled_from("abcd")),
        st.tuples(st.just("tick"), st.integers(1, 100)),
        st.tuples(st.just("sweep"), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_pool_keeps_its_invariants_in_any_sequence_of_steps(
    steps: list[tuple[str, str | int]],
) -> None:
    """Check that no model is loaded twice or unloaded in use, and memory is never exceeded (see `Lab`)."""
    lab = Lab({"a": 50, "b": 40, "c": 30, "d": 100}, memory=100, idle=60)
    held: list[tuple[str, ExitStack]] = []
    for step, value in steps:
        if step == "use":
            name = str(value)
            stack = ExitStack()
            busy = {n for n, h in lab.alive.items() if h.n_open or lab.users[n]}
            fits = sum(lab.sizes[n] for n in busy - {name}) + lab.sizes[name] <= 100
            fails = bool(lab.errors[name]) and name not in lab.alive
            try:
                service = stack.enter_context(lab.pool.use(name))
            except Overloaded:
                assert not fits
            except CorruptModel:
                assert fails
            else:
                assert service.model.name == name
                assert fits
                assert not fails
                lab.users[name] += 1
                held.append((name, stack))
        elif step == "leave" and held:
            name, stack = held.pop(int(value) % len(held))
            lab.users[name] -= 1
            stack.close()
        elif step == "open" and held:  # requests are opened only while a model is in use
            lab.alive[held[int(value) % len(held)][0]].n_open += 1
        elif step == "finish" and str(value) in lab.alive:
            lab.alive[str(value)].n_open = 0
        elif step == "fail":
            lab.errors[str(value)] = [CorruptModel("broken")]
        elif step == "tick":
            lab.now += int(value)
        elif step == "sweep":
            lab.pool.unload_idle()
        assert {s.name for s in lab.pool.statuses if s.state == "ok"} == set(lab.alive)
    for name, stack in held:
        lab.users[name] -= 1
        stack.close()
    lab.pool.close()
    assert not lab.alive


def test_pool_keeps_its_invariants_with_several_threads(threads: ThreadPoolExecutor) -> None:
    lab = Lab({"a": 50, "b": 40, "c": 30}, memory=100)
    counting = threading.Lock()

    def work(seed: int) -> int:
        dice, answered = random.Random(seed), 0
        for _ in range(60):
            name = dice.choice("abc")
            try:
                with lab.pool.use(name) as service:
                    with counting:
                        lab.users[name] += 1
                    assert service.model.name == name
                    answered += 1
                    with counting:
                        lab.users[name] -= 1
            except Overloaded:
                pass
        return answered

    assert all(threads.map(work, range(6), timeout=100))
    lab.pool.close()
    assert not lab.alive
