"""How a report's page looks. Colours are variables: light, dark and print set them, everything else uses them."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #fff; --ink: #1c2024; --soft: #59636e; --rule: #d8dee4; --shade: #f4f6f8;
  --good: #17702f; --good-shade: #e9f6ec; --bad: #b3261e; --bad-shade: #fdecea; --link: #0b57a4;
  --k1: #2a6fbb; --k2: #c2570c; --k3: #7a4fb5; --k4: #0f766e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181b; --ink: #e4e7ea; --soft: #a2abb4; --rule: #343a40; --shade: #1e2226;
    --good: #6cd08a; --good-shade: #15281b; --bad: #ff8b82; --bad-shade: #33191a; --link: #7db8f5;
    --k1: #6aaef0; --k2: #f5a25d; --k3: #bd9cf0; --k4: #5cc9bb;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 66rem; overflow-wrap: anywhere;
  background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums;
}
h1, h2, h3 { line-height: 1.25; margin: 0 0 .5rem; text-wrap: balance; }
h1 { font-size: 1.6rem; }
h2 { font-size: 1.25rem; }
h3 { font-size: 1.05rem; }
section { margin-top: 2rem; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--link); }
code { font-family: ui-monospace, monospace; font-size: .92em; white-space: pre-wrap; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
.verdict { max-width: none; padding: .8rem 1rem; border: 1px solid; border-left-width: 6px; border-radius: 4px; }
.verdict.good { background: var(--good-shade); border-color: var(--good); }
.verdict.bad { background: var(--bad-shade); border-color: var(--bad); }
.good > strong, strong.good { color: var(--good); }
.bad > strong, strong.bad { color: var(--bad); }
ul.plain { margin: .5rem 0; padding-left: 1.2rem; max-width: 46rem; }
ul.plain li { margin: .3rem 0; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; min-width: min(100%, 30rem); overflow-wrap: normal; }
th, td { padding: .3rem .7rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-weight: 600; border-bottom-width: 2px; white-space: nowrap; }
tbody th { font-weight: 500; min-width: 8rem; }
td > .soft { display: block; min-width: 10rem; }
.facts table { min-width: 0; }
.facts td { overflow-wrap: anywhere; }
.n { text-align: right; white-space: nowrap; }
.digest { font-family: ui-monospace, monospace; font-size: .8rem; }
.plots { columns: 25rem 2; column-gap: 2.5rem; }
figure { margin: 0 0 1.6rem; break-inside: avoid; }
figure .title { margin: 0 0 .3rem; font-weight: 600; font-size: .95rem; }
.alone { max-width: 36rem; margin-top: 1.2rem; }
.plot { display: block; width: 100%; height: auto; overflow: visible; }
.plot text { font-size: 13px; fill: var(--soft); }
.plot text.of, .plot text.label { fill: var(--ink); }
.plot text.label { stroke: var(--page); stroke-width: 4; stroke-linejoin: round; paint-order: stroke; }
.grid { stroke: var(--rule); fill: none; stroke-width: 1; }
.cloud { stroke-width: 3.2; stroke-linecap: round; fill: none; opacity: .55; }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.rail { fill: var(--shade); }
.limit { stroke: var(--ink); stroke-width: 2; fill: none; }
.cloud.k1, .line.k1 { stroke: var(--k1); }
.cloud.k2, .line.k2 { stroke: var(--k2); }
.cloud.k3, .line.k3 { stroke: var(--k3); }
.cloud.k4, .line.k4 { stroke: var(--k4); }
.cloud.bad, .line.bad { stroke: var(--bad); opacity: 1; }
.line.thin { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 5 4; }
.spot { stroke: var(--page); stroke-width: 1; }
.spot.k1, .bar.k1 { fill: var(--k1); }
.spot.k2, .bar.k2 { fill: var(--k2); }
.spot.k3, .bar.k3 { fill: var(--k3); }
.spot.k4, .bar.k4 { fill: var(--k4); }
.spot.bad, .bar.bad { fill: var(--bad); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .2rem 0; padding: 0; }
.legend li { color: var(--soft); font-size: .875rem; }
.key { width: 1rem; height: .75rem; vertical-align: -.05rem; }
details { margin: .8rem 0; }
details.file { border-top: 2px solid var(--rule); padding-top: .8rem; }
summary { cursor: pointer; }
summary h2 { display: inline; }
footer { margin-top: 2.5rem; padding-top: .5rem; border-top: 2px solid var(--rule); }
@media (max-width: 30rem) {
  body { padding: 1rem .75rem 2rem; }
  .plot text { font-size: 16px; }
}
@media print {
  :root {
    color-scheme: light; --page: #fff; --ink: #000; --soft: #444; --rule: #bbb; --shade: #eee;
    --good: #17702f; --good-shade: #fff; --bad: #b3261e; --bad-shade: #fff; --link: #000;
    --k1: #2a6fbb; --k2: #c2570c; --k3: #7a4fb5; --k4: #0f766e;
  }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .scroll { overflow: visible; }
  tr { break-inside: avoid; }
  h1, h2, h3, .title { break-after: avoid; }
  .plots { columns: 2; }
  details::details-content { content-visibility: visible; display: block; }
}
"""
