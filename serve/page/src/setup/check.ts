/** The check: sends what an editor would send, and shows how the editor would read the answer. */

import { element } from "../element";
import { keyHeaders, LOW } from "../server";
import { type EditorStatus, sendsKey } from "./editors";
import { judge, type Received, type Verdict } from "./verdict";

/** Milliseconds after which the check stops waiting; a model may have to be loaded first. */
const LONGEST = 120_000;
const BLIND_SPOTS =
  "The request comes from this page. So the check does not see whether the editor has read these settings, which proxy " +
  "the editor or its machine uses, or a firewall between another machine and this server.";

/** Make the check of an editor, whose settings have this placeholder for the API key ("" if none is required). */
export function check(editor: EditorStatus, placeholder: string, model: string): HTMLElement {
  const request = editor.check;
  if (!request) return element("p", { className: "soft" }, "There is no check for this client.");
  const canSendKey = !placeholder || sendsKey(editor, placeholder);
  const button = element("button", { type: "button", className: "primary" }, "Send the request");
  const result = element("div", { className: "result", attributes: { role: "status" } });

  async function run(): Promise<void> {
    button.disabled = true;
    result.replaceChildren(element("p", { className: "soft" }, "Waiting for the answer…"));
    const headers = canSendKey ? keyHeaders() : {};
    const got = await received(request!.path, request!.method, request!.body, headers);
    const about = { canSendKey, hadKey: Object.keys(headers).length > 0, model };
    result.replaceChildren(...shown(judge(request!, got, about)));
    button.disabled = false;
  }
  button.addEventListener("click", () => void run());

  const streams = request.streams ? "and reads the answer as a stream" : "and reads one answer";
  return element(
    "div",
    { className: "check" },
    element(
      "p",
      {},
      `${editor.plugin} sends `,
      element("code", {}, `${request.method} ${request.path}`),
      ` ${streams}. This page sends the same to this server, with a short text.`,
    ),
    element(
      "details",
      {},
      element("summary", {}, "The request"),
      element("pre", { tabIndex: 0 }, JSON.stringify(request.body ?? {}, null, 2)),
    ),
    element("div", { className: "actions" }, button),
    result,
    element("p", { className: "soft" }, BLIND_SPOTS),
  );
}

function shown(verdict: Verdict): HTMLElement[] {
  const steps = verdict.steps.map((step) =>
    element(
      "li",
      { className: step.ok ? "ok" : "wrong" },
      element("span", { className: "mark", ariaHidden: "true" }, step.ok ? "✓" : "✗"),
      element("span", { className: "unseen" }, step.ok ? "passed: " : "failed: "),
      step.text,
    ),
  );
  const title = verdict.ok ? "The editor would show this completion:" : "The editor would show nothing.";
  const parts: HTMLElement[] = [
    element("p", { className: verdict.ok ? "good" : "bad" }, verdict.completion || !verdict.ok ? title : "The answer is valid."),
  ];
  if (verdict.completion) parts.push(element("pre", { tabIndex: 0, className: "completion" }, verdict.completion));
  parts.push(element("ul", { className: "steps" }, ...steps));
  if (verdict.advice) parts.push(element("p", { className: "advice" }, verdict.advice));
  return parts;
}

/** Send a request as the editor would, and return whatever comes back. */
async function received(
  path: string,
  method: string,
  body: Record<string, unknown> | undefined,
  headers: Record<string, string>,
): Promise<Received> {
  const got: Received = { status: 0, type: "", text: "", first: 0, total: 0 };
  const began = performance.now();
  try {
    const response = await fetch(path, {
      method,
      headers: { ...headers, "Content-Type": "application/json", ...LOW },
      signal: AbortSignal.timeout(LONGEST),
      ...(body && { body: JSON.stringify(body) }),
    });
    got.status = response.status;
    got.type = response.headers.get("Content-Type") ?? "";
    const retryAfter = response.headers.get("Retry-After");
    if (retryAfter) got.retryAfter = retryAfter;
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      got.first ||= performance.now() - began;
      if (done) break;
      got.text += value;
    }
  } catch {
    // The connection failed: what has arrived so far is judged.
  }
  got.total = performance.now() - began;
  got.first ||= got.total;
  return got;
}
