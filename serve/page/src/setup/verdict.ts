/** Reads the answer to an editor's request as the editor would, and explains what is wrong. */

import { duration } from "../units";
import type { CheckRequest } from "./editors";

/** What came back. Status 0 means that there was no answer. */
export interface Received {
  status: number;
  type: string;
  text: string;
  /** Milliseconds until the first piece of the body, and until its end. */
  first: number;
  total: number;
  retryAfter?: string;
}

export interface Step {
  ok: boolean;
  text: string;
}

export interface Verdict {
  ok: boolean;
  steps: Step[];
  /** Text that the editor would show. */
  completion: string;
  /** What to do if something is wrong. */
  advice: string;
}

/** What the check knows beside the answer. */
export interface Circumstances {
  /** Whether the plugin can send a key, and whether the request had one. */
  canSendKey: boolean;
  hadKey: boolean;
  model: string;
}

/** Judge an answer: its status, its media type, its framing and its text, in this order. */
export function judge(check: CheckRequest, got: Received, about: Circumstances): Verdict {
  const steps: Step[] = [];
  const fail = (text: string, advice: string): Verdict => {
    steps.push({ ok: false, text });
    return { ok: false, steps, completion: "", advice };
  };
  if (!got.status) return fail("No answer", NO_ANSWER);
  if (got.status !== 200) {
    return fail(`Status ${got.status}: ${messageOf(got.text)}`, adviceFor(got, about));
  }
  steps.push({ ok: true, text: `Status 200 after ${duration(got.first)}` });

  let parts: unknown[];
  if (check.streams) {
    if (!got.type.startsWith("text/event-stream")) {
      return fail(`Media type ${got.type || "missing"}, not text/event-stream`, BEHIND_PROXY);
    }
    const { events, isDone, fault } = readStream(got.text);
    if (fault) return fail(`The stream has an error: ${fault}`, "The server's log has the details.");
    if (!isDone) return fail(`${events.length} events, but not [DONE]: the stream was cut off`, BEHIND_PROXY);
    steps.push({ ok: true, text: `Stream of ${events.length} events, ended by [DONE]` });
    parts = events;
  } else {
    if (!/json/.test(got.type)) return fail(`Media type ${got.type || "missing"}, not JSON`, BEHIND_PROXY);
    const answer = parsed(got.text);
    if (answer === undefined) return fail("The answer is not valid JSON", BEHIND_PROXY);
    steps.push({ ok: true, text: "One JSON object" });
    parts = [answer];
  }
  const completion = parts.map((part) => textOf(check.path, part)).join("");
  const reason = parts.map(reasonOf).filter(Boolean).at(-1) ?? "";
  if (check.path.startsWith("/backend/")) {
    steps.push({ ok: true, text: completion ? "An edit" : "No edit, which is a valid answer" });
    return { ok: true, steps, completion, advice: "" };
  }
  if (!completion.trim()) return fail("The completion is empty", emptyAdvice(check, reason, about));
  const token = /<\|?(?:fim|file|repo)[^>]{0,20}>|<(?:PRE|SUF|MID|EOT)>/.exec(completion)?.[0];
  if (token) return fail(`The completion contains the token ${token}`, wrongFamily(about.model));
  steps.push({ ok: true, text: `Text after ${duration(got.first)}, complete after ${duration(got.total)}` });
  return { ok: true, steps, completion, advice: "" };
}

const NO_ANSWER =
  "The server has stopped or was restarted at another port: this page came from it before. Look at its log, start it " +
  "again, and compare the port that it prints with the address of this page.";
const BEHIND_PROXY =
  "A program between this page and the server, such as a proxy, changes answers. It must pass on streams without " +
  "buffering (nginx: proxy_buffering off).";

/** Return what to do about an answer with an error status. */
export function adviceFor(got: Received, about: Circumstances): string {
  const advice: Record<number, string> = {
    400: "The server does not understand this request; its message above names the field.",
    403: "The server refuses this page's origin. Start it with --cors-origin ORIGIN, or open the page at the server's own address.",
    404: "The route does not exist: the base URL has a part too much or too little, for example /v1 twice, or a proxy in front of the server removes a part of the path.",
    421: "The server does not accept this host name. Start it with --allowed-host NAME, or use its IP address.",
    501: "The server or its model cannot do this. A plugin for next edits needs a next-edit model, such as sweep-next-edit or zeta.",
    503: "The server is busy or still loads the model" + (got.retryAfter ? `; try again in ${got.retryAfter} s.` : ". Look at the queue in the Status view and try again."),
    504: "The deadline passed before any text was generated: the queue is long, or the model is slow for this machine.",
  };
  if (got.status === 401) return keyAdvice(about);
  if (got.status in advice) return advice[got.status]!;
  if (got.status >= 500) return "An error in the server or in a proxy in front of it. The server's log has the details.";
  return "The server or a proxy in front of it refuses this request.";
}

function keyAdvice({ canSendKey, hadKey }: Circumstances): string {
  if (!canSendKey) {
    return "This plugin cannot send an API key. Run a server without keys for it, which listens on 127.0.0.1 only, or use another plugin.";
  }
  return hadKey
    ? "The server does not know this API key. Reload the page and enter the key that is in the server's --api-key-file."
    : "The server requires an API key, and this page has none. Reload the page and enter it.";
}

function emptyAdvice(check: CheckRequest, reason: string, { model }: Circumstances): string {
  if (reason === "length") return "The model generated only white space. Is it a model for code?";
  const tokens = /<\|?fim|<PRE>/i.test(String(check.body?.["prompt"] ?? ""));
  if (tokens) return wrongFamily(model);
  return "The model ended the text at once. That is possible for one request; try again in the playground with more text before the cursor.";
}

function wrongFamily(model: string): string {
  return `This plugin writes fill-in-the-middle tokens that it derives from the model's name (${model}), and the loaded model has others. Give its real name, or use a plugin that sends prefix and suffix separately.`;
}

/** Return the JSON events of a stream, and whether [DONE] ended it. */
export function readStream(text: string): { events: unknown[]; isDone: boolean; fault: string } {
  const events: unknown[] = [];
  for (const block of text.split(/\r?\n\r?\n/)) {
    const data = block
      .split(/\r?\n/)
      .filter((line) => line.startsWith("data:"))
      .map((line) => line.slice(5).trimStart())
      .join("\n");
    if (data === "[DONE]") return { events, isDone: true, fault: "" };
    if (!data) continue;
    const event = parsed(data);
    if (event === undefined) return { events, isDone: false, fault: "an event is not valid JSON" };
    if (field(event, "error") !== undefined) return { events, isDone: false, fault: messageOf(data) };
    events.push(event);
  }
  return { events, isDone: false, fault: "" };
}

/** Return the completed text of an answer or of one event, in the dialect of its route. */
export function textOf(path: string, answer: unknown): string {
  const first = field(field(answer, "choices"), "0");
  const found = path.startsWith("/infill")
    ? field(answer, "content")
    : path.startsWith("/api/")
      ? field(answer, "response")
      : path.startsWith("/backend/")
        ? field(answer, "completion")
        : field(first, "text");
  return typeof found === "string" ? found : "";
}

function reasonOf(answer: unknown): string {
  const found = field(field(field(answer, "choices"), "0"), "finish_reason") ?? field(answer, "done_reason");
  return typeof found === "string" ? found : "";
}

/** Return the message of an error answer in any dialect, or the beginning of its text. */
export function messageOf(text: string): string {
  const error = field(parsed(text), "error");
  const message = typeof error === "string" ? error : field(error, "message");
  return typeof message === "string" ? message : text.trim().slice(0, 200) || "no explanation";
}

function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
