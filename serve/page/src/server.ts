/** Requests to the server that this page comes from. The API key stays in this module's memory. */

/** Headers of completion requests: the page must never delay an editor. */
export const LOW = { "X-TurboPilot-Priority": "low" };

let apiKey = "";
const askForKey: { ask: () => Promise<string> } = { ask: async () => "" };

/** Set how the user is asked for an API key when the server refuses a request for lack of one. */
export function onKeyNeeded(ask: () => Promise<string>): void {
  askForKey.ask = ask;
}

/** An answer with an error status, or no answer at all (status 0). */
export class ServerError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export interface Asked {
  method?: "GET" | "POST";
  body?: unknown;
  signal?: AbortSignal;
  headers?: Record<string, string>;
}

/** Send a request and return its successful response; ask for an API key if the server requires one. */
export async function send(path: string, asked: Asked = {}): Promise<Response> {
  for (;;) {
    const response = await sendOnce(path, asked);
    if (response.ok) return response;
    if (response.status !== 401) throw await failure(response);
    const used = apiKey;
    const given = await askForKey.ask();
    if (!given || given === used) throw await failure(response);
    apiKey = given;
  }
}

/** Send a request and return the parsed JSON of its response. */
export async function json<T>(path: string, asked: Asked = {}): Promise<T> {
  return (await send(path, asked)).json() as Promise<T>;
}

/** Yield the JSON of each server-sent event until the stream ends or its signal is aborted. */
export async function* events<T>(path: string, asked: Asked = {}): AsyncGenerator<T> {
  const response = await send(path, asked);
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const data = block
          .split("\n")
          .filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5).trimStart())
          .join("\n");
        if (data && data !== "[DONE]") yield JSON.parse(data) as T;
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

/** Return the header with the API key; none if there is no key. */
export function keyHeaders(): Record<string, string> {
  return apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
}

/** Return the API key that the user gave, or "". */
export function givenKey(): string {
  return apiKey;
}

async function sendOnce(path: string, asked: Asked): Promise<Response> {
  const headers: Record<string, string> = { ...asked.headers, ...keyHeaders() };
  const init: RequestInit = { method: asked.method ?? (asked.body === undefined ? "GET" : "POST"), headers };
  if (asked.body !== undefined) {
    headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(asked.body);
  }
  if (asked.signal) init.signal = asked.signal;
  try {
    return await fetch(path, init);
  } catch (e) {
    if (asked.signal?.aborted) throw e;
    throw new ServerError(0, "the server does not answer");
  }
}

async function failure(response: Response): Promise<ServerError> {
  const text = await response.text();
  let message = text.slice(0, 300);
  try {
    const { error } = JSON.parse(text) as { error?: string | { message?: string } };
    message = (typeof error === "string" ? error : error?.message) ?? message;
  } catch {
    // Not JSON: show the text.
  }
  return new ServerError(response.status, message || `status ${response.status}`);
}
