// Signs in with a local account and goes back to where one came from. Tells nothing that this browser did not know:
// neither accounts nor desktops are confirmed.

import { post, words } from "./api.js";
import { busyWhile, field } from "./dialogs.js";
import { door, fieldError, statusLine } from "./door.js";
import { h, icon, put } from "./dom.js";
import { forgetWait, rememberedWait } from "./memory.js";
import { name, say, t } from "./strings.js";
import * as times from "./times.js";

const asked = new URLSearchParams(location.search);

/** Return the page to go to: a path of ours, never another site. */
function next() {
  const wanted = asked.get("next") ?? "";
  const known = /^\/(desktop|files|receipts|operator|people)(\/[0-9A-Za-z/-]*)?(\?[\w=&%.-]*)?$/;
  return known.test(wanted) ? wanted : "/desktop";
}

function notice() {
  if (asked.has("left")) {
    forgetWait();
    return h("div", { class: "notice", role: "status" }, icon("log-out"), h("p", {}, t("sign_in.left")));
  }
  if (!asked.has("next")) return null;
  const until = rememberedWait();
  if (until === null) return null;
  return h(
    "div",
    { class: "notice is-held", role: "status" },
    icon("st-held"),
    h("p", {}, say("sign_in.expired"), h("br"), t("sign_in.expired_more", { time: times.minute(until) })),
  );
}

const account = field(t("sign_in.account"), {
  name: "name",
  autocomplete: "username",
  autocapitalize: "none",
  spellcheck: "false",
  required: true,
});
const password = field(t("sign_in.password"), {
  name: "password",
  type: "password",
  autocomplete: "current-password",
  required: true,
});
const submit = h("button", { class: "button first wide", type: "submit" }, t("sign_in.verb"));
const form = h("form", { class: "stack", method: "post" }, account, password, submit);

function shown(problem) {
  if (problem.code === "wrong_password") {
    const left = problem.facts.tries_left;
    const pause = problem.facts.pause_s;
    if (left === undefined || left === null) return t("problem.wrong_password_plain");
    if (left <= 0) return t("sign_in.wrong_pause", { pause: times.duration(pause || 60) });
    return t("sign_in.wrong", { n: left, pause: times.duration(pause || 60) });
  }
  if (problem.code === "too_many_attempts")
    return t("sign_in.pause", { pause: times.duration(problem.facts.retry_after_s || 60) });
  return words(problem);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  fieldError(password, "");
  try {
    await busyWhile(submit, t("sign_in.busy"), () =>
      post(
        "/sign-in",
        { name: form.elements.name.value, password: form.elements.password.value },
        { stay: true },
      ),
    );
    location.assign(next());
  } catch (problem) {
    fieldError(password, shown(problem));
    form.elements.password.select();
  }
});

door(
  t("sign_in.title"),
  [
    notice(),
    h(
      "div",
      {},
      h("h1", { id: "t" }, t("sign_in.title")),
      put(h("p", { class: "soft" }), say("sign_in.to", { host: name(location.host) })),
    ),
    form,
  ].filter(Boolean),
  statusLine(),
);
account.querySelector("input").focus();
