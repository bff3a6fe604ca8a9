/** Updates in place: texts and rows change only where values do, so selection and focus stay. */

/** Set the text of an element if it differs. */
export function setText(target: Element, text: string): void {
  const { firstChild } = target;
  if (firstChild instanceof Text && !firstChild.nextSibling) {
    if (firstChild.data !== text) firstChild.data = text;
  } else if (target.textContent !== text) {
    target.textContent = text;
  }
}

/** Set an attribute if it differs. */
export function setAttribute(target: Element, name: string, value: string): void {
  if (target.getAttribute(name) !== value) target.setAttribute(name, value);
}

export interface Part<T> {
  element: HTMLElement;
  update(item: T): void;
}

/** Children of an element, one for each item; `make` is called for new keys. */
export class KeyedParts<T> {
  private parts = new Map<string, Part<T>>();

  constructor(
    private readonly parent: Element,
    private readonly keyOf: (item: T) => string,
    private readonly make: (item: T) => Part<T>,
  ) {}

  /** Show these items in this order. Children that stay in order are not moved. */
  update(items: readonly T[]): void {
    const kept = new Map<string, Part<T>>();
    for (const item of items) {
      const key = this.keyOf(item);
      const part = this.parts.get(key) ?? this.make(item);
      kept.set(key, part);
      part.update(item);
    }
    for (const [key, part] of this.parts) if (kept.get(key) !== part) part.element.remove();
    this.parts = kept;
    let next = this.parent.firstElementChild;
    for (const { element } of kept.values()) {
      if (element === next) next = next.nextElementSibling;
      else this.parent.insertBefore(element, next);
    }
  }
}
