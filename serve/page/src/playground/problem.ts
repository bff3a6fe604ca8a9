/** What went wrong with a request, and what to do about it, in one line. */

import { ServerError } from "../server";
import { spoken } from "./visible";

export interface Problem {
  text: string;
  /** Whether the same request may succeed in a moment. */
  isPassing: boolean;
  /** Whether an API key is missing. */
  needsKey: boolean;
}

/** Return the problem that an error means; null if a newer request ended this one. */
export function problemOf(error: unknown): Problem | null {
  const status = error instanceof ServerError ? error.status : undefined;
  const message = spoken(error instanceof Error ? error.message : String(error), 300);
  const passing = (text: string): Problem => ({ text, isPassing: true, needsKey: false });
  const lasting = (text: string): Problem => ({ text, isPassing: false, needsKey: status === 401 });
  switch (status) {
    case 0:
      return passing("The server does not answer. Start it again with: turbopilot serve. Trying to reach it…");
    case undefined:
      // A stream that broke off: the server ended, or reported an error in the stream.
      if (error instanceof TypeError && /network|fetch|load|stream/i.test(message)) return passing("The connection to the server was lost. Trying to reach it…");
      return lasting(`The completion failed: ${message}`);
    case 401:
      return lasting("The server requires an API key.");
    case 499:
      return null;
    case 503:
      return passing(`The server is busy or still loading the model: ${message}. Trying again…`);
    case 504:
      return lasting(`The completion took too long: ${message}. Ask for fewer tokens.`);
    default:
      return lasting(`The server refused the request (status ${status}): ${message}`);
  }
}
