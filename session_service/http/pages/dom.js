// Makes elements. Text is always a text node, so nothing that people or programs wrote is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

// The sprite is put into the page once, so that icons are there without network, too: just then they are needed.
const sprite = await fetch("/assets/icons.svg")
  .then((response) => response.text())
  .catch(() => "");
const symbols = new DOMParser().parseFromString(sprite, "image/svg+xml").documentElement;
if (symbols.localName === "svg") {
  for (const symbol of symbols.querySelectorAll("symbol")) symbol.id = `i-${symbol.id}`;
  symbols.setAttribute("class", "sprite");
  symbols.setAttribute("aria-hidden", "true");
  document.body.append(document.importNode(symbols, true));
}

/** Return a new element. `props`: class, attributes, and functions under the name of an event. */
export function h(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** Return a new SVG element. */
export function svg(tag, props = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

/** Return an icon of the sprite; it says nothing by itself. */
export function icon(id, extra = "") {
  return svg(
    "svg",
    { class: `icon ${extra}`.trim(), "aria-hidden": "true" },
    svg("use", { href: `#i-${id}` }),
  );
}

/** Replace what an element holds. */
export function put(element, ...children) {
  element.replaceChildren(
    ...children.flat().filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Set text only where it differs, so that nothing is announced or painted without a change. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

function filled(element, props, children) {
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key, value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(
    ...children.flat().filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}
