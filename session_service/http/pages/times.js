// Times, durations, sizes and counts as people read them: local zone, 24 or 12 hours by locale, a date when it is not
// today. Nothing is computed from the wall clock here but which day it is.

import { t } from "./strings.js";

const locale = navigator.language || "en-GB";
const hour = new Intl.DateTimeFormat(locale, { hour: "numeric" }).resolvedOptions().hour12
  ? "numeric"
  : "2-digit";
const withSeconds = new Intl.DateTimeFormat(locale, { hour, minute: "2-digit", second: "2-digit" });
const withMinutes = new Intl.DateTimeFormat(locale, { hour, minute: "2-digit" });
const dayShort = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short" });
const dayLong = new Intl.DateTimeFormat(locale, { weekday: "long", day: "numeric", month: "long" });
const weekday = new Intl.DateTimeFormat(locale, { weekday: "short" });
const WEEKDAY_MS = 6 * 86_400_000;
const number = new Intl.NumberFormat("en-GB");

function isToday(date) {
  return date.toDateString() === new Date().toDateString();
}

/** Return "14:03:12", or "19 Nov, 16:20:07" when it is not today. */
export function moment(when) {
  const date = new Date(when);
  return isToday(date) ? withSeconds.format(date) : `${dayShort.format(date)}, ${withSeconds.format(date)}`;
}

/** Return "14:33", "Tue 14:33" in the days to come, or "19 Nov 14:33": the name of a day means the next one. */
export function minute(when) {
  const date = new Date(when);
  if (isToday(date)) return withMinutes.format(date);
  const next = date > Date.now() && date - Date.now() < WEEKDAY_MS;
  return `${(next ? weekday : dayShort).format(date)} ${withMinutes.format(date)}`;
}

/** Return the time of day with seconds. */
export function clock(when) {
  return withSeconds.format(new Date(when));
}

/** Return "Today" or "Wednesday, 18 November". */
export function day(when) {
  const date = new Date(when);
  return isToday(date) ? t("time.today") : dayLong.format(date);
}

/** Return "18 November" for a receipt's headline. */
export function date(when) {
  return new Intl.DateTimeFormat(locale, { day: "numeric", month: "long" }).format(new Date(when));
}

/** Return the name of the zone in which times are shown. */
export function zone() {
  return Intl.DateTimeFormat().resolvedOptions().timeZone;
}

/** Return "1 min 19 s", "30 minutes", "2 h 14 min", "3 days" for a number of seconds. */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return t("time.seconds", { n: s, count: s });
  if (s < 3600)
    return s % 60
      ? t("time.min_s", { m: Math.floor(s / 60), s: s % 60 })
      : t("time.minutes", { n: s / 60, count: s / 60 });
  if (s < 172_800)
    return s % 3600 >= 60
      ? t("time.h_min", { h: Math.floor(s / 3600), m: Math.floor((s % 3600) / 60) })
      : t("time.hours", { n: Math.floor(s / 3600), count: Math.floor(s / 3600) });
  return t("time.days", { n: Math.floor(s / 86_400), count: Math.floor(s / 86_400) });
}

/** Return the figures of a countdown: "28:41" under an hour, "2 h 14 min" under a day, else the day it ends. */
export function figures(seconds, endsAt) {
  if (saysWhen(seconds)) return t("time.until", { time: minute(endsAt) });
  const s = Math.max(0, Math.ceil(seconds));
  if (s < 3600) return `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
  return t("time.h_min", { h: Math.floor(s / 3600), m: Math.floor((s % 3600) / 60) });
}

/** Say whether the figures of a countdown are the day on which it ends. */
export function saysWhen(seconds) {
  return Math.ceil(seconds) >= 86_400;
}

/** Return an age as operators read it: "1 h 52 m". */
export function age(seconds) {
  const m = Math.max(0, Math.floor(seconds / 60));
  return m < 1440
    ? `${Math.floor(m / 60)} h ${String(m % 60).padStart(2, "0")} m`
    : `${Math.floor(m / 1440)} d ${Math.floor((m % 1440) / 60)} h`;
}

/** Return "3.4 GB". */
export function size(bytes) {
  let value = Number(bytes);
  for (const unit of ["B", "KB", "MB", "GB", "TB"]) {
    if (value < 1000 || unit === "TB") {
      const shown = unit === "B" || value >= 100 ? Math.round(value) : Math.round(value * 10) / 10;
      return `${number.format(shown)} ${unit}`;
    }
    value /= 1000;
  }
  return "";
}

/** Return "1,048". */
export function count(value) {
  return number.format(value);
}

/** Return "11 files and folders": what a checkpoint counts. */
export function entries(n) {
  return t("unit.entries", { n, count: count(n) });
}

/** Return "3 files". */
export function files(n) {
  return t("unit.files", { n, count: count(n) });
}
