import assert from "node:assert/strict";
import { test } from "node:test";

import { cut, spoken, visible } from "../src/playground/visible";

const shown = (text: string): string => visible(text).map((p) => p.text).join("");

test("text without hidden characters is one piece", () => {
  assert.deepEqual(visible("a\n\tb <script> é 日本 🙂"), [{ text: "a\n\tb <script> é 日本 🙂", isEscape: false }]);
  assert.deepEqual(visible(""), []);
});

test("bidirectional controls, escapes and characters of width zero are shown as escapes", () => {
  assert.equal(shown("a\u202eb\u2066c\u2069"), "a\\u{202e}b\\u{2066}c\\u{2069}");
  assert.equal(shown("\u001b[31m\u0000\u007f\u0085\r"), "\\u{1b}[31m\\u{0}\\u{7f}\\u{85}\\u{d}");
  assert.equal(shown("\u200b\u200f\u00ad\ufeff\u2028\u2029\u061c"), "\\u{200b}\\u{200f}\\u{ad}\\u{feff}\\u{2028}\\u{2029}\\u{61c}");
  assert.equal(shown("\u{e0041}\ud800x\ue000"), "\\u{e0041}\\u{d800}x\\u{e000}");
});

test("escapes are marked, and the text between them is not", () => {
  const pieces = visible("a\u202eb");
  assert.deepEqual(pieces.map((p) => p.isEscape), [false, true, false]);
});

test("long text is cut between two characters", () => {
  assert.deepEqual(cut("abc", 3), { shown: "abc", hidden: 0 });
  assert.deepEqual(cut("abcd", 3), { shown: "abc", hidden: 1 });
  assert.deepEqual(cut("ab🙂", 3), { shown: "ab", hidden: 2 });
  assert.equal(cut("x".repeat(1e6)).hidden, 1e6 - 4000);
});

test("text of many lines is cut at the end of a line", () => {
  assert.deepEqual(cut("a\nb\nc\nd", 100, 2), { shown: "a\nb", hidden: 4 });
  assert.deepEqual(cut("a\nb", 100, 2), { shown: "a\nb", hidden: 0 });
});

test("spoken text is one short line", () => {
  assert.equal(spoken("\n  return x\n  y"), "return x");
  assert.equal(spoken("\u202eabc"), "\\u{202e}abc");
  assert.equal(spoken("x".repeat(500)).length, 200);
});
