// What people do to a desktop, each with its dialog: start, end and save, extend, save now, put a file into it. The
// service decides; afterwards we say what was verified, not what was tried.

import { all, get, post, words, Problem } from "./api.js";
import { endOf } from "./countdown.js";
import { choices, doing } from "./dialogs.js";
import { h } from "./dom.js";
import * as keyboard from "./keyboard.js";
import { toast } from "./notes.js";
import { name, say, t } from "./strings.js";
import * as times from "./times.js";

const SAVE_WAIT_MS = 600_000; // an answer comes when everything was read back
const UPLOAD_WAIT_MS = 3_600_000;
const EXTENSIONS_S = [7_200, 28_800];
const CHOICES_MAX = 6;
const NARROW_PX = 640;
const SCREEN_MIN = [1024, 768];
const SCREEN_MAX = [7680, 4320]; // a page that is zoomed out says more

/** Start a desktop and go to its screen; asks which files where only older ones are there. Throws a Problem. */
export async function start(workspace, { fromSeq = null } = {}) {
  try {
    const session = await post("/sessions", await wishes(workspace?.id, fromSeq));
    location.assign(`/desktop/${session.id}`);
  } catch (problem) {
    if (problem.code !== "older_only" || !workspace) throw problem;
    await chooseFiles(workspace, problem);
  }
}

async function wishes(workspaceId, fromSeq) {
  const narrow = innerWidth < NARROW_PX;
  const geometry = narrow
    ? SCREEN_MIN
    : [Math.max(SCREEN_MIN[0], innerWidth), Math.max(600, innerHeight - 44)].map((side, which) =>
        Math.min(SCREEN_MAX[which], side),
      );
  const body = { geometry: geometry.map(Math.round), locale: locale(), time_zone: times.zone() };
  const keys = await keyboard.layout();
  if (keys) body.keyboard_layout = keys;
  if (workspaceId) body.workspace_id = workspaceId;
  if (fromSeq !== null) body.from_seq = fromSeq;
  return body;
}

function locale() {
  const [language, region] = navigator.language.split("-");
  return /^[a-z]{2}$/.test(language) && /^[A-Z]{2}$/.test(region ?? "") ? `${language}_${region}.UTF-8` : "";
}

/** Ask with which checkpoint to start, when the newest is not there or not whole. Nothing is chosen by a timer. */
export async function chooseFiles(workspace, problem = null) {
  const list = (await all(`/workspaces/${workspace.id}/checkpoints`, 200))
    .filter((each) => each.complete || each.final)
    .slice(0, CHOICES_MAX);
  const rows = choiceRows(list, workspace);
  return doing({
    title: t("choose.title"),
    lede: t("choose.lede", {
      time: workspace.saved_as_of ? times.moment(workspace.saved_as_of) : t("choose.newest"),
    }),
    fields: [
      choices("from", t("choose.legend"), rows),
      problem && h("p", { class: "small muted" }, words(problem)),
    ].filter(Boolean),
    verb: t("choose.verb"),
    busy: t("choose.busy"),
    async run(form) {
      const from = form.elements.from.value;
      if (from === "wait") return start(workspace);
      return start(workspace, { fromSeq: Number(from) });
    },
  });
}

/** Return the choices between checkpoints as rows for `choices`. */
export function choiceRows(list, workspace) {
  const newest = workspace.saved_as_of ? Date.parse(workspace.saved_as_of) : null;
  return [
    { value: "wait", title: t("choose.wait"), more: t("choose.wait_more") },
    ...list.map((each) => {
      const older = newest === null ? 0 : (newest - Date.parse(each.saved_as_of)) / 1000;
      return {
        value: each.seq,
        title: t(each.complete ? "choose.whole" : "choose.part", {
          time: times.moment(each.saved_as_of),
          n: each.unreadable,
          files: times.files(each.unreadable),
        }),
        more: `${older > 0 ? t("choose.older", { time: times.duration(older) }) : t("choose.same")} ${times.entries(each.entries)}, ${times.size(each.bytes)}.`,
      };
    }),
  ];
}

/** Ask, then save everything and end the desktop. Returns the session as it closes, or null. */
export function endAndSave(session) {
  return doing({
    title: t("end.title"),
    lede: t("end.lede"),
    does: [say("end.does_1"), say("end.does_2"), say("end.does_3")],
    verb: t("end.verb"),
    busy: t("end.busy"),
    cancel: t("end.keep"),
    run: () => post(`/sessions/${session.id}/end`, { reason: "" }),
  });
}

/** Ask how much longer, and extend the hold. Returns the session, or null. */
export async function extend(session) {
  const end = endOf(session);
  const steps = [...new Set([Math.max(60, Math.round(session.hold_s)), ...EXTENSIONS_S])];
  const changed = await doing({
    title: t("extend.title"),
    lede: t("extend.lede", { time: times.moment(end) }),
    fields: [
      choices(
        "more",
        t("extend.legend"),
        steps.map((seconds) => ({
          value: seconds,
          title: times.minute(end + seconds * 1000),
          more: t("extend.more", { time: times.duration(seconds) }),
        })),
      ),
    ],
    verb: t("extend.verb"),
    busy: t("extend.busy"),
    run: (form) =>
      post(`/sessions/${session.id}/extend`, { seconds: Number(form.elements.more.value), reason: "" }),
  });
  if (changed) toast(say("extend.done", { time: times.minute(changed.hold_deadline ?? end) }));
  return changed;
}

/** Extend by one hold at once, as the last minutes offer it. */
export async function extendOnce(session) {
  try {
    const changed = await post(`/sessions/${session.id}/extend`, {
      seconds: Math.max(60, Math.round(session.hold_s)),
      reason: "",
    });
    toast(say("extend.done", { time: times.minute(changed.hold_deadline ?? Date.now()) }));
    return changed;
  } catch (problem) {
    toast(say("extend.refused", { reason: words(problem) }), { state: "alarm", glyph: "octagon-alert" });
    return null;
  }
}

/** Save now and say what was read back. */
export async function saveNow(session) {
  try {
    const saved = await post(`/sessions/${session.id}/save`, { reason: "" }, { wait_ms: SAVE_WAIT_MS });
    const values = {
      time: times.moment(saved.saved_as_of),
      files: times.entries(saved.entries),
      n: saved.unreadable,
      bad: times.files(saved.unreadable),
    };
    if (saved.complete) toast(say("save.done", values));
    else toast(say("save.part", values), { state: "held", glyph: "triangle-alert" });
    return saved;
  } catch (problem) {
    toast(say("save.failed", { reason: words(problem) }), { state: "alarm", glyph: "octagon-alert" });
    return null;
  }
}

/** Let the user pick files and put each into the desktop's home. */
export function putFiles(session) {
  const input = h("input", { type: "file", multiple: true, hidden: true });
  input.addEventListener("change", async () => {
    for (const file of input.files) await putFile(session, file);
    input.remove();
  });
  document.body.append(input);
  input.click();
}

async function putFile(session, file) {
  const close = toast(say("upload.busy", { name: name(file.name), size: times.size(file.size) }), {
    state: "starting",
    glyph: "arrow-up",
    act: null,
  });
  try {
    const put = await post(
      `/sessions/${session.id}/uploads?name=${encodeURIComponent(file.name)}`,
      undefined,
      { raw: file, wait_ms: UPLOAD_WAIT_MS },
    );
    close();
    toast(say("upload.done", { path: name(put.path), size: times.size(put.bytes) }));
  } catch (problem) {
    close();
    toast(say("upload.failed", { name: name(file.name), reason: words(problem) }), {
      state: "alarm",
      glyph: "octagon-alert",
    });
  }
}

/** Get the kept desktop of a closing session back and go to its screen. Throws a Problem. */
export async function openAgain(session) {
  const fresh = await post(`/sessions/${session.id}/reuse`);
  location.assign(`/desktop/${fresh.id}`);
}

/** Return the newest word on a session. */
export function read(sessionId, options) {
  return get(`/sessions/${sessionId}`, options);
}

export { Problem };
