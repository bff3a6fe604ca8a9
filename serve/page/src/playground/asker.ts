/** One request at a time: after a pause in typing, aborted by the next, tried again while the server is gone or busy. */

import { type Problem, problemOf } from "./problem";

/** Milliseconds without typing after which a request is sent. */
export const PAUSE = 180;
/** Milliseconds until a request is tried again. */
const RETRY = 1500;

export class Asker {
  private timer = 0;
  private running: AbortController | undefined;
  private isLocked = false;
  private isRetrying = false;

  /**
   * @param ask sends the request and resolves when its answer has ended.
   * @param failed is called with the problem of a failed request.
   */
  constructor(
    private readonly ask: (signal: AbortSignal) => Promise<void>,
    private readonly failed: (problem: Problem) => void,
  ) {}

  /** Abort the request, or the pause before it, but not the retries of a failed one. */
  abandon(): void {
    if (!this.isRetrying) this.stop();
  }

  /** Send a request after a pause, unless there is no valid key. */
  later(pause = PAUSE): void {
    this.stop();
    if (!this.isLocked) this.timer = window.setTimeout(() => void this.run(), pause);
  }

  /** Send a request now. */
  now(): void {
    this.stop();
    this.isLocked = false;
    void this.run();
  }

  /** Abort the request, or the pause before it. Return whether there was one. */
  stop(): boolean {
    const isBusy = this.timer !== 0 || this.running !== undefined;
    window.clearTimeout(this.timer);
    this.timer = 0;
    this.isRetrying = false;
    this.running?.abort();
    this.running = undefined;
    return isBusy;
  }

  private async run(): Promise<void> {
    this.timer = 0;
    const abort = (this.running = new AbortController());
    try {
      await this.ask(abort.signal);
      if (this.running !== abort) return;
      this.running = undefined;
      this.isRetrying = false;
    } catch (error) {
      if (this.running !== abort) return; // aborted
      this.running = undefined;
      const problem = problemOf(error);
      if (!problem) return;
      this.isLocked = problem.needsKey;
      this.failed(problem);
      if (!problem.isPassing) return;
      this.later(RETRY);
      this.isRetrying = true;
    }
  }
}
