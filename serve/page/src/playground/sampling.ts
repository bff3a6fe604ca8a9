/** Sampling parameters of the playground's requests, as its fields give them. */

export interface Sampling {
  temperature?: number;
  top_p?: number;
  max_tokens?: number;
  seed?: number;
  n?: number;
  stop: readonly string[];
  /** Whether the request asks for the tokens' probabilities. */
  shades: boolean;
}

/** Where completions end, by the name of the choice. */
export const ENDS: Record<string, { label: string; stop: readonly string[] }> = {
  block: { label: "a blank line", stop: ["\n\n"] },
  line: { label: "the line's end", stop: ["\n"] },
  model: { label: "the model's end", stop: [] },
};

/** Several completions are alike at low temperatures, so these are used with `n`, unless the user chooses others. */
export const VARIED = { temperature: 0.8, top_p: 0.95 };

export interface SamplingTexts {
  temperature: string;
  top_p: string;
  max_tokens: string;
  seed: string;
  n: string;
  ends: string;
  shades: boolean;
}

/** Return the parameters in the fields; an empty field, or one that is not a number, leaves the server's default. */
export function samplingOf(texts: SamplingTexts): Sampling {
  const number = (text: string): number | undefined =>
    text.trim() && Number.isFinite(Number(text)) ? Number(text) : undefined;
  const n = number(texts.n) ?? 1;
  const isVaried = n > 1;
  const found = {
    temperature: number(texts.temperature) ?? (isVaried ? VARIED.temperature : undefined),
    top_p: number(texts.top_p) ?? (isVaried ? VARIED.top_p : undefined),
    max_tokens: number(texts.max_tokens),
    seed: number(texts.seed),
    n: isVaried ? n : undefined,
  };
  const given = Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined));
  return { ...given, stop: ENDS[texts.ends]?.stop ?? [], shades: texts.shades };
}
