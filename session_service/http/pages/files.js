// My files: left the line of checkpoints, right the folder at that time. Works without a desktop. Nothing is changed
// here; files are downloaded, or a desktop is started with them.

import { start } from "./acts.js";
import { all, get, post, send, words } from "./api.js";
import { doing } from "./dialogs.js";
import { h, icon, put } from "./dom.js";
import { firstPage, folderList } from "./folder-list.js";
import { frame } from "./frame.js";
import { toast } from "./notes.js";
import { button } from "./parts.js";
import { name, plain, say, t } from "./strings.js";
import * as times from "./times.js";

const GLYPHS = { folder: "folder", file: "file-text", link: "link-2-off" };
const ARCHIVE = /\.(zip|tar|gz|tgz|xz|zst|bz2|7z)$/i;
const PICTURE = /\.(png|jpe?g|gif|webp|svg|avif)$/i;
const TABLE = /\.(csv|tsv|ods|xlsx?)$/i;
const FOLD_MIN = 3; // so many automatic checkpoints in a row become one line
const CHECKPOINTS_MAX = 1000;
const LEFT_OUT_SHOWN_MAX = 20;
const RESTORE_MS_MAX = 600_000;

const asked = new URLSearchParams(location.search);
await frame("files", t("files.title"));
const main = document.querySelector("main");
const line = h("nav", { class: "points", "aria-label": t("files.line"), tabindex: "0" });
const pick = h("select", { class: "input", id: "pick" });
const folder = h("section", { class: "folder", "aria-labelledby": "f-h" });
const chooser = h("div", { class: "row" });
put(
  main,
  h(
    "div",
    { class: "stack" },
    h("div", { class: "head" }, h("h1", {}, t("files.title")), h("div", { class: "push" }, chooser)),
    h("div", { class: "points-pick field" }, h("label", { for: "pick" }, t("files.pick")), pick),
    h("div", { class: "card files" }, line, folder),
  ),
);

let workspaces = [];
let workspace = null;
let checkpoints = [];
let conflicts = []; // what a desktop that was not the owner any more held; never part of the line
let shown = null;
let path = "";
let unfolded = new Set();

function fail(problem) {
  put(
    folder,
    h(
      "div",
      { class: "empty" },
      icon("octagon-alert"),
      h("h2", { id: "f-h" }, t("files.failed")),
      h("p", {}, words(problem)),
      h("p", { class: "small muted" }, t("files.not_affected")),
      button(t("act.try_now"), () => load()),
    ),
  );
}

function numbered(seq) {
  return [...checkpoints, ...conflicts].find((each) => String(each.seq) === seq);
}

function isAutomatic(each) {
  return each.reason === "periodic" && each.complete;
}

/** Return glyph, colour and words for why a checkpoint was taken. */
function why(each) {
  if (conflicts.includes(each)) return ["cp-part", "held", t("files.why_beside")];
  if (!each.complete)
    return [
      "cp-part",
      "alarm",
      t("files.incomplete", { n: each.unreadable, files: times.files(each.unreadable) }),
    ];
  if (each.final) return ["cp-final", "closed", t("files.why_final")];
  const found = {
    loss: ["cp-loss", "held", "files.why_loss"],
    periodic: ["cp-auto", "active", "files.why_periodic"],
    first_of_close: ["cp-auto", "closing", "files.why_close"],
  }[each.reason];
  return found ? [found[0], found[1], t(found[2])] : ["cp-hand", "starting", t("files.why_hand")];
}

/** Group the checkpoints by day, runs of automatic ones folded. */
function groups() {
  const days = [];
  for (let i = 0; i < checkpoints.length;) {
    const day = times.day(checkpoints[i].saved_as_of);
    if (days.at(-1)?.day !== day) days.push({ day, rows: [] });
    let j = i;
    while (
      j < checkpoints.length &&
      isAutomatic(checkpoints[j]) &&
      times.day(checkpoints[j].saved_as_of) === day
    )
      j += 1;
    const run = checkpoints.slice(i + (i === 0 ? 1 : 0), j);
    if (i === 0 || run.length < FOLD_MIN || run.includes(shown) || unfolded.has(run[0].seq)) {
      days.at(-1).rows.push({ one: checkpoints[i] });
      i += 1;
    } else {
      days.at(-1).rows.push({ run });
      i = j;
    }
  }
  return days;
}

function drawLine() {
  put(
    line,
    conflicts.length > 0 && [h("h2", {}, t("files.beside")), ...conflicts.map((one) => pointLine({ one }))],
    ...groups().flatMap(({ day, rows }) => [h("h2", {}, day), ...rows.map(pointLine)]),
  );
  put(
    pick,
    ...[...conflicts, ...checkpoints].map((each) =>
      h(
        "option",
        { value: each.seq, selected: each === shown },
        `${times.moment(each.saved_as_of)}, ${why(each)[2]}`,
      ),
    ),
  );
}

function pointLine({ one, run }) {
  if (run) {
    const [last, first] = [run[0], run.at(-1)];
    return h(
      "a",
      {
        href: "#",
        class: "is-active",
        click: (event) => {
          event.preventDefault();
          run.forEach((each) => unfolded.add(each.seq));
          drawLine();
        },
      },
      icon("cp-auto"),
      h(
        "b",
        {},
        t("files.span", { from: times.minute(first.saved_as_of), to: times.minute(last.saved_as_of) }),
      ),
      h("span", { class: "muted" }),
      h("span", { class: "why" }, t("files.folded", { n: run.length, count: times.count(run.length) })),
    );
  }
  const [glyph, state, words_] = why(one);
  const time = conflicts.includes(one) ? times.moment : times.clock; // these stand under no day
  return h(
    "a",
    {
      href: addressOf(one, ""),
      class: `is-${state}`,
      "aria-current": one === shown ? "true" : null,
      click: (event) => {
        event.preventDefault();
        open(one, "");
      },
    },
    icon(glyph),
    h("b", {}, h("time", { datetime: one.saved_as_of }, time(one.saved_as_of))),
    h("span", { class: "muted" }, times.size(one.bytes)),
    h("span", { class: "why" }, words_),
  );
}

function addressOf(checkpoint, inside) {
  return `/files?workspace=${workspace.id}&seq=${checkpoint.seq}${inside ? `&path=${encodeURIComponent(inside)}` : ""}`;
}

function contentAddress(kind, inside) {
  return `/api/v1/workspaces/${workspace.id}/checkpoints/${shown.seq}/${kind}?path=${encodeURIComponent(inside)}`;
}

async function open(checkpoint, inside, { keep = false } = {}) {
  shown = checkpoint;
  path = inside;
  if (!keep) history.pushState(null, "", addressOf(checkpoint, inside));
  drawLine();
  const wait = setTimeout(
    () =>
      put(
        folder,
        h(
          "div",
          { class: "pad stack-s" },
          ["w2", "w3", "w1"].map((width) => h("span", { class: `bone ${width}` })),
        ),
      ),
    300,
  );
  try {
    const address = `/workspaces/${workspace.id}/checkpoints/${checkpoint.seq}/files?path=${encodeURIComponent(inside)}`;
    const first = await firstPage(address);
    if (shown === checkpoint && path === inside) drawFolder(address, first);
  } catch (problem) {
    fail(problem);
  } finally {
    clearTimeout(wait);
  }
}

function drawFolder(address, first) {
  const values = {
    entries: times.entries(shown.entries),
    size: times.size(shown.bytes),
    n: shown.unreadable,
    files: times.files(shown.unreadable),
  };
  const state = shown.complete ? t("files.complete", values) : t("files.incomplete_more", values);
  const beside = conflicts.includes(shown);
  const go = beside
    ? button(t("files.drop"), drop, { kind: "small", lead: "x" })
    : button(t("files.start"), startWith, { kind: "small first", lead: "undo-2" });
  const back =
    workspace.open_session_id &&
    button(t("files.restore"), () => restore(path), { kind: beside ? "small first" : "small", lead: "undo-2" });
  put(
    folder,
    h(
      "div",
      { class: "folder-head" },
      h(
        "div",
        { class: "head" },
        h(
          "div",
          { class: "grow" },
          h("h2", { id: "f-h" }, `${times.day(shown.saved_as_of)}, ${times.clock(shown.saved_as_of)}`),
          h("p", { class: "small soft" }, `${why(shown)[2]}. ${state}`),
        ),
        h(
          "div",
          { class: "row push" },
          h(
            "a",
            { class: "button small", href: contentAddress("archive", path), download: "" },
            icon("download"),
            t(path ? "files.download_folder" : "files.download_all"),
          ),
          back,
          go,
        ),
      ),
      beside && h("p", { class: "small soft" }, t(back ? "files.beside_more" : "files.beside_closed")),
      shown.bad_paths.length > 0 &&
        h(
          "details",
          { class: "more" },
          h(
            "summary",
            {},
            t("files.bad", { n: shown.bad_paths.length, files: times.files(shown.bad_paths.length) }),
          ),
          h(
            "ul",
            { class: "stack-s" },
            shown.bad_paths.map((bad) => h("li", {}, name(bad.path), `: ${bad.error || bad.grade}`)),
          ),
        ),
      h("p", { class: "crumbs" }, crumbs()),
    ),
    ...folderList(address, first, { row: fileRow, table }),
  );
}

function crumbs() {
  const parts = path.split("/").filter(Boolean);
  const made = [crumb(name(workspace.name), "", parts.length === 0)];
  parts.forEach((part, index) =>
    made.push(
      h("span", { "aria-hidden": "true" }, "/"),
      crumb(name(part), parts.slice(0, index + 1).join("/"), index === parts.length - 1),
    ),
  );
  return made;
}

function crumb(words_, to, last) {
  if (last) return h("span", { "aria-current": "location" }, words_);
  return h(
    "a",
    {
      href: addressOf(shown, to),
      click: (event) => {
        event.preventDefault();
        open(shown, to);
      },
    },
    words_,
  );
}

function table(body) {
  return h(
    "table",
    { class: "table rows", role: "table" },
    h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        h("th", { role: "columnheader", scope: "col" }, t("files.name")),
        h("th", { role: "columnheader", scope: "col" }, t("files.changed")),
        h("th", { role: "columnheader", scope: "col", class: "num" }, t("files.size")),
        h("th", { role: "columnheader", scope: "col" }, h("span", { class: "sr" }, t("column.action"))),
      ),
    ),
    body,
  );
}

function glyphOf(file) {
  if (file.kind !== "file") return GLYPHS[file.kind] ?? "file";
  if (ARCHIVE.test(file.name)) return "file-archive";
  if (PICTURE.test(file.name)) return "image";
  return TABLE.test(file.name) ? "table-2" : "file-text";
}

function fileRow(file) {
  const isFolder = file.kind === "folder";
  const whole = plain(file.name);
  const shownName = h(
    "bdi",
    { title: whole },
    whole.length > 60 ? `${whole.slice(0, 36)}…${whole.slice(-20)}` : whole,
  );
  let entry = shownName;
  if (isFolder)
    entry = h(
      "a",
      {
        href: addressOf(shown, file.path),
        click: (event) => {
          event.preventDefault();
          open(shown, file.path);
        },
      },
      shownName,
    );
  else if (file.kind === "file")
    entry = h("a", { href: contentAddress("content", file.path), download: "" }, shownName);
  const get_ = isFolder || file.kind === "file";
  return h(
    "tr",
    { role: "row" },
    h(
      "td",
      { role: "cell", class: "key clip" },
      h(
        "span",
        { class: "name" },
        icon(glyphOf(file)),
        entry,
        file.link_target && h("span", { class: "muted" }, " → ", name(file.link_target)),
      ),
    ),
    h(
      "td",
      { role: "cell" },
      times.moment(file.modified_at),
      file.grade &&
        file.grade !== "ok" &&
        h("span", { class: "delta changed" }, ` ${t(`grade.${file.grade === "fuzzy" ? "fuzzy" : "bad"}`)}`),
    ),
    h("td", { role: "cell", class: "num end" }, isFolder ? "" : times.size(file.size)),
    h(
      "td",
      { role: "cell", class: "num opt" },
      get_ &&
        h(
          "a",
          {
            class: "button plain small square",
            href: contentAddress(isFolder ? "archive" : "content", file.path),
            download: "",
            "aria-label": t("files.download", { name: whole }),
            title: t("files.download_short"),
          },
          icon("download"),
        ),
    ),
  );
}

function startWith() {
  const newest = shown === checkpoints[0];
  const later = checkpoints.indexOf(shown);
  return doing({
    title: t("files.start_title", { time: times.moment(shown.saved_as_of) }),
    lede: newest
      ? t("files.start_newest")
      : t("files.start_older", {
          n: later,
          count: times.count(later),
          time: times.moment(checkpoints[0].saved_as_of),
        }),
    does: [
      say("files.start_1", { entries: times.entries(shown.entries), size: times.size(shown.bytes) }),
      say("files.start_2"),
      say("files.start_3"),
    ],
    verb: t("files.start_verb"),
    busy: t("choose.busy"),
    run: () => start(workspace, { fromSeq: newest ? null : shown.seq }),
  });
}

/** Put a folder of this checkpoint into a new folder of the open desktop; nothing there is changed. */
function restore(inside) {
  return doing({
    title: t("files.restore_title", { time: times.moment(shown.saved_as_of) }),
    does: [say("files.restore_1", { place: inside ? plain(inside) : t("files.restore_all") }), say("files.restore_2")],
    verb: t("files.restore_verb"),
    busy: t("files.restore_busy"),
    run: async () => {
      const made = await post(
        `/sessions/${workspace.open_session_id}/restores`,
        { seq: shown.seq, path: inside },
        { wait_ms: RESTORE_MS_MAX },
      );
      const told = t("files.restored", { entries: times.entries(made.entries), place: plain(made.path) });
      if (made.complete) toast(told);
      else toastLeftOut(told, made);
    },
  });
}

/** Say that not all was put back; it stays until it is dismissed. */
function toastLeftOut(told, made) {
  const list = made.left_out.slice(0, LEFT_OUT_SHOWN_MAX).map((one) => {
    const key = one.kind === "folder" ? "files.left_out_folder" : "files.left_out_file";
    return say(key, { path: plain(one.path || "/"), object: plain(one.object), reason: plain(one.reason) });
  });
  const more = made.left_out_count - list.length;
  if (more > 0) list.push(t("files.left_out_more", { count: more }));
  toast(`${told} ${t("files.left_out", { count: made.left_out_count })}`, {
    state: "alarm",
    glyph: "octagon-alert",
    act: {
      label: t("files.left_out_which"),
      run: () =>
        doing({
          title: t("files.left_out_title"),
          lede: t("files.left_out_lede"),
          does: list,
          verb: t("act.close"),
          cancel: t("act.dismiss"),
          run: () => {},
        }),
    },
  });
}

/** Forget what was saved beside the line. */
function drop() {
  return doing({
    title: t("files.drop_title"),
    does: [say("files.drop_1"), say("files.drop_2")],
    verb: t("files.drop_verb"),
    busy: t("files.drop_busy"),
    danger: true,
    run: async () => {
      await send("DELETE", `/workspaces/${workspace.id}/conflicts/${shown.seq}`);
      location.assign(`/files?workspace=${workspace.id}`);
    },
  });
}

function drawChooser() {
  if (workspaces.length < 2) return;
  const select = h(
    "select",
    {
      class: "input small",
      "aria-label": t("column.workspace"),
      change: () => location.assign(`/files?workspace=${select.value}`),
    },
    workspaces.map((each) => h("option", { value: each.id, selected: each === workspace }, each.name)),
  );
  put(chooser, select);
}

async function load() {
  try {
    workspaces = (await get("/workspaces?limit=200")).items;
    workspace = workspaces.find((each) => each.id === asked.get("workspace")) ?? workspaces[0];
    drawChooser();
    [checkpoints, conflicts] = await Promise.all([
      all(`/workspaces/${workspace.id}/checkpoints`, CHECKPOINTS_MAX),
      get(`/workspaces/${workspace.id}/conflicts`).then((told) => told.items),
    ]);
  } catch (problem) {
    fail(problem);
    return;
  }
  if (checkpoints.length + conflicts.length === 0) {
    put(
      folder,
      h(
        "div",
        { class: "empty" },
        icon("folder"),
        h("h2", { id: "f-h" }, t("files.none")),
        h("p", {}, t("files.none_more")),
        h("a", { class: "button", href: "/desktop" }, t("desktop.title")),
      ),
    );
    return;
  }
  await open(
    numbered(asked.get("seq")) ?? checkpoints[0] ?? conflicts[0],
    asked.get("path") ?? "",
    { keep: true },
  );
}

pick.addEventListener("change", () =>
  open(numbered(pick.value), ""),
);
addEventListener("popstate", () => {
  const at = new URLSearchParams(location.search);
  open(
    numbered(at.get("seq")) ?? checkpoints[0] ?? conflicts[0],
    at.get("path") ?? "",
    { keep: true },
  );
});
await load();
