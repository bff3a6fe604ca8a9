/** Next edits: the request of Sweep's plugins, which has the recent changes, and the edit in its answer. */

/** Lines of context around a change. */
const CONTEXT = 2;
/** Files that are longer are not sent. */
export const MOST_FILE = 200_000;

export interface NextEditBody {
  file_path: string;
  file_contents: string;
  original_file_contents: string;
  cursor_position: number;
  recent_changes: string;
  model?: string;
}

export interface NextEditAnswer {
  start_index: number;
  end_index: number;
  completion: string;
  autocomplete_id: string;
  finish_reason: string;
  elapsed_time_ms: number;
  completions: unknown[];
}

/** Replacement of a range of the document. */
export interface ProposedEdit {
  from: number;
  to: number;
  insert: string;
}

/** An edit as a difference of whole lines. */
export interface LineDifference {
  /** Range of the old lines in the document, without the last newline. */
  from: number;
  to: number;
  removed: string[];
  added: string[];
}

/** Return the change between two texts as one hunk of a unified diff; "" if they are equal. */
export function recentChange(path: string, before: string, after: string): string {
  if (before === after) return "";
  const [old, now] = [before.split("\n"), after.split("\n")];
  const most = Math.min(old.length, now.length);
  let head = 0;
  while (head < most && old[head] === now[head]) head++;
  let tail = 0;
  while (tail < most - head && old[old.length - 1 - tail] === now[now.length - 1 - tail]) tail++;
  const first = Math.max(0, head - CONTEXT);
  const [oldEnd, nowEnd] = [old.length - tail, now.length - tail];
  const below = old.slice(oldEnd, oldEnd + CONTEXT);
  const above = old.slice(first, head);
  const sizes = [oldEnd, nowEnd].map((end) => end - first + below.length);
  const lines = [
    `File: ${path}`,
    `@@ -${first + 1},${sizes[0]} +${first + 1},${sizes[1]} @@`,
    ...above.map((line) => ` ${line}`),
    ...old.slice(head, oldEnd).map((line) => `-${line}`),
    ...now.slice(head, nowEnd).map((line) => `+${line}`),
    ...below.map((line) => ` ${line}`),
  ];
  return `${lines.join("\n")}\n`;
}

/** Return the edit in an answer; null if there is none. Its indices count characters, not code units. */
export function proposedEdit(answer: NextEditAnswer, text: string): ProposedEdit | null {
  if (!answer.completions.length) return null;
  const [from, to] = [answer.start_index, answer.end_index].map((index) => codeUnitOffset(text, index)) as [number, number];
  const isSame = text.slice(from, to) === answer.completion;
  return isSame || to < from ? null : { from, to, insert: answer.completion };
}

function codeUnitOffset(text: string, characters: number): number {
  let offset = 0;
  for (let n = 0; n < characters && offset < text.length; n++) offset += text.codePointAt(offset)! > 0xffff ? 2 : 1;
  return offset;
}

/** Return an edit as the lines that it removes and adds. */
export function lineDifference(edit: ProposedEdit, text: string): LineDifference {
  const from = text.lastIndexOf("\n", edit.from - 1) + 1;
  const end = text.indexOf("\n", edit.to);
  const to = end < 0 ? text.length : end;
  const old = text.slice(from, to).split("\n");
  const now = (text.slice(from, edit.from) + edit.insert + text.slice(edit.to, to)).split("\n");
  let head = 0;
  while (head < Math.min(old.length, now.length) - 1 && old[head] === now[head]) head++;
  let tail = 0;
  while (tail < Math.min(old.length, now.length) - head - 1 && old.at(-1 - tail) === now.at(-1 - tail)) tail++;
  const skipped = (lines: string[]): number => lines.reduce((n, line) => n + line.length + 1, 0);
  return {
    from: from + skipped(old.slice(0, head)),
    to: to - skipped(old.slice(old.length - tail)),
    removed: old.slice(head, old.length - tail),
    added: now.slice(head, now.length - tail),
  };
}
