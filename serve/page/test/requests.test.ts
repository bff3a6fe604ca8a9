import assert from "node:assert/strict";
import { test } from "node:test";

import { completionBody, type CompletionChunk, CompletionReader } from "../src/playground/completion_stream";
import { facts, milliseconds, shadeOf } from "../src/playground/facts";
import { MOST_PREFIX, MOST_SUFFIX, promptWindow, type Sliced } from "../src/playground/prompt_window";
import { Report, type TabbyEvent } from "../src/playground/reports";
import { samplingOf, type SamplingTexts } from "../src/playground/sampling";

const EMPTY: SamplingTexts = { temperature: "", top_p: "", max_tokens: "", seed: "", n: "1", ends: "model", shades: false };
const doc = (text: string): Sliced => ({ length: text.length, sliceString: (from, to) => text.slice(from, to) });
const chunk = (text: string, more: object = {}, index = 0): CompletionChunk => ({
  id: "cmpl-1",
  choices: [{ index, text, finish_reason: null, ...more }],
});

test("a small file is sent as a whole", () => {
  assert.deepEqual(promptWindow(doc("ab\ncd"), 3), { prefix: "ab\n", suffix: "cd" });
  assert.deepEqual(promptWindow(doc(""), 0), { prefix: "", suffix: "" });
});

test("a large file is cut around the cursor, between two lines", () => {
  const line = `${"x".repeat(99)}\n`;
  const text = line.repeat(1000);
  const { prefix, suffix } = promptWindow(doc(text), 50_030);
  assert.ok(prefix.length <= MOST_PREFIX && prefix.length > MOST_PREFIX - 100);
  assert.ok(suffix.length <= MOST_SUFFIX && suffix.length > MOST_SUFFIX - 100);
  assert.ok(prefix.startsWith(line) && prefix.endsWith(`\n${"x".repeat(30)}`));
  assert.ok(suffix.endsWith(line));
});

test("a line that is longer than the window is cut between two characters", () => {
  const { prefix, suffix } = promptWindow(doc("🙂".repeat(20_000)), 20_000);
  for (const part of [prefix, suffix]) assert.ok(part.length > 1000 && part.isWellFormed());
  const odd = promptWindow(doc(`x${"🙂".repeat(20_000)}`), 20_001);
  assert.ok(odd.prefix.isWellFormed() && odd.suffix.isWellFormed());
});

test("empty fields leave the server's defaults", () => {
  assert.deepEqual(samplingOf(EMPTY), { stop: [], shades: false });
  const body = completionBody("", "a", "b", samplingOf(EMPTY));
  assert.deepEqual(body, { prompt: "a", suffix: "b", stream: true, stream_options: { include_usage: true } });
});

test("fields are sent", () => {
  const texts = { ...EMPTY, temperature: "0", top_p: "0.5", max_tokens: "7", seed: "3", ends: "line", shades: true };
  const body = completionBody("m", "a", "b", samplingOf(texts));
  const { temperature, top_p, max_tokens, seed, stop, logprobs, model } = body;
  assert.deepEqual([temperature, top_p, max_tokens, seed, stop, logprobs, model], [0, 0.5, 7, 3, ["\n"], 0, "m"]);
  assert.equal(body.n, undefined);
});

test("several alternatives are varied unless the fields say otherwise", () => {
  assert.deepEqual(samplingOf({ ...EMPTY, n: "3" }), { temperature: 0.8, top_p: 0.95, n: 3, stop: [], shades: false });
  assert.equal(samplingOf({ ...EMPTY, n: "3", temperature: "0.1" }).temperature, 0.1);
});

test("chunks become alternatives", () => {
  const reader = new CompletionReader();
  reader.add(chunk("re"));
  const early = reader.alternatives;
  reader.add(chunk("b", {}, 1));
  reader.add(chunk("turn"));
  reader.add(chunk("", { finish_reason: "stop" }));
  reader.add({ choices: [], usage: { prompt_tokens: 9, completion_tokens: 4, prompt_tokens_details: { cached_tokens: 5 } } });
  assert.deepEqual(reader.alternatives.map((a) => [a.text, a.ended]), [["return", "stop"], ["b", null]]);
  assert.deepEqual(early.map((a) => a.text), ["re"]);
  assert.equal(reader.id, "cmpl-1");
  assert.equal(reader.usage?.completion_tokens, 4);
});

test("an error in the stream is thrown", () => {
  assert.throws(() => new CompletionReader().add({ error: { message: "boom" } }), /boom/);
  assert.throws(() => new CompletionReader().add({ error: "boom" }), /boom/);
});

test("tokens have their places in the text, counted in code units", () => {
  const reader = new CompletionReader();
  reader.add(chunk("a🙂", { logprobs: { text_offset: [100, 101], token_logprobs: [-0.1, -3] } }));
  reader.add(chunk("bc", { logprobs: { text_offset: [102], token_logprobs: [null] } }));
  assert.deepEqual(reader.alternatives[0]!.tokens, [
    { from: 0, to: 1, logprob: -0.1 },
    { from: 1, to: 3, logprob: -3 },
    { from: 3, to: 5, logprob: null },
  ]);
});

test("tokens are shaded by probability", () => {
  assert.deepEqual([0, Math.log(0.9), Math.log(0.6), Math.log(0.2), -9, null].map(shadeOf), ["p3", "p3", "p2", "p1", "p0", "p3"]);
});

test("facts are shown, and those that are unknown as a dash", () => {
  const reader = new CompletionReader();
  reader.add({
    choices: [{ index: 0, text: "x", finish_reason: "length" }],
    usage: { prompt_tokens: 20, completion_tokens: 8, prompt_tokens_details: { cached_tokens: 15 } },
    timings: { prompt_n: 5, prompt_ms: 1, cache_n: 15, predicted_n: 8, predicted_per_second: 83.4, draft_n: 4, draft_n_accepted: 3 },
  });
  const values = Object.fromEntries(facts(reader, 43.2).map((f) => [f.name, f.value]));
  assert.deepEqual(values, {
    "First token": "43 ms", Speed: "83 tokens/s", Tokens: "8", Cached: "15 of 20", Drafts: "3 of 4", End: "token limit",
  });
  assert.ok(facts(undefined, undefined).every((f) => f.value === "–"));
  assert.equal(milliseconds(1234), "1.2 s");
});

test("a completion is reported as shown once, and accepted or dismissed once", () => {
  const sent: TabbyEvent[] = [];
  let time = 1000;
  const report = new Report("cmpl-1", (event) => sent.push(event), () => time);
  report.decide("dismiss", 0); // was not shown
  report.view(0);
  report.view(0);
  report.view(1);
  time = 1250.4;
  report.decide("select", 1);
  report.decide("dismiss", 1);
  assert.deepEqual(sent.map((e) => [e.type, e.choice_index]), [["view", 0], ["view", 1], ["select", 1]]);
  assert.deepEqual(sent[2], { type: "select", completion_id: "cmpl-1", choice_index: 1, view_id: "view-cmpl-1-1", elapsed: 250 });
});
