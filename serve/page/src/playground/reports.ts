/** Reports of completions that were shown, accepted and dismissed, in the format of Tabby's `/v1/events`. */

import { send } from "../server";

export type Outcome = "view" | "select" | "dismiss";

export interface TabbyEvent {
  type: Outcome;
  completion_id: string;
  choice_index: number;
  view_id: string;
  /** Milliseconds since the completion was shown. */
  elapsed?: number;
}

/** Reports what happens to one request's completions; each alternative is shown and decided at most once. */
export class Report {
  private readonly shownAt = new Map<number, number>();
  private decided = false;

  constructor(
    private readonly completion: string,
    private readonly post: (event: TabbyEvent) => void = postEvent,
    private readonly now: () => number = () => performance.now(),
  ) {}

  /** An alternative is visible. */
  view(choice: number): void {
    if (this.shownAt.has(choice)) return;
    this.shownAt.set(choice, this.now());
    this.report("view", choice);
  }

  /** An alternative, or a part of it, was accepted (select), or it vanished without that (dismiss). */
  decide(outcome: "select" | "dismiss", choice: number): void {
    if (this.decided || !this.shownAt.has(choice)) return;
    this.decided = true;
    this.report(outcome, choice);
  }

  private report(type: Outcome, choice: number): void {
    const shown = this.shownAt.get(choice)!;
    const elapsed = type === "view" ? {} : { elapsed: Math.round(this.now() - shown) };
    const about = { completion_id: this.completion, choice_index: choice };
    this.post({ type, ...about, view_id: `view-${this.completion}-${choice}`, ...elapsed });
  }
}

/** Send an event. Its failure does not matter: the completion has its own errors. */
function postEvent(event: TabbyEvent): void {
  send("/v1/events", { body: event }).catch(() => undefined);
}
