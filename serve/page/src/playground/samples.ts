/** A sample file of each language; `█` marks the cursor. */

export interface Sample {
  file: string;
  text: string;
}

export const CURSOR = "█";

export const SAMPLES: Record<string, Sample> = {
  // The bundled model completes this one well.
  python: {
    file: "tree.py",
    text: `"""Trees of named nodes."""


class Node:
    """A node with a name and children."""

    def __init__(self, name, parent=None):
        self.name = name
        self.parent = parent
        self.children = []

    def __repr__(self):
        return █

    def add(self, child):
        self.children.append(child)
`,
  },
  typescript: {
    file: "cart.ts",
    text: `/** Items in a shopping cart. */
interface Item {
  name: string;
  price: number;
  quantity: number;
}

/** Return the price of all items together. */
export function total(items: Item[]): number {
  █
}

/** Return the items without those of this name. */
export function without(items: Item[], name: string): Item[] {
  return items.filter((item) => item.name !== name);
}
`,
  },
  rust: {
    file: "stack.rs",
    text: `/// A stack of values.
pub struct Stack<T> {
    items: Vec<T>,
}

impl<T> Stack<T> {
    pub fn new() -> Self {
        Stack { items: Vec::new() }
    }

    pub fn push(&mut self, item: T) {
        █
    }

    pub fn pop(&mut self) -> Option<T> {
        self.items.pop()
    }
}
`,
  },
  cpp: {
    file: "vec.cpp",
    text: `#include <cmath>

/** A vector in the plane. */
struct Vec {
    double x;
    double y;

    double length() const {
        return █
    }

    Vec operator+(const Vec& other) const {
        return {x + other.x, y + other.y};
    }
};
`,
  },
  go: {
    file: "words.go",
    text: `package words

import "strings"

// Count returns how often each word occurs in a text.
func Count(text string) map[string]int {
	counts := make(map[string]int)
	for _, word := range strings.Fields(text) {
		█
	}
	return counts
}
`,
  },
  java: {
    file: "Account.java",
    text: `/** A bank account. */
public class Account {
    private final String owner;
    private long balance;

    public Account(String owner) {
        this.owner = owner;
    }

    /** Add an amount to the balance. */
    public void deposit(long amount) {
        █
    }

    public long getBalance() {
        return balance;
    }
}
`,
  },
  html: {
    file: "index.html",
    text: `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>Shop</title>
  </head>
  <body>
    <h1>Shop</h1>
    <ul>
      <li><a href="/apples">Apples</a></li>
      <li>█
    </ul>
  </body>
</html>
`,
  },
  plain: {
    file: "notes.txt",
    text: `Shopping list

- 6 apples
- 2 loaves of bread
- █
`,
  },
};

/** Return the text of a sample, and the offset of its cursor. */
export function opened(sample: Sample): { text: string; cursor: number } {
  const cursor = sample.text.indexOf(CURSOR);
  return { text: sample.text.replace(CURSOR, ""), cursor };
}
