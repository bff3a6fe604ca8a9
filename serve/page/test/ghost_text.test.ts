import assert from "node:assert/strict";
import { test } from "node:test";

import { afterChange, type Alternative, cycled, firstWord, fitting, type GhostText, grown, position, rest } from "../src/playground/ghost_text";

const ended = (text: string): Alternative => ({ text, tokens: [], ended: "stop" });
const growing = (text: string): Alternative => ({ text, tokens: [], ended: null });
const ghost = (...alternatives: Alternative[]): GhostText => ({ request: 1, start: 10, typed: "", alternatives, shown: 0 });
const typed = (g: GhostText | null, insert: string): GhostText | null =>
  g && afterChange(g, { from: position(g), to: position(g), insert });

test("typing the next characters keeps the rest", () => {
  const g = typed(typed(ghost(ended("return x")), "re"), "t")!;
  assert.equal(rest(g), "urn x");
  assert.equal(position(g), 13);
});

test("typing anything else ends the ghost text", () => {
  assert.equal(typed(ghost(ended("return x")), "x"), null);
  assert.equal(typed(typed(ghost(ended("return x")), "re"), "x"), null);
});

test("typing all of it ends the ghost text", () => {
  assert.equal(typed(ghost(ended("ab")), "ab"), null);
});

test("changes elsewhere end the ghost text", () => {
  const g = ghost(ended("return"));
  assert.equal(afterChange(g, { from: 0, to: 0, insert: "r" }), null);
  assert.equal(afterChange(g, { from: 11, to: 11, insert: "r" }), null);
  assert.equal(afterChange(g, { from: 9, to: 10, insert: "" }), null);
});

test("deleting what was typed since brings it back", () => {
  const g = typed(ghost(ended("return")), "ret")!;
  const back = afterChange(g, { from: 11, to: 13, insert: "" })!;
  assert.equal(rest(back), "eturn");
  assert.equal(afterChange(g, { from: 9, to: 13, insert: "" }), null);
});

test("typing ahead of a stream waits for what comes", () => {
  const g = typed(ghost(growing("ret")), "retu")!;
  assert.equal(rest(g), "");
  assert.equal(rest(grown(g, [growing("return")])!), "rn");
  assert.equal(grown(g, [growing("retry it")]), null);
  assert.equal(grown(g, [ended("ret")]), null);
});

test("another alternative takes over if it continues what was typed", () => {
  const g = typed(ghost(ended("return x"), ended("raise y")), "ra")!;
  assert.equal(g.shown, 1);
  assert.equal(rest(g), "ise y");
});

test("alternatives are cycled in both directions, without repetitions", () => {
  const g = ghost(ended("a1"), ended("a2"), ended("a1"), ended("b"), ended("a3"));
  assert.deepEqual(fitting(g), [0, 1, 3, 4]);
  assert.equal(rest(cycled(g, 1)), "a2");
  assert.equal(rest(cycled(g, -1)), "a3");
  const after = typed(g, "a")!;
  assert.deepEqual(fitting(after), [0, 1, 4]);
  assert.equal(rest(cycled(cycled(after, 1), 1)), "3");
  assert.equal(cycled(ghost(ended("x")), 1).shown, 0);
});

test("an alternative that was chosen stays chosen while others grow", () => {
  const g = cycled(ghost(growing("a"), growing("b")), 1);
  assert.equal(rest(grown(g, [growing("aa"), growing("bb")])!), "bb");
});

test("first word ends at a boundary of words", () => {
  assert.equal(firstWord("return x"), "return");
  assert.equal(firstWord(" x + 1"), " x");
  assert.equal(firstWord("(a, b)"), "(");
  assert.equal(firstWord("\n    self.x"), "\n    self");
  assert.equal(firstWord("größe = 1"), "größe");
  assert.equal(firstWord("🙂🙂 x"), "🙂🙂");
  assert.equal(firstWord("  \n"), "  \n");
  assert.equal(firstWord("_a1 b"), "_a1");
});
