import assert from "node:assert/strict";
import { test } from "node:test";

import { lineDifference, type NextEditAnswer, proposedEdit, recentChange } from "../src/playground/next_edit";

const answer = (start_index: number, end_index: number, completion: string): NextEditAnswer => ({
  start_index, end_index, completion, autocomplete_id: "1", finish_reason: "stop", elapsed_time_ms: 1, completions: [{}],
});

test("equal texts have no change", () => {
  assert.equal(recentChange("a.py", "x\n", "x\n"), "");
});

test("a change is a hunk with two lines of context", () => {
  const before = "1\n2\n3\n4\n5\n6\n7\n";
  assert.equal(
    recentChange("a.py", before, before.replace("4\n", "four\nfive\n")),
    "File: a.py\n@@ -2,5 +2,6 @@\n 2\n 3\n-4\n+four\n+five\n 5\n 6\n",
  );
});

test("a line at the beginning is added and removed", () => {
  assert.equal(recentChange("a", "x\ny", "n\nx\ny"), "File: a\n@@ -1,2 +1,3 @@\n+n\n x\n y\n");
  assert.equal(recentChange("a", "n\nx\ny", "x\ny"), "File: a\n@@ -1,3 +1,2 @@\n-n\n x\n y\n");
});

test("indices count characters, not code units", () => {
  const text = "🙂 = 1\n";
  const edit = proposedEdit(answer(4, 5, "2"), text)!;
  assert.equal(text.slice(0, edit.from) + edit.insert + text.slice(edit.to), "🙂 = 2\n");
});

test("an answer without an edit, or one that changes nothing, proposes none", () => {
  assert.equal(proposedEdit({ ...answer(0, 0, ""), completions: [] }, "x"), null);
  assert.equal(proposedEdit(answer(0, 1, "x"), "x"), null);
});

test("an edit is shown as the lines that it changes", () => {
  const text = "a = 1\nb = 2\nc = 3\n";
  const from = text.indexOf("2");
  assert.deepEqual(lineDifference({ from, to: from + 1, insert: "x" }, text), { from: 6, to: 11, removed: ["b = 2"], added: ["b = x"] });
  const whole = lineDifference({ from: 0, to: text.length, insert: "a = 1\nb = 9\nd = 4\nc = 3\n" }, text);
  assert.deepEqual(whole, { from: 6, to: 11, removed: ["b = 2"], added: ["b = 9", "d = 4"] });
});
