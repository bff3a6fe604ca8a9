import assert from "node:assert/strict";
import { test } from "node:test";

import { type EditorStatus, grouped, matching, sendsKey } from "../src/setup/editors";
import { withKey } from "../src/setup/quoting";
import { type Circumstances, judge, messageOf, readStream, type Received } from "../src/setup/verdict";

function editor(name: string, programs: string, text = ""): EditorStatus {
  const settings = [{ where: "a file", format: "json", text }];
  return { name, editor: programs, plugin: name, settings, notes: [], source: "", evidence: "" };
}

const EDITORS = [editor("Continue", "VS Code, JetBrains"), editor("llama.vim", "Vim"), editor("curl", "the shell")];

test("a plugin for two programs is in both groups", () => {
  const groups = grouped(EDITORS).map((g) => [g.title, g.editors.map((e) => e.name)]);
  assert.deepEqual(groups, [
    ["VS Code", ["Continue"]], ["JetBrains", ["Continue"]], ["Vim", ["llama.vim"]], ["The shell", ["curl"]],
  ]);
});

test("editors are found by plugin and program, without separators", () => {
  for (const [query, found] of [["vscode", "Continue"], ["llama vim", "llama.vim"], ["LLAMA.VIM", "llama.vim"]] as const) {
    assert.deepEqual(matching(EDITORS, query).map((e) => e.name), [found]);
  }
  assert.equal(matching(EDITORS, "").length, 3);
});

test("a plugin sends a key if its settings have the placeholder", () => {
  assert.equal(sendsKey(editor("a", "b", '{"key": "KEY"}'), "KEY"), true);
  assert.equal(sendsKey(editor("a", "b"), "KEY"), false);
  assert.equal(sendsKey(editor("a", "b"), ""), false);
});

test("keys are quoted for their format", () => {
  const hard = `it's"a\\key#$`;
  for (const [text, format, wanted] of [
    ['{"key": "KEY"}', "json", `{"key": ${JSON.stringify(hard)}}`],
    ["'key': 'KEY'", "vim", `'key': 'it''s"a\\key#$'`],
    ["API key  KEY", "text", `API key  ${hard}`],
    ["export A=KEY", "sh", `export A='it'"'"'s"a\\key#$'`],
    ["-H 'Bearer KEY' KEY", "sh", `-H 'Bearer it'"'"'s"a\\key#$' 'it'"'"'s"a\\key#$'`],
  ] as const) {
    assert.equal(withKey(text, format, "KEY", hard), wanted);
  }
  assert.equal(withKey("export A=KEY", "sh", "KEY", "sk-1"), "export A=sk-1");
  assert.equal(withKey("KEY", "sh", "", "sk-1"), "KEY");
});

const ABOUT: Circumstances = { canSendKey: true, hadKey: true, model: "demo" };
const PLAIN = { method: "POST", path: "/v1/completions", body: { prompt: "def f" }, streams: false } as const;
const STREAM = { ...PLAIN, streams: true };

function got(text: string, more: Partial<Received> = {}): Received {
  return { status: 200, type: "application/json", text, first: 5, total: 9, ...more };
}

function streamed(...events: unknown[]): Received {
  const text = events.map((e) => `data: ${typeof e === "string" ? e : JSON.stringify(e)}\n\n`).join("");
  return got(text, { type: "text/event-stream; charset=utf-8" });
}

test("answers are read in the dialect of their route", () => {
  for (const [path, answer] of [
    ["/v1/completions", { choices: [{ text: " x" }] }], ["/infill", { content: " x" }],
    ["/api/generate", { response: " x" }],
  ] as const) {
    const verdict = judge({ ...PLAIN, path }, got(JSON.stringify(answer)), ABOUT);
    assert.deepEqual([verdict.ok, verdict.completion], [true, " x"]);
  }
});

test("a stream needs its media type, its end and no error", () => {
  const part = { choices: [{ text: "a" }] };
  assert.equal(judge(STREAM, streamed(part, part, "[DONE]"), ABOUT).completion, "aa");
  assert.match(judge(STREAM, streamed(part), ABOUT).steps.at(-1)!.text, /not \[DONE\]/);
  assert.match(judge(STREAM, { ...streamed(part, "[DONE]"), type: "application/json" }, ABOUT).advice, /buffering/);
  const broken = judge(STREAM, streamed(part, { error: { message: "no memory" } }, "[DONE]"), ABOUT);
  assert.match(broken.steps.at(-1)!.text, /no memory/);
});

test("stream events may have several lines and carriage returns", () => {
  assert.deepEqual(readStream('data: {"a":\r\ndata: 1}\r\n\r\n: ping\r\n\r\ndata: [DONE]\r\n\r\n'), {
    events: [{ a: 1 }], isDone: true, fault: "",
  });
  assert.equal(readStream("data: {x\n\n").fault, "an event is not valid JSON");
});

test("each failure has its explanation", () => {
  const failed = (status: number, more: Partial<Received> = {}, about = ABOUT): string =>
    judge(PLAIN, got('{"error": {"message": "m"}}', { status, ...more }), about).advice;
  assert.match(failed(0), /stopped|port/);
  assert.match(failed(401), /does not know this API key/);
  assert.match(failed(401, {}, { ...ABOUT, hadKey: false }), /has none/);
  assert.match(failed(401, {}, { ...ABOUT, canSendKey: false }), /cannot send an API key/);
  assert.match(failed(403), /--cors-origin/);
  assert.match(failed(404), /base URL/);
  assert.match(failed(421), /--allowed-host/);
  assert.match(failed(503, { retryAfter: "7" }), /in 7 s/);
  assert.match(failed(500), /log/);
  assert.match(failed(418), /refuses/);
});

test("empty and strange completions are explained", () => {
  const text = (text: string, reason: string): Received => got(JSON.stringify({ choices: [{ text, finish_reason: reason }] }));
  assert.match(judge(PLAIN, text("", "stop"), ABOUT).advice, /ended the text at once/);
  assert.match(judge(PLAIN, text(" \n", "length"), ABOUT).advice, /white space/);
  const tokens = { ...PLAIN, body: { prompt: "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>" } };
  assert.match(judge(tokens, text("", "stop"), ABOUT).advice, /\(demo\)/);
  assert.match(judge(PLAIN, text("x<fim_middle>y", "stop"), ABOUT).steps.at(-1)!.text, /<fim_middle>/);
  const none = judge({ ...PLAIN, path: "/backend/next_edit_autocomplete" }, got('{"completion": ""}'), ABOUT);
  assert.equal(none.ok, true);
});

test("error messages are found in every dialect", () => {
  assert.equal(messageOf('{"error": "plain"}'), "plain");
  assert.equal(messageOf('{"error": {"message": "nested"}}'), "nested");
  assert.equal(messageOf("<html>"), "<html>");
  assert.equal(messageOf(""), "no explanation");
});
