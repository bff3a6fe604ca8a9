import assert from "node:assert/strict";
import { test } from "node:test";

import type { RequestTimes, ServedModelStatus, StatusAnswer } from "../src/status/answers";
import { description } from "../src/status/chart";
import { isFinal, nextPause } from "../src/status/feed";
import { quantities } from "../src/status/machine";
import { facts, outcomes } from "../src/status/models";
import { breakdown, merged } from "../src/status/requests";
import { matching } from "../src/status/settings";
import { sorted } from "../src/status/table";
import { stateText } from "../src/status/view";

function request(more: Partial<RequestTimes>): RequestTimes {
  return {
    id: "a", time: 1, route: "/v1/completions", client: "", model: "m", status: 200, reason: "stop", is_low: false,
    total: 0, load: 0, queue: 0, prefill: 0, decode: 0, other: 0, prompt_tokens: 0, cached_tokens: 0,
    completion_tokens: 0, drafted_tokens: 0, accepted_tokens: 0, why: "", ...more,
  };
}

test("requests are merged, the newest first, and none is shown twice", () => {
  const old = [request({ id: "a", time: 1 }), request({ id: "b", time: 2 })];
  const all = merged(old, [request({ id: "b", time: 2 }), request({ id: "a", time: 3 })]);
  assert.deepEqual(all.map((r) => [r.id, r.time]), [["a", 3], ["b", 2], ["a", 1]]);
});

test("no more requests are kept than shown", () => {
  const many = Array.from({ length: 500 }, (_, time) => request({ time }));
  assert.equal(merged([], many).length, 200);
  assert.equal(merged([], many)[0]?.time, 499);
});

test("breakdowns leave out what took no time", () => {
  assert.equal(breakdown(request({ total: 1300, prefill: 1240, decode: 60 })), "prefill 1.24 s, decode 60 ms");
  assert.equal(breakdown(request({ total: 0.01 })), "0.0 ms");
});

test("rows are sorted by a column, the highest first, and keep their order otherwise", () => {
  const rows = [{ n: 1, s: "a" }, { n: 3, s: "b" }, { n: 1, s: "c" }];
  assert.deepEqual(sorted(rows, (r) => r.n).map((r) => r.s), ["b", "a", "c"]);
  assert.deepEqual(sorted(rows, undefined), rows);
});

test("settings are found by every word of the query", () => {
  const all = [
    { flag: "--model-memory", value: "24 GiB", is_default: true, help: "Limit for all models." },
    { flag: "--port", value: "1", is_default: false, help: "Port." },
  ];
  assert.deepEqual(matching(all, "memory LIMIT").map((s) => s.flag), ["--model-memory"]);
  assert.equal(matching(all, " ").length, 2);
  assert.equal(matching(all, "memory port").length, 0);
});

test("facts without a value are left out", () => {
  const model: ServedModelStatus = {
    name: "m", status: "unloaded", file: "m.gguf", type: "Q4_0", size: 0, context: 2048, running: 0, waiting: 0,
  };
  assert.deepEqual(facts(model).map(([term]) => term), ["Type", "Context", "Requests", "File"]);
});

test("outcomes are counted from the most frequent", () => {
  assert.equal(outcomes({ failed: 12, done: 5120, cancelled: 0 }), "5,120 done, 12 failed");
});

test("meters show the loaded models beside their limit, and unknown loads as unknown", () => {
  const answer = {
    machine: { cores: 1, memory_total: 4 * 2 ** 30, memory_free: 2 ** 30, model_memory_limit: 2 ** 30, gpus: [] },
    models: [{ memory: 2 ** 29 }, {}],
    samples: [],
  } as unknown as StatusAnswer;
  assert.deepEqual(quantities(answer), [
    { name: "CPU, 1 core", share: undefined, text: "–", isLimited: false },
    { name: "Memory", share: 0.75, text: "3 GiB of 4 GiB", isLimited: true },
    { name: "Models with full prefix caches", share: 0.5, text: "512 MiB of 1 GiB", isLimited: true },
  ]);
});

test("charts have a text alternative", () => {
  const options = {
    title: "Decode",
    curves: [{ name: "decode", colour: "k4", valueOf: () => 1 }],
    format: (n: number) => `${n} tok/s`,
    top: { least: 1 },
  };
  const values = [3, 9, 5].map((value, time) => ({ time, value }));
  const text = "Decode in the last five minutes. decode: now 5 tok/s, between 3 tok/s and 9 tok/s.";
  assert.equal(description(options, [values]), text);
  assert.match(description(options, [[]]), /no values/);
});

test("pauses grow to a limit, and only refusals end the attempts", () => {
  let pause = 1000;
  const pauses = Array.from({ length: 6 }, () => (pause = nextPause(pause)));
  assert.deepEqual(pauses, [2000, 4000, 8000, 15_000, 15_000, 15_000]);
  assert.deepEqual([401, 404, 429, 408, 503, 500].map(isFinal), [true, true, false, false, false, false]);
});

test("the connection's state names the time since which the server is gone", () => {
  const text = stateText({ kind: "gone", since: 1_800_000_000, pause: 1000, reason: "it does not answer" });
  assert.match(text, /^Server gone since \d\d:\d\d:\d\d: it does not answer\./);
});
