// Makes the first account with the code that the terminal shows, and signs in.

import { post, words } from "./api.js";
import { busyWhile, field } from "./dialogs.js";
import { door, fieldError, statusLine } from "./door.js";
import { h } from "./dom.js";
import { t } from "./strings.js";

const PASSWORD_LENGTH_MIN = 10;

const code = field(
  t("setup.code"),
  {
    name: "code",
    autocomplete: "one-time-code",
    autocapitalize: "characters",
    spellcheck: "false",
    required: true,
    class: "input id",
  },
  t("setup.code_hint"),
);
const account = field(t("setup.name"), {
  name: "name",
  autocomplete: "username",
  autocapitalize: "none",
  spellcheck: "false",
  required: true,
  maxlength: 64,
});
const password = field(
  t("setup.password"),
  {
    name: "password",
    type: "password",
    autocomplete: "new-password",
    required: true,
    minlength: PASSWORD_LENGTH_MIN,
  },
  t("password.hint"),
);
const submit = h("button", { class: "button first wide", type: "submit" }, t("setup.verb"));
const form = h("form", { class: "stack", method: "post" }, code, account, password, submit);

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  for (const each of [code, account, password]) fieldError(each, "");
  const { elements } = form;
  try {
    await busyWhile(submit, t("setup.busy"), () =>
      post(
        "/setup",
        { code: elements.code.value, name: elements.name.value, password: elements.password.value },
        { stay: true },
      ),
    );
    location.assign("/desktop");
  } catch (problem) {
    const wrong =
      { wrong_setup_code: code, too_many_attempts: code, setup_done: code }[problem.code] ??
      (problem.facts.field === "name" ? account : password);
    fieldError(wrong, words(problem));
  }
});

door(
  t("setup.title"),
  [h("div", {}, h("h1", { id: "t" }, t("setup.title")), h("p", { class: "soft" }, t("setup.lede"))), form],
  statusLine(),
);
code.querySelector("input").focus();
