/** The status from the server, about once a second, while somebody looks at it. */

import { events, json, ServerError } from "../server";
import type { StatusAnswer } from "./answers";

/** Milliseconds without an answer after which the connection counts as broken. */
const SILENCE = 10_000;
const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 15_000;

export type FeedState =
  | { kind: "connecting" }
  | { kind: "live" }
  /** The server does not answer; `since` is a Unix time. The next attempt is in `pause` milliseconds. */
  | { kind: "gone"; since: number; pause: number; reason: string }
  /** The server refuses; only the user can change that. */
  | { kind: "refused"; reason: string };

export interface FeedReader {
  answer(status: StatusAnswer): void;
  state(state: FeedState): void;
}

/** Return the pause before the next attempt. */
export function nextPause(pause: number): number {
  return Math.min(pause * 2, LONGEST_PAUSE);
}

/** Whether an answer's status will not change by trying again: a missing key, a missing route. */
export function isFinal(status: number): boolean {
  return status >= 400 && status < 500 && status !== 408 && status !== 429;
}

/** A connection that is open while it is wanted and the document is visible. */
export class Feed {
  private isWanted = false;
  private attempt: AbortController | undefined;
  private goneSince: number | undefined;

  constructor(private readonly reader: FeedReader) {
    document.addEventListener("visibilitychange", () => this.follow());
  }

  open(): void {
    this.isWanted = true;
    this.follow();
  }

  close(): void {
    this.isWanted = false;
    this.follow();
  }

  /** Connect again at once. */
  retry(): void {
    this.attempt?.abort();
    this.attempt = undefined;
    this.follow();
  }

  private follow(): void {
    if (!this.isWanted || document.hidden) {
      this.attempt?.abort();
      this.attempt = undefined;
    } else if (!this.attempt) {
      this.attempt = new AbortController();
      void this.run(this.attempt.signal);
    }
  }

  private async run(ended: AbortSignal): Promise<void> {
    for (let pause = FIRST_PAUSE; !ended.aborted; pause = nextPause(pause)) {
      if (this.goneSince === undefined) this.reader.state({ kind: "connecting" });
      let reason = "it closed the connection";
      try {
        await this.read(ended, () => (pause = FIRST_PAUSE));
      } catch (e) {
        if (ended.aborted) return;
        if (e instanceof ServerError && isFinal(e.status)) {
          this.reader.state({ kind: "refused", reason: e.message });
          return;
        }
        reason = e instanceof ServerError && e.status ? e.message : "it does not answer";
      }
      if (ended.aborted) return;
      this.goneSince ??= Date.now() / 1000;
      this.reader.state({ kind: "gone", since: this.goneSince, pause, reason });
      await delay(pause, ended);
    }
  }

  /** Pass on answers until the stream ends or is silent for too long. */
  private async read(ended: AbortSignal, onAnswer: () => void): Promise<void> {
    const connection = new AbortController();
    const { signal } = connection;
    const end = (): void => connection.abort();
    ended.addEventListener("abort", end, { once: true });
    let timer: ReturnType<typeof setTimeout> | undefined;
    const received = (status: StatusAnswer): void => {
      if (ended.aborted) return;
      clearTimeout(timer);
      timer = setTimeout(end, SILENCE);
      this.goneSince = undefined;
      onAnswer();
      this.reader.state({ kind: "live" });
      this.reader.answer(status);
    };
    try {
      received(await json<StatusAnswer>("/status", { signal }));
      for await (const status of events<StatusAnswer>("/status/stream", { signal })) received(status);
    } finally {
      clearTimeout(timer);
      ended.removeEventListener("abort", end);
    }
  }
}

function delay(ms: number, ended: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    ended.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
