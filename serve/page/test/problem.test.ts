import assert from "node:assert/strict";
import { test } from "node:test";

import { problemOf } from "../src/playground/problem";
import { ServerError } from "../src/server";

test("a server that is gone or busy is tried again", () => {
  for (const error of [new ServerError(0, "x"), new ServerError(503, "the queue is full"), new TypeError("network error")])
    assert.equal(problemOf(error)?.isPassing, true);
  assert.match(problemOf(new ServerError(0, ""))!.text, /turbopilot serve/);
  assert.match(problemOf(new ServerError(503, "the queue is full"))!.text, /the queue is full/);
});

test("a missing key and a refused request are not tried again", () => {
  assert.deepEqual([problemOf(new ServerError(401, "x"))?.needsKey, problemOf(new ServerError(401, "x"))?.isPassing], [true, false]);
  const refused = problemOf(new ServerError(400, "top_p must be\u202e at most 1"))!;
  assert.deepEqual([refused.isPassing, refused.needsKey], [false, false]);
  assert.match(refused.text, /400.*top_p must be\\u\{202e\} at most 1/);
});

test("a request that a newer one ended is no problem", () => {
  assert.equal(problemOf(new ServerError(499, "superseded")), null);
});

test("a mistake in the page is not taken for a lost connection", () => {
  assert.equal(problemOf(new TypeError("x is undefined"))?.isPassing, false);
});
