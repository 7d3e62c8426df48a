// Why nobody can be reached: asked of the service's health page after several sockets did not open. A browser tells a
// page nothing about a websocket that fails; an ordinary request shows whether a network stands in between.
//
// Decides nothing: whatever this says, a channel goes on trying, and no answer ever takes a key away.

const ASK_MS = 4_000;
export const FAILURES_BEFORE_ASKING = 3;

/**
 * Return "offline" (this device has no network), "away" (nobody answers), "sign_in" (something else answers in the
 * service's place, as networks do that want a sign-in), "busy" (the service answers that it cannot), or "blocked" (the
 * service answers, so something in between does not let websockets through).
 */
export async function whyNot(origin, { limitMs = ASK_MS } = {}) {
  if (navigator.onLine === false) return "offline";
  let answer;
  try {
    const signal = AbortSignal.timeout(limitMs);
    answer = await fetch(`${origin}/healthz`, { cache: "no-store", redirect: "manual", signal });
    if (answer.status >= 500) return "busy";
    if (!answer.ok) return "sign_in"; // a redirect is opaque and has the status 0
    const told = await answer.json();
    return told.alive === true ? "blocked" : "sign_in";
  } catch (problem) {
    return answer?.ok && problem instanceof SyntaxError ? "sign_in" : "away";
  }
}
