import assert from "node:assert/strict";
import { test } from "node:test";

import type { StatusSample } from "../src/status/answers";
import { appended, axisEnd, curve, nearest, points, runs, WINDOW } from "../src/status/timeline";

function sample(time: number, more: Partial<StatusSample> = {}): StatusSample {
  return { time, running: 0, waiting: 0, prefill_speed: 0, decode_speed: 0, ...more };
}

test("samples are appended once, and those before the window are dropped", () => {
  const known = [sample(100), sample(101)];
  const all = appended(known, [sample(101), sample(102), sample(100 + WINDOW + 1)]);
  assert.deepEqual(all.map((s) => s.time), [101, 102, 100 + WINDOW + 1]);
  assert.deepEqual(appended([], []), []);
});

test("points leave out samples without a value", () => {
  const samples = [sample(1, { first_token_ms: 5 }), sample(2), sample(3, { first_token_ms: 0 })];
  assert.deepEqual(points(samples, (s) => s.first_token_ms), [{ time: 1, value: 5 }, { time: 3, value: 0 }]);
});

test("axes end at a round number that is not below the highest value", () => {
  for (const [highest, least, end] of [
    [0, 2, 2], [3.2, 1, 4], [480, 100, 500], [501, 100, 600], [0.2, 0.1, 0.2], [1000, 1, 1000], [7, 1, 8],
  ] as const) {
    assert.equal(axisEnd(highest, least), end);
  }
});

test("runs end at gaps", () => {
  const all = [1, 2, 3, 40, 41].map((time) => ({ time, value: 1 }));
  assert.deepEqual(runs(all).map((run) => run.length), [3, 2]);
});

test("curves fit the box, and a lone point is a line without length", () => {
  const { line, area, dots } = curve([{ time: 0, value: 0 }, { time: 10, value: 50 }, { time: 300, value: 100 }], 300, 100, 80);
  assert.equal(line, "M0 80L10 40");
  assert.equal(area, "M0 80L0 80L10 40L10 80Z");
  assert.equal(dots, "M300 0h0");
});

test("the nearest point is found within the longest gap", () => {
  const all = [{ time: 0, value: 1 }, { time: 10, value: 2 }];
  assert.equal(nearest(all, 4)?.value, 1);
  assert.equal(nearest(all, 6)?.value, 2);
  assert.equal(nearest(all, 60), undefined);
  assert.equal(nearest([], 0), undefined);
});
