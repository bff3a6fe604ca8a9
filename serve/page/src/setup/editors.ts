/** The answer of /status/editors, as serve/api/status.py declares it, and the list that one chooses from. */

export interface EditorSetting {
  where: string;
  format: string;
  text: string;
}

export interface CheckRequest {
  method: "GET" | "POST";
  path: string;
  body?: Record<string, unknown>;
  streams: boolean;
}

export interface EditorStatus {
  name: string;
  editor: string;
  plugin: string;
  settings: EditorSetting[];
  notes: string[];
  source: string;
  evidence: string;
  check?: CheckRequest;
}

export interface EditorsAnswer {
  editors: EditorStatus[];
  key_placeholder: string;
}

export interface EditorGroup {
  title: string;
  editors: EditorStatus[];
}

/** Group editors by program, in the server's order; a plugin for several programs is in each of their groups. */
export function grouped(editors: readonly EditorStatus[]): EditorGroup[] {
  const groups = new Map<string, EditorStatus[]>();
  for (const e of editors) {
    for (const program of e.editor.split(", ")) {
      const title = program[0]!.toUpperCase() + program.slice(1);
      groups.set(title, [...(groups.get(title) ?? []), e]);
    }
  }
  return [...groups].map(([title, editors]) => ({ title, editors }));
}

/** Return the editors whose names contain every word of a query; separators are ignored. */
export function matching(editors: readonly EditorStatus[], query: string): EditorStatus[] {
  const words = query.split(/\s+/).map(plain).filter(Boolean);
  return editors.filter((e) => {
    const names = plain(`${e.name} ${e.plugin} ${e.editor}`);
    return words.every((word) => names.includes(word));
  });
}

function plain(text: string): string {
  return text.toLowerCase().replace(/[\s._-]+/g, "");
}

/** Whether a plugin's settings contain the key's placeholder. */
export function sendsKey(editor: EditorStatus, placeholder: string): boolean {
  return !!placeholder && editor.settings.some((s) => s.text.includes(placeholder));
}
