// What this browser knew of a desktop before its sign-in expired, so that the sign-in page may repeat it: only a time.
// Kept for the tab alone and forgotten at sign-out. Never a secret, a name or an id.

const KEY = "waits-until";

/** Remember until when a desktop waits at least. */
export function rememberWait(endsAt) {
  try {
    sessionStorage.setItem(KEY, String(Math.round(endsAt)));
  } catch {
    /* a browser that keeps nothing for us */
  }
}

/** Return the time remembered if it is still to come, else null. */
export function rememberedWait() {
  try {
    const at = Number(sessionStorage.getItem(KEY));
    return at > Date.now() ? at : null;
  } catch {
    return null;
  }
}

/** Forget it. */
export function forgetWait() {
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    /* nothing is kept */
  }
}
