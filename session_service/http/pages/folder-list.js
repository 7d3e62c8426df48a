// The entries of one folder of a checkpoint, page by page: more come when the end of the list is near, or by a button,
// and names are found by how they begin, so that a folder of a million is no longer to look into than one of ten.
// Not what a row shows: files.js draws those.

import { get, words } from "./api.js";
import { h, icon, put, text } from "./dom.js";
import { button } from "./parts.js";
import { t } from "./strings.js";
import * as times from "./times.js";

const PAGE_ENTRIES = 200;
const BY_ITSELF_MAX = 2000; // rows that come by scrolling; beyond them each page is asked for, so that a page stays light
const TYPING_MS = 300;
const NEAR = "600px"; // so far before its end is seen the next page is asked for

/** Return the first page of a folder; `address` is that of the folder, with its path. */
export function firstPage(address, prefix = "") {
  return page(address, prefix, "");
}

function page(address, prefix, cursor) {
  const more = `&limit=${PAGE_ENTRIES}&prefix=${encodeURIComponent(prefix)}`;
  return get(`${address}${more}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
}

/** Return the elements of a folder: for a small one its table only. `row` draws an entry, `table` makes the table. */
export function folderList(address, first, { row, table }) {
  const body = h("tbody", { role: "rowgroup" });
  const said = h("p", { class: "small muted", role: "status" });
  const foot = h("div", { class: "folder-foot" });
  const region = h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": t("files.region") },
    table(body),
    foot,
  );
  if (!first.next_cursor) {
    body.append(...sorted(first.items).map(row));
    return first.items.length > 0
      ? [region]
      : [h("div", { class: "empty" }, icon("folder-open"), h("p", {}, t("files.empty")))];
  }

  let prefix = "";
  let cursor = null;
  let shown = 0;
  let asked = 0; // the newest question; answers of older ones are dropped
  let busy = false;
  let failed = false;
  const more = button(t("files.more"), () => load({ focus: true }), { kind: "small" });
  const field = h("input", {
    class: "input small",
    type: "search",
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    maxlength: "255",
    placeholder: t("files.find_placeholder"),
    input: later,
  });
  const near = new IntersectionObserver(
    (seen) => seen.at(-1).isIntersecting && !failed && shown < BY_ITSELF_MAX && load(),
    { rootMargin: NEAR },
  );
  near.observe(foot);

  let typing = 0;
  function later() {
    clearTimeout(typing);
    typing = setTimeout(find, TYPING_MS);
  }

  async function find() {
    if (field.value === prefix && !failed) return;
    prefix = field.value;
    cursor = null; // where the rows that are shown go on is no page of these names
    const mine = (asked += 1);
    busy = true; // no page of what was shown until now comes in between
    try {
      const found = await page(address, prefix, "");
      if (mine !== asked) return;
      put(body);
      shown = 0;
      region.scrollTop = 0;
      add(found);
    } catch (problem) {
      if (mine === asked) refuse(problem);
    } finally {
      if (mine === asked) busy = false;
    }
  }

  async function load({ focus = false } = {}) {
    if (busy || !cursor) return;
    busy = true;
    const mine = asked;
    more.setAttribute("aria-disabled", "true");
    try {
      const found = await page(address, prefix, cursor);
      if (mine !== asked) return;
      const rows = add(found);
      if (focus) rows[0]?.querySelector("a")?.focus(); // whoever pressed the button goes on where the new ones begin
    } catch (problem) {
      if (mine === asked) refuse(problem);
    } finally {
      if (mine === asked) busy = false;
      more.removeAttribute("aria-disabled");
    }
  }

  function refuse(problem) {
    failed = true;
    put(foot, h("p", { class: "small is-alarm", role: "alert" }, words(problem)), cursor && more);
  }

  function add(found) {
    failed = false;
    const rows = found.items.map(row);
    body.append(...rows);
    shown += rows.length;
    cursor = found.next_cursor;
    const values = { n: shown, count: times.count(shown) };
    if (!shown) text(said, t("files.find_none"));
    else text(said, cursor ? t("files.shown_first", values) : t("files.shown_all", values));
    put(foot, said, cursor && more);
    if (cursor) {
      near.unobserve(foot); // observing anew tells whether the end is still near
      near.observe(foot);
    }
    return rows;
  }

  add(first);
  return [
    h(
      "div",
      { class: "folder-find" },
      h("label", { class: "search" }, h("span", { class: "sr" }, t("files.find")), icon("search"), field),
      h("p", { class: "small muted" }, t("files.find_more")),
    ),
    region,
  ];
}

/** Sort what is all of a folder as people look for it: folders first, then by name in their language. */
function sorted(items) {
  return [...items].sort((a, b) =>
    (a.kind === "folder") === (b.kind === "folder")
      ? a.name.localeCompare(b.name)
      : a.kind === "folder"
        ? -1
        : 1,
  );
}
