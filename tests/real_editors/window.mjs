// Driver that opens a page of VS Code in a headless Chromium. Needs the packages of scripts/test_editors.
//
//     node window.mjs '{"browser": …, "url": …, "width": …, "height": …}'
//
// Commands are lines on standard input; each is answered with a line on standard output, {"failed": reason} on failure:
//     {"do": "text", "selector": "…", "text": "…"}   waits until an element shows the text; returns all matching texts
//     {"do": "dismiss", "selector": "…", "text": "…", "keys": "Space"}   presses keys until no element shows the text
//     {"do": "type", "text": "…"}                    types the text, a key at a time
//     {"do": "press", "keys": "Control+S"}           presses keys at once
//     {"do": "ghost", "seconds": "5"}                waits for ghost text; returns it and the notifications
//     {"do": "look"}                                 returns the same without waiting
//     {"do": "picture", "file": "…", "selector": "…", "height": "300"}   writes a PNG of the upper part of an element
// The end of the input closes the browser.

import readline from "node:readline";
import puppeteer from "puppeteer-core";

const PATIENCE = 90_000;
const TYPING = { delay: 30 }; // milliseconds between keys: faster than a person
const asked = JSON.parse(process.argv[2]);
const browser = await puppeteer.launch({
  executablePath: asked.browser,
  // Only this machine is reached. Chromium refuses its sandbox to root.
  args: [
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-proxy-server",
    "--lang=en-US",
    ...(process.getuid() === 0 ? ["--no-sandbox"] : []),
  ],
  defaultViewport: { width: asked.width, height: asked.height },
});
const [page] = await browser.pages();
await page.goto(asked.url, { timeout: PATIENCE });

// Runs in the page. VS Code shows the first line of ghost text in the line of the cursor, and further lines below it.
function look() {
  const texts = (selector) =>
    [...document.querySelectorAll(selector)].map((e) => e.textContent.replaceAll("\u00a0", " "));
  const first = texts(".view-lines [class*='ghost-text-decoration']").join("");
  const more = texts(".suggest-preview-text .view-line");
  return {
    ghost: first || more.length ? [first, ...more].join("\n") : "",
    notifications: texts(".notification-list-item-message"),
  };
}

const texts = (selector) =>
  page.$$eval(selector, (all) => all.map((e) => e.textContent.replaceAll("\u00a0", " ")));

const commands = {
  async text({ selector, text }) {
    await page.waitForFunction(
      (s, t) =>
        [...document.querySelectorAll(s)].some((e) =>
          e.textContent.replaceAll("\u00a0", " ").includes(t),
        ),
      { timeout: PATIENCE },
      selector,
      text,
    );
    return texts(selector);
  },
  async dismiss({ selector, text, keys }) {
    const end = Date.now() + PATIENCE;
    while ((await texts(selector)).some((t) => t.includes(text))) {
      if (Date.now() > end) throw new Error(`${text} is still there`);
      await commands.press({ keys });
      await page
        .waitForFunction(
          (s, t) => ![...document.querySelectorAll(s)].some((e) => e.textContent.includes(t)),
          { timeout: 2000 },
          selector,
          text,
        )
        .catch(() => {});
    }
  },
  async type({ text }) {
    await page.keyboard.type(text, TYPING);
  },
  async press({ keys }) {
    const [last, ...held] = keys.split("+").reverse();
    for (const key of held.reverse()) await page.keyboard.down(key);
    await page.keyboard.press(last);
    for (const key of held.reverse()) await page.keyboard.up(key);
  },
  async ghost({ seconds }) {
    const timeout = seconds ? 1000 * seconds : PATIENCE;
    await page.waitForFunction(`(${look})().ghost`, { timeout });
    return page.evaluate(look);
  },
  look: () => page.evaluate(look),
  async picture({ file, selector, height }) {
    const element = await page.waitForSelector(selector, { timeout: PATIENCE });
    const box = await element.boundingBox();
    await page.screenshot({
      path: file,
      clip: { ...box, height: Math.min(box.height, Number(height)) },
    });
  },
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let answer;
  try {
    answer = { found: (await commands[command.do](command)) ?? null };
  } catch (error) {
    answer = { failed: `${line}: ${error.message}` };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
await browser.close();
