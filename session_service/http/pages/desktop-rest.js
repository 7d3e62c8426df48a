// What stands below the card of my desktop: other workspaces, the last receipts, signed-in devices.

import { start } from "./acts.js";
import { get, post, send, words } from "./api.js";
import { busyWhile, doing, field } from "./dialogs.js";
import { h, icon, put } from "./dom.js";
import { toast } from "./notes.js";
import { button, stateWord } from "./parts.js";
import { receiptLine } from "./receipts-list.js";
import { name, say, t } from "./strings.js";
import * as times from "./times.js";

const RECEIPTS_SHOWN = 3;

/** Show the workspaces beside the one of the card; `changed` runs when a new one was made. */
export function drawOthers(others, { workspaces, shown, sessions, changed }) {
  const open = new Map(sessions.map((session) => [session.workspace.id, session]));
  const rest = workspaces.filter((workspace) => workspace.id !== shown);
  const add = button(t("workspaces.new"), () => newWorkspace(changed), {
    kind: "plain small push",
    lead: "plus",
    key: "new-workspace",
  });
  put(
    others,
    h("div", { class: "head" }, h("h2", { id: "h-ws" }, t("workspaces.title")), add),
    rest.length === 0
      ? h("p", { class: "small soft" }, t("workspaces.only"))
      : h(
          "div",
          { class: "card" },
          h(
            "table",
            { class: "table rows easy", role: "table" },
            h(
              "thead",
              { role: "rowgroup" },
              h(
                "tr",
                { role: "row" },
                ["workspace", "state", "files", "action"].map((key) =>
                  h(
                    "th",
                    { role: "columnheader", scope: "col" },
                    key === "action" ? h("span", { class: "sr" }, t("column.action")) : t(`column.${key}`),
                  ),
                ),
              ),
            ),
            h(
              "tbody",
              { role: "rowgroup" },
              rest.map((workspace) => workspaceRow(workspace, open.get(workspace.id))),
            ),
          ),
        ),
  );
}

function workspaceRow(workspace, session) {
  const go = session
    ? h(
        "a",
        { href: `/desktop/${session.id}` },
        t(session.state === "closing" ? "act.follow" : session.state === "held" ? "act.resume" : "act.open"),
        h("span", { class: "sr" }, ` ${workspace.name}`),
      )
    : h(
        "button",
        { class: "button small", type: "button" },
        t("act.start_short"),
        h("span", { class: "sr" }, ` ${workspace.name}`),
      );
  if (!session)
    go.addEventListener("click", () =>
      busyWhile(go, t("start.busy"), () => start(workspace)).catch((problem) =>
        toast(words(problem), { state: "alarm", glyph: "octagon-alert" }),
      ),
    );
  const saved = session?.saved_as_of ?? workspace.saved_as_of;
  return h(
    "tr",
    { role: "row" },
    h("td", { role: "cell", class: "key" }, name(workspace.name)),
    h("td", { role: "cell", class: "end" }, stateWord(session?.state ?? "closed")),
    h(
      "td",
      { role: "cell" },
      saved ? t("workspaces.saved", { time: times.moment(saved) }) : t("workspaces.empty"),
    ),
    h("td", { role: "cell", class: "num end" }, go),
  );
}

async function newWorkspace(changed) {
  const made = await doing({
    title: t("workspaces.new_title"),
    lede: t("workspaces.new_lede"),
    fields: [
      field(t("workspaces.name"), {
        name: "name",
        required: true,
        maxlength: 64,
        "data-first": true,
        autocomplete: "off",
      }),
    ],
    verb: t("workspaces.make"),
    busy: t("workspaces.making"),
    run: (form) => post("/workspaces", { name: form.elements.name.value }),
  });
  if (made) await changed();
}

/** Show the last receipts. */
export async function drawReceipts(receipts, workspaces) {
  const { items } = await get(`/receipts?mine=true&limit=${RECEIPTS_SHOWN}`);
  const names = new Map(workspaces.map((workspace) => [workspace.id, workspace.name]));
  put(
    receipts,
    h(
      "div",
      { class: "head" },
      h("h2", { id: "h-r" }, t("receipts.title")),
      items.length > 0 && h("a", { class: "push small", href: "/receipts" }, t("receipts.all")),
    ),
    h(
      "div",
      { class: "card pad" },
      items.length > 0
        ? h(
            "ul",
            { class: "list small" },
            items.map((each) => receiptLine(each, names)),
          )
        : h("p", { class: "small soft" }, t("receipts.none")),
    ),
  );
}

/** Show where one is signed in. */
export async function drawDevices(devices) {
  const { items } = await get("/me/sign-ins");
  put(
    devices,
    h("div", { class: "head" }, h("h2", { id: "h-l" }, t("devices.title"))),
    h(
      "div",
      { class: "card pad" },
      h(
        "ul",
        { class: "list small" },
        items.map((each) =>
          h(
            "li",
            {},
            icon(/phone|tablet/i.test(each.device_label) ? "smartphone" : "laptop", "lead"),
            h(
              "div",
              { class: "grow" },
              h(
                "b",
                { class: "strong" },
                each.this_one ? t("devices.this", { device: each.device_label }) : each.device_label,
              ),
              h("br"),
              h(
                "span",
                { class: "soft" },
                t("devices.since", {
                  time: times.moment(each.created_at),
                  seen: times.moment(each.last_seen),
                }),
              ),
            ),
            !each.this_one &&
              h(
                "button",
                { class: "link", type: "button", click: () => forget(each, devices) },
                t("devices.sign_out"),
                h("span", { class: "sr" }, ` ${each.device_label}`),
              ),
          ),
        ),
      ),
    ),
  );
}

async function forget(device, devices) {
  try {
    await send("DELETE", `/me/sign-ins/${device.id}`);
    toast(say("devices.gone", { device: name(device.device_label) }));
  } catch (problem) {
    toast(words(problem), { state: "alarm", glyph: "octagon-alert" });
  }
  await drawDevices(devices);
}
