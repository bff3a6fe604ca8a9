import assert from "node:assert/strict";
import { test } from "node:test";

import { bytes, clock, count, duration, number, share, shareOf, span } from "../src/units";

test("bytes have binary units and at most three digits", () => {
  const cases: [number, string][] = [
    [0, "0 B"], [1023, "1,023 B"], [1024, "1 KiB"], [1536, "1.5 KiB"], [143 * 2 ** 20, "143 MiB"],
    [1.04 * 2 ** 30, "1 GiB"], [2 ** 30 - 1, "1 GiB"], [5000 * 2 ** 40, "5,000 TiB"],
  ];
  for (const [value, text] of cases) assert.equal(bytes(value), text);
});

test("durations have the unit that fits", () => {
  const cases: [number, string][] = [
    [0, "0 ms"], [0.42, "0.4 ms"], [38.4, "38 ms"], [999.4, "999 ms"], [999.6, "1.00 s"], [12_340, "12.3 s"],
    [59_960, "1 min"], [125_000, "2 min 5 s"],
  ];
  for (const [ms, text] of cases) assert.equal(duration(ms), text);
});

test("spans have at most two units", () => {
  const cases: [number, string][] = [
    [-3, "0 s"], [0.4, "0 s"], [59, "59 s"], [60, "1 min"], [250, "4 min 10 s"], [12_300, "3 h 25 min"],
    [86_400 + 59, "1 d"],
  ];
  for (const [seconds, text] of cases) assert.equal(span(seconds), text);
});

test("numbers keep the digits that matter", () => {
  for (const [value, text] of [[0, "0"], [0.371, "0.37"], [4.06, "4.1"], [61.7, "62"], [1234.4, "1,234"]] as const) {
    assert.equal(number(value), text);
  }
  assert.equal(count(4_194_304), "4,194,304");
});

test("a share of nothing is a dash", () => {
  assert.equal(share(0.974), "97 %");
  assert.equal(shareOf(3, 4), "75 %");
  assert.equal(shareOf(0, 0), "–");
});

test("clocks have hours, minutes and seconds", () => assert.match(clock(1_800_000_000.7), /^\d\d:\d\d:\d\d$/));
