/** Tables whose rows are updated in place. */

import { element } from "../element";
import { KeyedParts, type Part, setAttribute, setText } from "./rows";

export interface Column<T> {
  head: string;
  /** "number" aligns right; "stack" has a stacked bar. */
  kind?: "number" | "text" | "stack";
  /** Text of a cell, or what fills and updates a cell. */
  text?: (item: T) => string;
  draw?: (cell: HTMLElement) => (item: T) => void;
  /** Makes the column sortable by this value, the highest first. */
  sortBy?: (item: T) => number;
}

export interface Table<T> {
  element: HTMLElement;
  update(items: readonly T[]): void;
}

/** Return the items in the order of a column: the highest value first; equal ones stay in order. */
export function sorted<T>(items: readonly T[], by: ((item: T) => number) | undefined): T[] {
  return by ? [...items].sort((a, b) => by(b) - by(a)) : [...items];
}

/** Make a table with an accessible name. Wide tables scroll in their own box, also by keyboard. */
export function table<T>(
  name: string,
  columns: readonly Column<T>[],
  keyOf: (item: T) => string,
  empty: string,
): Table<T> {
  const body = element("tbody");
  const rows = new KeyedParts<T>(body, keyOf, () => row(columns));
  let items: readonly T[] = [];
  let sortedBy = columns.find((c) => c.sortBy);

  const heads = columns.map((column) => {
    const head = element("th", { scope: "col", className: column.kind ?? "text" });
    if (!column.sortBy) {
      head.textContent = column.head;
      return head;
    }
    const button = element("button", { type: "button", className: "sort", textContent: column.head });
    button.addEventListener("click", () => {
      sortedBy = column;
      show();
    });
    head.append(button);
    return head;
  });
  const none = element("p", { className: "none", textContent: empty });
  const grid = element(
    "table",
    {},
    element("caption", { className: "unseen", textContent: name }),
    element("thead", {}, element("tr", {}, ...heads)),
    body,
  );
  const box = element(
    "div",
    { className: "table-box", tabIndex: 0, attributes: { role: "region", "aria-label": name } },
    grid,
    none,
  );

  function show(): void {
    for (const [i, column] of columns.entries()) {
      if (column.sortBy) setAttribute(heads[i]!, "aria-sort", column === sortedBy ? "descending" : "none");
    }
    rows.update(sorted(items, sortedBy?.sortBy));
    grid.hidden = !items.length;
    none.hidden = items.length > 0;
  }
  show();
  return {
    element: box,
    update: (more) => {
      items = more;
      show();
    },
  };
}

function row<T>(columns: readonly Column<T>[]): Part<T> {
  const updates: ((item: T) => void)[] = [];
  const cells = columns.map((column) => {
    const cell = element("td", { className: column.kind ?? "text" });
    setAttribute(cell, "data-head", column.head);
    updates.push(column.draw?.(cell) ?? ((item) => setText(cell, column.text?.(item) ?? "")));
    return cell;
  });
  return {
    element: element("tr", {}, ...cells),
    update: (item) => updates.forEach((update) => update(item)),
  };
}
