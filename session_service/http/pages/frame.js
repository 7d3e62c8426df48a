// The frame of the pages for users: top bar, navigation, account menu. Not the operators' side bar (ops.js) nor the
// screen's own bar (bar.js).

import { get, post, send, words } from "./api.js";
import { doing, field, menu } from "./dialogs.js";
import { h, icon, svg } from "./dom.js";
import { toast } from "./notes.js";
import { name, t } from "./strings.js";

const PLACES = [
  ["desktop", "/desktop", "monitor"],
  ["files", "/files", "folder"],
  ["receipts", "/receipts", "receipt-text"],
];
const PASSWORD_LENGTH_MIN = 10;

/** Return the mark with a word beside it. */
export function mark(word, href = "/desktop", extra = "") {
  return h(
    "a",
    { class: `mark ${extra}`.trim(), href, "aria-label": word ? null : t("nav.desktops") },
    svg(
      "svg",
      { viewBox: "0 0 26 26", "aria-hidden": "true" },
      svg("rect", { class: "tile", width: 26, height: 26, rx: 6 }),
      svg("path", { class: "thread", d: "M4.5 16.5H9M17 16.5h4.5M9 16.5c.6-9 7.4-9 8 0" }),
    ),
    word && h("span", {}, word),
  );
}

/** Build the frame of a user page around `main` and return who is signed in. */
export async function frame(current, title) {
  document.title = `${title} · ${t("product.name")}`;
  const main = document.querySelector("main");
  const account = h(
    "button",
    { class: "button plain small", type: "button", "aria-haspopup": "menu", "aria-expanded": "false" },
    icon("user-round"),
  );
  const nav = h(
    "nav",
    { class: "nav", "aria-label": t("nav.label") },
    PLACES.map(([key, href, glyph]) =>
      h("a", { href, "aria-current": key === current ? "page" : null }, icon(glyph), t(`nav.${key}`)),
    ),
  );
  const end = h("div", { class: "row push" }, account);
  document.body.prepend(
    h("a", { class: "skip", href: "#main" }, t("nav.skip")),
    h("header", { class: "top" }, h("div", { class: "top-in" }, mark(t("product.name")), nav, end)),
  );
  main.hidden = false;
  const me = await get("/me");
  account.append(h("span", { class: "sr" }, `${t("account.label")} `), name(me.user.name));
  account.addEventListener("click", () => accountMenu(account, me));
  if (me.user.role !== "user") {
    end.prepend(
      h("a", { class: "button plain small hide-s", href: "/operator" }, icon("server"), t("nav.operator")),
    );
  }
  return me;
}

/** Open the menu of the account. */
export function accountMenu(opener, me) {
  menu(
    opener,
    [
      me.user.role !== "user" && { label: t("nav.operator"), lead: "server", href: "/operator" },
      { label: t("account.password"), lead: "key-round", run: changePassword },
      { label: t("account.sign_out"), lead: "log-out", run: signOut },
      { label: t("account.sign_out_everywhere"), lead: "power", run: signOutEverywhere },
    ],
    t("account.label"),
  );
}

/** Sign this browser out; a desktop that it shows is held. */
export async function signOut() {
  try {
    await post("/sign-out", {}, { stay: true });
  } catch (problem) {
    if (problem.code !== "sign_in_required") {
      toast(words(problem), { state: "alarm", glyph: "octagon-alert" });
      return;
    }
  }
  location.assign("/sign-in?left=1");
}

function signOutEverywhere() {
  doing({
    title: t("everywhere.title"),
    lede: t("everywhere.lede"),
    does: [t("everywhere.does_1"), t("everywhere.does_2")],
    verb: t("account.sign_out_everywhere"),
    busy: t("everywhere.busy"),
    async run() {
      await post("/sign-out-everywhere");
      location.assign("/sign-in?left=1");
    },
  });
}

async function changePassword() {
  const done = await doing({
    title: t("password.title"),
    lede: t("password.lede"),
    fields: [
      field(t("password.current"), {
        type: "password",
        name: "current",
        autocomplete: "current-password",
        required: true,
        "data-first": true,
      }),
      field(
        t("password.new"),
        {
          type: "password",
          name: "new",
          autocomplete: "new-password",
          required: true,
          minlength: PASSWORD_LENGTH_MIN,
        },
        t("password.hint"),
      ),
    ],
    verb: t("password.verb"),
    busy: t("password.busy"),
    run: (form) =>
      send("PATCH", "/me/password", { current: form.elements.current.value, new: form.elements.new.value }),
  });
  if (done) toast(t("password.done"));
}
