// Accounts and tokens, for administrators: who may sign in, and which programs may act.

import { all, post, send, words } from "./api.js";
import { choices, doing, field } from "./dialogs.js";
import { h, icon, put } from "./dom.js";
import { toast } from "./notes.js";
import { opsFrame } from "./ops.js";
import { button, stateWord } from "./parts.js";
import { name, say, t } from "./strings.js";
import * as times from "./times.js";

const ROLES = ["user", "operator", "administrator"];
const SCOPES = ["read", "sessions", "files", "operate", "admin"];
const DAYS = [1, 30, 90, 365];
const PASSWORD_LENGTH_MIN = 10;

const me = await opsFrame("people", t("ops.people"));
const main = document.querySelector("main");
const accounts = h("section", { class: "card fleet", "aria-labelledby": "h-a" });
const tokens = h("section", { class: "card fleet", "aria-labelledby": "h-t" });
put(main, h("div", { class: "head" }, h("h1", {}, t("ops.people"))), accounts, tokens);
let users = [];

function head(id, title, verb, run) {
  return h(
    "div",
    { class: "bar" },
    h("h2", { id, class: "title" }, title),
    button(verb, run, { kind: "small push", lead: "plus" }),
  );
}

function table(label, columns, made) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    h(
      "table",
      { class: "table rows plain-first", role: "table" },
      h(
        "thead",
        { role: "rowgroup" },
        h(
          "tr",
          { role: "row" },
          columns.map((key) =>
            h(
              "th",
              { role: "columnheader", scope: "col" },
              key === "action" ? h("span", { class: "sr" }, t("column.action")) : t(`column.${key}`),
            ),
          ),
        ),
      ),
      h("tbody", { role: "rowgroup" }, made),
    ),
  );
}

async function drawAccounts() {
  users = await all("/users");
  put(
    accounts,
    head("h-a", t("people.accounts"), t("people.new"), newAccount),
    table(
      t("people.accounts"),
      ["account", "role", "standing", "since", "action"],
      users.map((user) =>
        h(
          "tr",
          { role: "row" },
          h(
            "td",
            { role: "cell", class: "key" },
            name(user.name),
            user.id === me.user.id && h("span", { class: "muted" }, ` ${t("people.you")}`),
          ),
          h("td", { role: "cell", class: "end" }, t(`role.${user.role}`)),
          h(
            "td",
            { role: "cell" },
            user.disabled
              ? stateWord("closed", t("people.disabled"))
              : stateWord("active", t("people.enabled")),
          ),
          h("td", { role: "cell", class: "opt" }, times.moment(user.created_at)),
          h(
            "td",
            { role: "cell", class: "num end" },
            h(
              "button",
              { class: "button small", type: "button", click: () => changeAccount(user) },
              t("people.change"),
              h("span", { class: "sr" }, ` ${user.name}`),
            ),
          ),
        ),
      ),
    ),
  );
}

function roleChoices(present) {
  return choices(
    "role",
    t("column.role"),
    ROLES.map((role) => ({
      value: role,
      title: t(`role.${role}`),
      more: t(`role.${role}_more`),
      checked: role === present,
    })),
  );
}

async function newAccount() {
  const made = await doing({
    title: t("people.new_title"),
    lede: t("people.new_lede"),
    fields: [
      field(t("column.account"), {
        name: "name",
        required: true,
        maxlength: 64,
        autocomplete: "off",
        autocapitalize: "none",
        spellcheck: "false",
        "data-first": true,
      }),
      field(
        t("people.password"),
        {
          name: "password",
          type: "password",
          required: true,
          minlength: PASSWORD_LENGTH_MIN,
          autocomplete: "new-password",
        },
        t("password.hint"),
      ),
      roleChoices("user"),
    ],
    verb: t("people.make"),
    busy: t("workspaces.making"),
    run: ({ elements }) =>
      post("/users", {
        name: elements.name.value,
        password: elements.password.value,
        role: elements.role.value,
      }),
  });
  if (!made?.id) return;
  toast(say("people.made", { user: name(made.name) }));
  await drawAccounts();
}

async function changeAccount(user) {
  const standing = h(
    "label",
    { class: "row" },
    h("input", { type: "checkbox", name: "disabled", checked: user.disabled }),
    t("people.disable"),
  );
  const changed = await doing({
    title: t("people.change_title", { user: user.name }),
    lede: t("people.change_lede"),
    fields: [
      roleChoices(user.role),
      standing,
      field(
        t("people.new_password"),
        { name: "password", type: "password", minlength: PASSWORD_LENGTH_MIN, autocomplete: "new-password" },
        t("people.password_hint"),
      ),
    ],
    verb: t("people.save"),
    busy: t("password.busy"),
    run({ elements }) {
      const body = {};
      if (elements.role.value !== user.role) body.role = elements.role.value;
      if (elements.disabled.checked !== user.disabled) body.disabled = elements.disabled.checked;
      if (elements.password.value) body.password = elements.password.value;
      return send("PATCH", `/users/${user.id}`, body, { generation: user.generation });
    },
  });
  if (!changed?.id) return;
  toast(say("people.changed", { user: name(changed.name) }));
  await drawAccounts();
}

async function drawTokens() {
  const items = (await all("/tokens")).filter((token) => !token.revoked_at);
  const names = new Map(users.map((user) => [user.id, user.name]));
  put(
    tokens,
    head("h-t", t("tokens.title"), t("tokens.new"), newToken),
    items.length === 0
      ? h("div", { class: "empty" }, icon("key-round"), h("p", {}, t("tokens.none")))
      : table(
          t("tokens.title"),
          ["token", "account", "scopes", "ends", "action"],
          items.map((token) =>
            h(
              "tr",
              { role: "row" },
              h("td", { role: "cell", class: "key" }, name(token.name)),
              h("td", { role: "cell", class: "end" }, name(names.get(token.user_id) ?? "")),
              h("td", { role: "cell" }, token.scopes.join(", ")),
              h(
                "td",
                { role: "cell", class: "opt" },
                token.expires_at ? times.moment(token.expires_at) : t("tokens.never"),
              ),
              h(
                "td",
                { role: "cell", class: "num end" },
                h(
                  "button",
                  { class: "button small", type: "button", click: () => revoke(token) },
                  t("tokens.revoke"),
                  h("span", { class: "sr" }, ` ${token.name}`),
                ),
              ),
            ),
          ),
        ),
  );
}

async function newToken() {
  const boxes = h(
    "fieldset",
    { class: "stack-s" },
    h("legend", { class: "label" }, t("column.scopes")),
    SCOPES.map((scope) =>
      h(
        "label",
        { class: "row small" },
        h("input", { type: "checkbox", name: "scope", value: scope, checked: scope === "read" }),
        h("b", {}, scope),
        h("span", { class: "soft" }, t(`scope.${scope}`)),
      ),
    ),
  );
  const days = h(
    "div",
    { class: "field" },
    h("label", { for: "days" }, t("column.ends")),
    h(
      "select",
      { class: "input", id: "days", name: "days" },
      DAYS.map((n) => h("option", { value: n, selected: n === 30 }, t("time.days", { n, count: n }))),
      h("option", { value: 0 }, t("tokens.never")),
    ),
  );
  const made = await doing({
    title: t("tokens.new_title"),
    lede: t("tokens.new_lede"),
    fields: [
      field(t("workspaces.name"), {
        name: "name",
        required: true,
        maxlength: 64,
        autocomplete: "off",
        "data-first": true,
      }),
      boxes,
      days,
    ],
    verb: t("people.make"),
    busy: t("workspaces.making"),
    run(form) {
      const scopes = [...form.querySelectorAll("[name=scope]:checked")].map((box) => box.value);
      const n = Number(form.elements.days.value);
      return post("/tokens", { name: form.elements.name.value, scopes, expires_in_s: n ? n * 86_400 : null });
    },
  });
  if (!made?.token) return;
  await drawTokens();
  const shown = h("p", { class: "id code" }, made.token);
  await doing({
    title: t("tokens.once"),
    lede: t("tokens.once_lede"),
    fields: [shown],
    verb: t("tokens.copy"),
    cancel: t("act.close"),
    run: () => navigator.clipboard.writeText(made.token),
  });
}

async function revoke(token) {
  const done = await doing({
    title: t("tokens.revoke_title", { name: token.name }),
    lede: t("tokens.revoke_lede"),
    verb: t("tokens.revoke"),
    busy: t("tokens.revoking"),
    danger: true,
    run: async () => {
      await send("DELETE", `/tokens/${token.id}`);
    },
  });
  if (!done) return;
  toast(say("tokens.revoked", { name: name(token.name) }));
  await drawTokens();
}

try {
  await drawAccounts();
  await drawTokens();
} catch (problem) {
  put(
    main,
    h("h1", {}, t("ops.people")),
    h("div", { class: "notice is-alarm", role: "alert" }, icon("octagon-alert"), h("p", {}, words(problem))),
  );
}
