// The bar of the screen page: workspace, state, saved chip; clipboard, keys, full screen, menu, Leave.

import { menu } from "./dialogs.js";
import { h, icon, put } from "./dom.js";
import { mark } from "./frame.js";
import { badge, iconButton, savedChip } from "./parts.js";
import { name, t } from "./strings.js";
import * as times from "./times.js";

export class SeatBar {
  #state = h("span", { class: "row" });
  #saved = h("span", { class: "row saved-place" });
  #quiet = h("span", { class: "small quiet", role: "status" });
  #workspace = h("span", { class: "strong wide-only" });
  #key = "";

  constructor(seat) {
    const clip = iconButton("clipboard", t("clip.label"), () => pressed(clip, seat.clipboard.toggle()), {
      "aria-pressed": "false",
    });
    const keys = iconButton("keyboard", t("keys.label"), () => pressed(keys, seat.keys.toggle()), {
      "aria-pressed": "false",
    });
    const full = iconButton("maximize", t("act.full"), () => fullScreen(), {
      class: "button small square wide-only",
    });
    const more = iconButton("ellipsis", t("act.more"), () => menu(more, this.#more(seat), t("act.more")), {
      "aria-haspopup": "menu",
      "aria-expanded": "false",
    });
    const leave = h(
      "button",
      {
        class: "button small wide-only",
        type: "button",
        "aria-haspopup": "menu",
        "aria-expanded": "false",
        click: () => menu(leave, this.#leave(seat), t("act.leave")),
      },
      t("act.leave"),
      icon("chevron-down"),
    );
    const slim = iconButton("log-out", t("act.leave"), () => menu(slim, this.#leave(seat), t("act.leave")), {
      class: "button small square slim-only",
      "aria-haspopup": "menu",
      "aria-expanded": "false",
    });
    this.tools = h("span", { class: "push row tools" }, clip, keys, full, more, leave, slim);
    this.root = h(
      "header",
      { class: "seat-bar", "aria-label": t("seat.bar") },
      mark("", "/desktop", "wide-only"),
      this.#workspace,
      h("span", { class: "sep wide-only" }),
      this.#state,
      this.#saved,
      this.#quiet,
      this.tools,
    );
    this.first = clip;
  }

  /** Show what is known now. */
  update({ session, view, heard, link, elsewhere }) {
    const key = JSON.stringify([
      session.state,
      session.saved_as_of,
      session.pending_files,
      session.step_error,
      view,
      heard,
      elsewhere,
    ]);
    if (key !== this.#key) {
      this.#key = key;
      put(this.#workspace, name(session.workspace.name));
      put(
        this.#state,
        elsewhere
          ? badge("active", t("seat.elsewhere"))
          : badge(view === "stale" && session.state === "active" ? "held" : session.state),
      );
      put(this.#saved, view === "live" ? savedChip(session, { fresh: heard }) : null);
    }
    const quiet =
      link.state === "live" && link.quietSince !== null
        ? t("seat.quiet", { n: Math.round((performance.now() - link.quietSince) / 1000) })
        : "";
    if (this.#quiet.textContent !== quiet) this.#quiet.textContent = quiet;
  }

  #leave(seat) {
    return [
      {
        label: t("leave.hold", { time: times.duration(seat.session.hold_s) }),
        lead: "log-out",
        run: () => location.assign("/desktop"),
      },
      { label: t("act.end"), lead: "power", run: () => seat.end() },
    ];
  }

  #more(seat) {
    return [
      { label: t("act.save_now"), lead: "save", run: () => seat.save() },
      { label: t("act.upload"), lead: "arrow-up", run: () => seat.upload() },
      { label: t("picture.label"), lead: "monitor", run: () => seat.picture.open() },
      { label: t("keys.ctrl_alt_del"), lead: "keyboard", run: () => seat.link.rfb?.sendCtrlAltDel() },
      { label: t("act.full"), lead: "maximize", run: fullScreen },
      { label: t("act.files"), lead: "folder", href: `/files?workspace=${seat.session.workspace.id}` },
      { label: t("seat.chord"), lead: "info", run: () => seat.hint() },
    ];
  }
}

function pressed(button, on) {
  button.setAttribute("aria-pressed", String(on));
}

/** Enter or leave full screen. */
export function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen({ navigationUI: "hide" }).catch(() => {});
}
