/** The numbers of a completion that are shown below the editor. */

import { NOTHING } from "../units";
import type { CompletionReader } from "./completion_stream";

export interface Fact {
  name: string;
  value: string;
  title: string;
}

const ENDINGS: Record<string, string> = { stop: "stop", length: "token limit" };

/** Return the facts of a completion; each is always there, so that the line does not move. */
export function facts(reader: CompletionReader | undefined, firstTokenMs: number | undefined): Fact[] {
  const { usage, timings, ended } = reader ?? { usage: null, timings: undefined, ended: null };
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  const drafted = timings?.draft_n ?? 0;
  const speed = timings?.predicted_per_second;
  return [
    { name: "First token", value: milliseconds(firstTokenMs), title: "Time from the request to the first text" },
    { name: "Speed", value: speed ? `${speed.toFixed(speed < 10 ? 1 : 0)} tokens/s` : NOTHING, title: "Speed of decoding" },
    { name: "Tokens", value: usage ? String(usage.completion_tokens) : NOTHING, title: "Generated tokens" },
    {
      name: "Cached",
      value: usage && cached !== undefined ? `${cached} of ${usage.prompt_tokens}` : NOTHING,
      title: "Tokens of the prompt that were in the KV cache",
    },
    {
      name: "Drafts",
      value: drafted ? `${timings?.draft_n_accepted ?? 0} of ${drafted}` : NOTHING,
      title: "Draft tokens that the model accepted",
    },
    { name: "End", value: ended ? (ENDINGS[ended] ?? ended) : NOTHING, title: "Why the completion ended" },
  ];
}

/** Return a duration: `43 ms` or `1.2 s`. */
export function milliseconds(ms: number | undefined): string {
  if (ms === undefined) return NOTHING;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** Return the class of a token by its probability: `p0` for less than 10 %, … `p3` from 90 %. */
export function shadeOf(logprob: number | null): string {
  const p = logprob === null ? 1 : Math.exp(logprob);
  return p >= 0.9 ? "p3" : p >= 0.5 ? "p2" : p >= 0.1 ? "p1" : "p0";
}
