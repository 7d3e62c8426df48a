// Which keyboard lies in front of the user, from the browser's own map of its keys where it tells one.
//
// Not a list of all layouts: where keys and language do not tell, nothing is set and the desktop keeps its own.

const QWERTZ = { CH: "ch", cs: "cz", sk: "sk", hu: "hu", hr: "hr", sl: "si" };
const NORTHERN = { ö: { fi: "fi", is: "is" }, ø: { nb: "no", nn: "no", no: "no" }, æ: { da: "dk" } };
const NORTHERN_ELSE = { ö: "se", ø: "no", æ: "dk" };
const SOUTHERN = { ñ: "es", ò: "it" };

/** The layout's name for the desktop, or "" where it is the usual one or cannot be told. */
export async function layout() {
  const map = await navigator.keyboard?.getLayoutMap?.().catch(() => null);
  return map ? layoutOf((code) => map.get(code) ?? "", navigator.language) : "";
}

/** The same from what one key of each place types. */
export function layoutOf(at, tag) {
  const [language, region] = tag.split("-");
  const beside = at("Semicolon");
  if (at("KeyQ") === "a") return region === "BE" ? "be" : "fr";
  if (at("KeyY") === "z") return QWERTZ[region] ?? QWERTZ[language] ?? "de";
  if (beside in NORTHERN) return NORTHERN[beside][language] ?? NORTHERN_ELSE[beside];
  if (beside in SOUTHERN) return SOUTHERN[beside];
  if (beside === "ç") return region === "BR" ? "br" : "pt";
  return at("Backslash") === "#" ? "gb" : "";
}
