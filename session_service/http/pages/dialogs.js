// Dialogs that say before they do: what will happen, in order; the button repeats the verb; Cancel is plain; focus
// starts on the heading. While the work runs the button is busy; a failure is told in the same dialog.

import { words } from "./api.js";
import { h, icon, put } from "./dom.js";
import { t } from "./strings.js";

let count = 0;

/**
 * Open a dialog. `does` is the numbered list, `fields` are nodes between list and buttons, `run(form)` does the work
 * and may throw a Problem; the dialog closes when it returns. Resolves with what `run` returned, or null.
 */
export function doing({
  title,
  lede = "",
  does = [],
  fields = [],
  verb,
  busy,
  danger = false,
  run,
  cancel = t("act.cancel"),
}) {
  count += 1;
  const id = `dialog-${count}`;
  const failed = h("p", { class: "error", role: "alert", hidden: true });
  const go = h("button", { class: `button ${danger ? "danger" : "first"}`, type: "submit" }, verb);
  const keep = h("button", { class: "button plain", type: "button" }, cancel);
  const heading = h("h1", { id, tabindex: "-1" }, title);
  const form = h(
    "form",
    { class: "sheet", method: "dialog" },
    h("div", {}, heading, lede && h("p", { class: "lede" }, lede)),
    does.length > 0 &&
      h(
        "ol",
        { class: "does" },
        does.map((each) => h("li", {}, h("span", {}, each))),
      ),
    ...fields,
    failed,
    h("div", { class: "buttons" }, go, keep),
  );
  const dialog = h("dialog", { "aria-labelledby": id }, form);
  document.body.append(dialog);
  return new Promise((resolve) => {
    let result = null;
    keep.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    dialog.addEventListener("cancel", (event) => {
      if (go.hasAttribute("aria-busy")) event.preventDefault();
    });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (go.hasAttribute("aria-busy")) return;
      setBusy(go, busy ?? verb);
      failed.hidden = true;
      try {
        result = (await run(form)) ?? true;
        dialog.close();
      } catch (problem) {
        failed.hidden = false;
        put(failed, icon("octagon-alert"), h("span", {}, words(problem)));
        setReady(go, verb);
      }
    });
    dialog.showModal();
    (form.querySelector("[data-first]") ?? heading).focus();
  });
}

/** Show that a button works; its width is kept. */
export function setBusy(button, label) {
  button.style.minInlineSize = `${button.offsetWidth}px`;
  button.setAttribute("aria-busy", "true");
  button.setAttribute("aria-disabled", "true");
  button.textContent = label;
}

/** Undo `setBusy`. */
export function setReady(button, label) {
  button.removeAttribute("aria-busy");
  button.removeAttribute("aria-disabled");
  button.textContent = label;
}

/** Run work behind a button that shows that it runs. Returns what the work returned; throws what it threw. */
export async function busyWhile(button, label, work) {
  if (button.hasAttribute("aria-busy")) return null;
  const before = [...button.childNodes];
  setBusy(button, label);
  try {
    return await work();
  } finally {
    button.removeAttribute("aria-busy");
    button.removeAttribute("aria-disabled");
    button.replaceChildren(...before);
  }
}

/** Return a field: label and input, with the attributes of the input. */
export function field(label, attributes = {}, hint = "") {
  count += 1;
  const id = `field-${count}`;
  const input = h("input", {
    class: "input",
    id,
    ...attributes,
    "aria-describedby": hint ? `${id}-hint` : null,
  });
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    input,
    hint && h("p", { class: "small muted", id: `${id}-hint` }, hint),
  );
}

/** Return a choice of one of several: rows of {value, title, more, checked}. */
export function choices(name, legend, rows) {
  return h(
    "fieldset",
    { class: "stack-s" },
    h("legend", { class: "label" }, legend),
    rows.map((row, index) =>
      h(
        "label",
        { class: "choice" },
        h("input", { type: "radio", name, value: row.value, checked: row.checked ?? index === 0 }),
        h("b", {}, row.title),
        h("span", { class: "soft" }, row.more),
      ),
    ),
  );
}

/** Open a menu under a button: rows of {label, lead, run} or {label, lead, href}. Follows the ARIA menu pattern. */
export function menu(opener, rows, label) {
  const existing = document.querySelector(".menu");
  if (existing) {
    const same = existing.dataset.of === opener.id;
    existing.remove();
    opener.setAttribute("aria-expanded", "false");
    if (same) return;
  }
  count += 1;
  opener.id ||= `opener-${count}`;
  const items = rows.filter(Boolean).map((row) =>
    h(
      row.href ? "a" : "button",
      {
        class: "menu-item",
        role: "menuitem",
        tabindex: "-1",
        href: row.href,
        type: row.href ? null : "button",
        click: () => {
          close();
          row.run?.();
        },
      },
      row.lead && icon(row.lead),
      h("span", {}, row.label, row.more && h("span", { class: "soft small" }, row.more)),
    ),
  );
  const box = h("div", { class: "menu", role: "menu", "aria-label": label, "data-of": opener.id }, items);
  const close = () => {
    box.remove();
    opener.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", outside, true);
  };
  const outside = (event) => {
    if (!box.contains(event.target) && !opener.contains(event.target)) close();
  };
  box.addEventListener("keydown", (event) => {
    const at = items.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      items.at((at + step) % items.length).focus();
    }
    if (event.key === "Home" || event.key === "End") {
      event.preventDefault();
      items.at(event.key === "Home" ? 0 : -1).focus();
    }
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
      opener.focus();
    }
    if (event.key === "Tab") close();
  });
  opener.setAttribute("aria-expanded", "true");
  opener.after(box);
  place(box, opener);
  document.addEventListener("pointerdown", outside, true);
  items[0]?.focus();
}

function place(box, opener) {
  const at = opener.getBoundingClientRect();
  const below = at.bottom + box.offsetHeight + 8 < innerHeight;
  box.style.top = below ? `${at.bottom + 4}px` : `${Math.max(8, at.top - box.offsetHeight - 4)}px`;
  box.style.left = `${Math.max(8, Math.min(at.left, innerWidth - box.offsetWidth - 8))}px`;
}
