// Asks the REST API. The cookie goes by itself; the own header shows that a page of ours asks. A failure is a Problem
// with the stable code, so that pages decide by codes and never by texts. Without an answer the code is "no_answer".

import { t, has } from "./strings.js";

const NO_ANSWER_MS = 20_000;

/** Why a request failed: `code`, `status` (0 = no answer), `detail`, `action`, `facts`, `reference`. */
export class Problem extends Error {
  constructor(fields) {
    super(fields.detail || fields.code);
    Object.assign(
      this,
      { status: 0, detail: "", action: "", facts: {}, reference: "", retryable: false },
      fields,
    );
  }
}

/** Return the answer of a GET. */
export function get(path, options = {}) {
  return ask("GET", path, undefined, options);
}

/** Send an act; it carries an idempotency key, so that a repeat after a lost answer does nothing twice. */
export function post(path, body = {}, options = {}) {
  return ask("POST", path, body, { ...options, key: options.key ?? crypto.randomUUID() });
}

/** Send a change or a removal. */
export function send(method, path, body, options = {}) {
  return ask(method, path, body, options);
}

async function ask(
  method,
  path,
  body,
  { key, generation, raw, signal, wait_ms: waitMs = NO_ANSWER_MS, stay = false },
) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-Session-Service"] = "1";
  if (key && !raw) headers["Idempotency-Key"] = key;
  if (generation !== undefined) headers["If-Match"] = `"${generation}"`;
  if (raw) headers["Content-Type"] = "application/octet-stream";
  else if (body !== undefined) headers["Content-Type"] = "application/json";
  const limit = waitMs ? AbortSignal.timeout(waitMs) : null;
  const signals = [signal, limit].filter(Boolean);
  let response;
  try {
    response = await fetch(`/api/v1${path}`, {
      method,
      headers,
      body: raw ?? (body === undefined ? undefined : JSON.stringify(body)),
      cache: "no-store",
      signal: signals.length > 1 ? AbortSignal.any(signals) : signals[0],
    });
  } catch (cause) {
    if (signal?.aborted) throw cause;
    throw new Problem({ code: "no_answer", detail: t("problem.no_answer"), retryable: true });
  }
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => null);
  if (response.ok && answer !== null) return answer;
  const problem = new Problem({
    code: "internal",
    detail: t("problem.internal"),
    ...answer,
    status: response.status,
  });
  if (problem.code === "sign_in_required" && !stay) goToSignIn();
  throw problem;
}

let leaving = false;

/** Leave for the sign-in page and come back here afterwards. */
export function goToSignIn() {
  if (leaving) return;
  leaving = true;
  const next = location.pathname + location.search;
  location.assign(`/sign-in?next=${encodeURIComponent(next)}`);
}

/** Return what people read of a failure: our words for codes that have them, else those of the answer. */
export function words(problem) {
  const key = `problem.${problem.code}`;
  return has(key) ? t(key, problem.facts) : problem.detail || t("problem.internal");
}

/** Return every item of a list that comes in pages, up to `most`. */
export async function all(path, most = 2000) {
  const items = [];
  let cursor = "";
  do {
    const mark = path.includes("?") ? "&" : "?";
    const page = await get(`${path}${mark}limit=200${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < most);
  return items;
}
