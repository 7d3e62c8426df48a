/** After so many sockets in a row that did not open it is worth asking why. */
export declare const FAILURES_BEFORE_ASKING: 3;

/**
 * - `offline`: this device has no network
 * - `away`: nobody answers
 * - `busy`: the service, or what stands before it, answers that it cannot
 * - `sign_in`: something else answers in the service's place, as networks do that want a sign-in
 * - `blocked`: the service answers ordinary requests; something in between does not let websockets through
 */
export type Obstacle = "offline" | "away" | "busy" | "sign_in" | "blocked";

/** Ask the health page of the service at `origin` (`https://desk.example`) why no socket opens. Never rejects. */
export declare function whyNot(origin: string, options?: { limitMs?: number }): Promise<Obstacle>;
