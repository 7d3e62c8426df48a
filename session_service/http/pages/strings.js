// Every text that people read comes from strings/en.json by its key. `t` gives plain text, `say` gives nodes in which
// **bold** stands out. Names that people made up come as nodes (`name`), isolated and never interpreted.

const answer = await fetch(new URL("./strings/en.json", import.meta.url));
const catalogue = await answer.json();
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const plurals = new Intl.PluralRules("en");

/** Return the text of a key; a value with plural forms is chosen by `values.n`. */
export function t(key, values = {}) {
  return pieces(key, values)
    .map((piece) => piece.text ?? String(piece.node?.textContent ?? ""))
    .join("")
    .replaceAll("**", "");
}

/** Return the text of a key as nodes. */
export function say(key, values = {}) {
  const made = document.createDocumentFragment();
  let into = made;
  for (const piece of pieces(key, values)) {
    if (piece.node) {
      into.append(piece.node);
      continue;
    }
    piece.text.split("**").forEach((part, index) => {
      if (index > 0) {
        into = into === made ? made.appendChild(document.createElement("b")) : made;
      }
      into.append(part);
    });
  }
  return made;
}

/** Return a name that somebody chose: isolated from the direction of the text around it. */
export function name(text) {
  const made = document.createElement("bdi");
  made.textContent = plain(text);
  return made;
}

/** Return a name with what cannot be seen made visible: controls, and marks that would turn the text around. */
export function plain(text) {
  return String(text).replace(UNSEEN, (mark) => `\\u${mark.codePointAt(0).toString(16).padStart(4, "0")}`);
}

/** Say whether the catalogue has a key, for families of keys such as causes. */
export function has(key) {
  return key in catalogue;
}

function pieces(key, values) {
  let text = catalogue[key];
  if (text === undefined) throw new Error(`no string ${key}`);
  if (typeof text === "object") text = text[plurals.select(Number(values.n))] ?? text.other;
  return text
    .split(/(\{\w+\})/)
    .filter(Boolean)
    .map((part) => {
      const match = /^\{(\w+)\}$/.exec(part);
      if (!match) return { text: part };
      const value = values[match[1]];
      return value instanceof Node ? { node: value } : { text: String(value ?? "") };
    });
}
