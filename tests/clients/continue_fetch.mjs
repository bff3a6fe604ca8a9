// Driver of Continue's HTTP and SSE reader. The argument is {op, url, key, path, body}; results are JSON lines on stdout.
import readline from "node:readline";
import { fetchwithRequestOptions, streamSse } from "@continuedev/fetch";

const { op, url, key, path, body } = JSON.parse(process.argv[2]);
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
console.log = console.error; // keep the libraries' messages off stdout
const input = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const controller = new AbortController();

const post = (fields) =>
  fetchwithRequestOptions(`${url}${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` },
    body: JSON.stringify({ ...body, ...fields }),
    signal: controller.signal,
  });

const ops = {
  async plain() {
    const response = await post({ stream: false });
    if (!response.ok) throw Object.assign(new Error(await response.text()), { status: response.status });
    say(await response.json());
  },
  async stream() {
    for await (const chunk of streamSse(await post({ stream: true }))) say(chunk);
  },
  async cancel() {
    let seen = 0;
    for await (const chunk of streamSse(await post({ stream: true }))) {
      say(chunk);
      if (++seen === 3) controller.abort();
    }
  },
};

try {
  await ops[op]();
  say({ ended: true });
} catch (e) {
  say({ error: e.constructor.name, status: e.status ?? null, message: e.message });
}
while (!(await input.next()).done);
