/** What can go wrong: one class, whose `code` programs branch on. */

import type { KnownCode, WireError } from "./wire.generated.js";
import type { Result } from "./wire.js";

/** Codes of the client's own, beside those of workers. */
export type OwnCode =
  | "timeout"
  | "not_permitted"
  | "no_stream"
  | "stream_full"
  | "rejected"
  | "bad_answer"
  | "other_space"
  | "disconnected";

/** An error, from a worker or of the client itself. */
export class EmbedError extends Error {
  override name = "EmbedError";
  /** Stable. Newer workers may have others. */
  readonly code: KnownCode | OwnCode | (string & {});
  /** Whether the same request, sent again later, can succeed. */
  readonly retryable: boolean;
  /** Milliseconds after which to try again, if a worker can tell. */
  readonly retryAfterMs: number | undefined;
  /** What was answered before this failed, where a request took several calls. */
  answered: { start: number; result: Result }[] = [];

  constructor(
    code: EmbedError["code"],
    message: string,
    options: { retryable?: boolean; retryAfterMs?: number | undefined; cause?: unknown } = {},
  ) {
    super(`${code}: ${message}`, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retryable = options.retryable ?? false;
    this.retryAfterMs = options.retryAfterMs;
  }

  /** From what a worker says. */
  static of(error: WireError): EmbedError {
    return new EmbedError(error.code, error.message, {
      retryable: error.retryable,
      retryAfterMs: error.retry_after_ms ?? undefined,
    });
  }
}
