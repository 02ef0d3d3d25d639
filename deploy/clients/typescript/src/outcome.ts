/** What comes of a request: vectors, or an error, which may have vectors with it. No I/O. */

import type { Encoding, KnownCode, Timing, WireError } from "./wire.generated.js";

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

/** What is known of one text. */
export interface ItemOutcome {
  tokens: number;
  truncated: boolean;
  error?: EmbedError;
}

/** The vectors of one request. */
export class Result {
  constructor(
    readonly id: string,
    readonly model: string,
    readonly variant: string,
    readonly version: string,
    /** Fingerprint of the embedding space: only vectors with the same `space` may be compared. */
    readonly space: string,
    readonly dim: number,
    readonly encoding: Encoding,
    /** All rows, row-major, little-endian, as the encoding has them. The row of a text that failed is zero. */
    readonly bytes: Uint8Array,
    readonly items: ItemOutcome[],
    readonly timing: Timing,
  ) {}

  /** One text's vector as floating point: `i8` as -127 to 127, `u1` as -1 and 1. Throws that text's error. */
  vector(row: number): Float32Array {
    const item = this.items[row];
    if (item === undefined) throw new RangeError(`the result has ${this.items.length} rows, there is no row ${row}`);
    if (item.error !== undefined) throw item.error;
    const size = rowBytes(this.encoding, this.dim);
    const bytes = this.bytes.subarray(row * size, (row + 1) * size);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return Float32Array.from({ length: this.dim }, (_, n) => component(view, this.encoding, n));
  }

  /** The same under another id, or in another space. */
  with(changes: { id?: string; space?: string }): Result {
    const { id = this.id, space = this.space } = changes;
    const { model, variant, version, dim, encoding, bytes, items, timing } = this;
    return new Result(id, model, variant, version, space, dim, encoding, bytes, items, timing);
  }

  /** All vectors; throws the first text's error, if one failed. */
  vectors(): Float32Array[] {
    return this.items.map((_, row) => this.vector(row));
  }
}

/** A job or call that failed as a whole. */
export interface Failure {
  id: string | undefined;
  error: EmbedError;
}

export type Outcome = Result | Failure;

/** Whether it is one with vectors. */
export function isResult(outcome: Outcome): outcome is Result {
  return outcome instanceof Result;
}

/** Bytes of one row. */
export function rowBytes(encoding: Encoding, dim: number): number {
  switch (encoding) {
    case "f16":
      return 2 * dim;
    case "i8":
      return dim;
    case "u1":
      return Math.ceil(dim / 8);
    default:
      return 4 * dim;
  }
}

function component(view: DataView, encoding: Encoding, n: number): number {
  switch (encoding) {
    case "f16":
      return fromHalf(view.getUint16(2 * n, true));
    case "i8":
      return view.getInt8(n);
    case "u1":
      return (view.getUint8(n >> 3) >> (7 - (n & 7))) & 1 ? 1 : -1;
    default:
      return view.getFloat32(4 * n, true);
  }
}

/** Node has no 16-bit floating point yet. */
function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
