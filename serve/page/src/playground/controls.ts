/** The fields of the playground: what is asked for, and how. */

import { element } from "../element";
import { ENDS, type Sampling, samplingOf, type SamplingTexts, VARIED } from "./sampling";

/** The server's defaults, from `/props`. */
export interface ServerDefaults {
  temperature: number;
  top_p: number;
  max_tokens: number;
}

/** Return a select with its label in front. */
export function choice(label: string, options: Record<string, string>, changed: () => void): [HTMLElement, HTMLSelectElement] {
  const select = element("select");
  setOptions(select, options);
  select.addEventListener("change", changed);
  return [labelled(label, select), select];
}

/** Replace the options of a select, and keep its value if it is still one of them. */
export function setOptions(select: HTMLSelectElement, options: Record<string, string>): void {
  const { value } = select;
  select.replaceChildren(...Object.entries(options).map(([name, text]) => element("option", { value: name, textContent: text })));
  if (value in options) select.value = value;
}

/** Fields of the sampling parameters; an empty one leaves the server's default, which it shows. */
export class SamplingFields {
  readonly box: HTMLElement;
  private readonly temperature = numberField(0, 2, 0.1);
  private readonly topP = numberField(0, 1, 0.05);
  private readonly maxTokens = numberField(1, 4096, 1);
  private readonly seed = numberField(0, 2 ** 31 - 1, 1);
  private readonly n = numberField(1, 8, 1);
  private readonly ends: HTMLSelectElement;
  private readonly shades = element("input", { type: "checkbox" });
  private readonly automatic = element("input", { type: "checkbox", checked: true });
  private readonly legend = element(
    "p",
    { className: "note", hidden: true },
    ...["90 %", "50 %", "10 %"].flatMap((least, i) => [element("span", { className: `p${3 - i}`, textContent: least }), ", "]),
    element("span", { className: "p0", textContent: "less" }),
  );
  private defaults: ServerDefaults | undefined;

  constructor(changed: () => void) {
    const labels = Object.fromEntries(Object.entries(ENDS).map(([name, end]) => [name, end.label]));
    const [ends, select] = choice("Stop at", labels, changed);
    this.ends = select;
    this.n.value = "1";
    this.seed.placeholder = "random";
    this.box = element(
      "div",
      { className: "fields" },
      labelled("Temperature", this.temperature),
      labelled("top_p", this.topP, "Sample from the most likely tokens that have this probability together"),
      labelled("Max. tokens", this.maxTokens),
      labelled("Seed", this.seed),
      labelled("Alternatives", this.n, "Completions of each request"),
      ends,
      toggle(this.automatic, "Complete while typing"),
      toggle(this.shades, "Colour by probability"),
      this.legend,
    );
    for (const input of [this.temperature, this.topP, this.maxTokens, this.seed, this.n, this.shades])
      input.addEventListener("change", () => {
        this.hint();
        this.legend.hidden = !this.shades.checked;
        if (input.checkValidity()) changed();
      });
  }

  /** Whether completions are asked for while the user types. */
  get isAutomatic(): boolean {
    return this.automatic.checked;
  }

  get sampling(): Sampling {
    // A field whose value is out of range counts as empty; the browser marks it.
    const text = (input: HTMLInputElement): string => (input.checkValidity() ? input.value : "");
    const texts: SamplingTexts = {
      temperature: text(this.temperature),
      top_p: text(this.topP),
      max_tokens: text(this.maxTokens),
      seed: text(this.seed),
      n: text(this.n),
      ends: this.ends.value,
      shades: this.shades.checked,
    };
    return samplingOf(texts);
  }

  setDefaults(defaults: ServerDefaults): void {
    this.defaults = defaults;
    this.hint();
  }

  private hint(): void {
    const isVaried = Number(this.n.value) > 1;
    const show = (value: number | undefined): string => (value === undefined ? "" : String(Number(value.toPrecision(3))));
    this.temperature.placeholder = show(isVaried ? VARIED.temperature : this.defaults?.temperature);
    this.topP.placeholder = show(isVaried ? VARIED.top_p : this.defaults?.top_p);
    this.maxTokens.placeholder = show(this.defaults?.max_tokens);
  }
}

function numberField(least: number, most: number, step: number): HTMLInputElement {
  return element("input", { type: "number", min: String(least), max: String(most), step: String(step), autocomplete: "off" });
}

function labelled(label: string, field: HTMLInputElement | HTMLSelectElement, title = ""): HTMLElement {
  field.id = `playground-${label.toLowerCase().replace(/\W+/g, "-")}`;
  return element("div", { className: "choice", title }, element("label", { htmlFor: field.id, textContent: label }), field);
}

function toggle(input: HTMLInputElement, label: string): HTMLElement {
  return element("label", { className: "toggle" }, input, element("span", { textContent: label }));
}
