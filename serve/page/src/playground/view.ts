/** The playground: a code editor with completions as ghost text. */

import type { View } from "../tabs";
import { Playground } from "./playground";

export function playground(panel: HTMLElement): View {
  const made = new Playground();
  panel.append(...made.parts);
  return { open: () => made.open(), close: () => made.close() };
}
