/** Requests for completions, and the reading of their streams. */

import type { Alternative } from "./ghost_text";
import type { Sampling } from "./sampling";

export interface CompletionBody {
  model?: string;
  prompt: string;
  suffix: string;
  stream: true;
  stream_options: { include_usage: true };
  max_tokens?: number;
  temperature?: number;
  top_p?: number;
  seed?: number;
  n?: number;
  logprobs?: 0;
  stop?: string[];
}

export interface CompletionTimings {
  prompt_n: number;
  prompt_ms: number;
  cache_n: number;
  predicted_n: number;
  predicted_per_second: number;
  draft_n?: number;
  draft_n_accepted?: number;
}

export interface CompletionChunk {
  id?: string;
  model?: string;
  choices?: {
    index: number;
    text: string;
    finish_reason: string | null;
    logprobs?: { text_offset: number[]; token_logprobs: (number | null)[] } | null;
  }[];
  usage?: { prompt_tokens: number; completion_tokens: number; prompt_tokens_details?: { cached_tokens: number } } | null;
  timings?: CompletionTimings;
  error?: string | { message: string; code?: string | null };
}

/** Return the body of a request for completions at the cursor. */
export function completionBody(model: string, prefix: string, suffix: string, sampling: Sampling): CompletionBody {
  const { shades, stop, ...given } = sampling;
  return {
    ...(model && { model }),
    prompt: prefix,
    suffix,
    stream: true,
    stream_options: { include_usage: true },
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
    ...(shades && { logprobs: 0 as const }),
    ...(stop.length && { stop: [...stop] }),
  };
}

/** Reader of the chunks of a stream. */
export class CompletionReader {
  id = "";
  model = "";
  usage: CompletionChunk["usage"] = null;
  timings: CompletionTimings | undefined;
  private readonly choices: Alternative[] = [];
  /** Offset of the text of each choice in that of its prompt, in code points. */
  private readonly begins: number[] = [];

  /** Add a chunk. Throws an Error with the server's message if the stream failed. */
  add(chunk: CompletionChunk): void {
    if (chunk.error) throw new Error(typeof chunk.error === "string" ? chunk.error : chunk.error.message);
    this.id ||= chunk.id ?? "";
    this.model ||= chunk.model ?? "";
    if (chunk.usage) this.usage = chunk.usage;
    if (chunk.timings) this.timings = chunk.timings;
    for (const part of chunk.choices ?? []) {
      const choice = (this.choices[part.index] ??= { text: "", tokens: [], ended: null });
      choice.text += part.text;
      if (part.logprobs) this.addTokens(choice, part.index, part.logprobs);
      choice.ended ??= part.finish_reason;
    }
  }

  /** All completions so far. Later chunks do not change them. */
  get alternatives(): Alternative[] {
    return Array.from(this.choices, (c) => (c ? { ...c, tokens: [...c.tokens] } : { text: "", tokens: [], ended: null }));
  }

  /** Why the first completion ended, or null. */
  get ended(): string | null {
    return this.choices[0]?.ended ?? null;
  }

  private addTokens(
    choice: Alternative,
    index: number,
    logprobs: { text_offset: number[]; token_logprobs: (number | null)[] },
  ): void {
    const begin = (this.begins[index] ??= logprobs.text_offset[0] ?? 0);
    const at = codeUnits(choice.text);
    logprobs.text_offset.forEach((offset, i) => {
      const from = at(offset - begin);
      const before = choice.tokens.at(-1);
      if (before) before.to = from;
      choice.tokens.push({ from, to: choice.text.length, logprob: logprobs.token_logprobs[i] ?? null });
    });
  }
}

/** Return a function that converts offsets in code points, as the server counts, to offsets in code units. */
function codeUnits(text: string): (offset: number) => number {
  if (!/[\ud800-\udbff]/.test(text)) return (offset) => Math.min(offset, text.length);
  const starts: number[] = [];
  for (let i = 0; i < text.length; i += text.codePointAt(i)! > 0xffff ? 2 : 1) starts.push(i);
  return (offset) => starts[offset] ?? text.length;
}
