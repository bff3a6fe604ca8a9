// Driver of OpenAI's Node library. The argument is {op, url, key, body}; results are JSON lines on stdout.
import readline from "node:readline";
import OpenAI from "openai";

const { op, url, key, body } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
console.log = console.error; // keep the libraries' messages off stdout
// The process runs until its input ends, so that only the library can close the connection of a cancelled request.
const input = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const ops = {
  async plain() {
    say(await client.completions.create(body));
  },
  async models() {
    for await (const model of await client.models.list()) say(model);
  },
  async stream() {
    for await (const chunk of await client.completions.create({ ...body, stream: true })) say(chunk);
  },
  async cancel() {
    const stream = await client.completions.create({ ...body, stream: true });
    let seen = 0;
    for await (const chunk of stream) {
      say(chunk);
      if (++seen === 3) stream.controller.abort();
    }
  },
  async cancelPlain() {
    const controller = new AbortController();
    const answer = client.completions.create(body, { signal: controller.signal });
    input.next().then(() => controller.abort());
    await answer;
  },
};

try {
  await ops[op]();
  say({ ended: true });
} catch (e) {
  say({ error: e.constructor.name, status: e.status ?? null, message: e.message });
}
while (!(await input.next()).done);
