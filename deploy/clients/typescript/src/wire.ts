/** Messages: requests written, outcomes read, in JSON and in MessagePack. No I/O. */

import { createHash } from "node:crypto";
import { decode as unpack, encode as pack } from "@msgpack/msgpack";
import { EmbedError, Result, rowBytes, type ItemOutcome, type Outcome } from "./outcome.js";
import type { EmbedRequest, Encoding, Timing, WireError } from "./wire.generated.js";

export type Format = "json" | "msgpack";

/** A request as it goes over the wire: what is left to the default is left out. */
export function requestFields(request: EmbedRequest): EmbedRequest {
  const { id, texts, prompt, truncate, encoding, dimensions, deadline_ms } = request;
  const fields = {
    ...(id == null ? {} : { id }),
    texts,
    ...(prompt == null ? {} : { prompt }),
    ...(truncate === false ? { truncate } : {}),
    ...(encoding == null ? {} : { encoding }),
    ...(dimensions == null ? {} : { dimensions }),
    ...(deadline_ms == null ? {} : { deadline_ms }),
  };
  return fields;
}

/** One message. */
export function encode(message: unknown, format: Format): Uint8Array {
  return format === "json" ? new TextEncoder().encode(JSON.stringify(message)) : pack(message);
}

/** A message, whose first byte tells how it is encoded. */
export function decode(payload: Uint8Array): Record<string, unknown> {
  const first = payload[0] ?? 0;
  let message: unknown;
  try {
    if ([0x7b, 0x20, 0x09, 0x0d, 0x0a].includes(first)) {
      message = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload));
    } else if ((first >= 0x80 && first <= 0x8f) || first === 0xde || first === 0xdf) {
      message = unpack(payload);
    } else {
      throw bad("it is neither a JSON object nor a MessagePack map");
    }
  } catch (error) {
    if (error instanceof EmbedError) throw error;
    throw bad(`it cannot be read: ${String(error)}`, error);
  }
  if (typeof message !== "object" || message === null || Array.isArray(message)) throw bad("it is no object");
  return message as Record<string, unknown>;
}

/** The answer to a call, or what is stored of a job. */
export function decodeOutcome(payload: Uint8Array): Outcome {
  const message = decode(payload);
  if (message["error"] != null) {
    const id = message["id"] == null ? undefined : is("string", message["id"], "id");
    return { id, error: wireError(message["error"]) };
  }
  const dim = is("number", message["dim"], "dim");
  const encoding = is("string", message["encoding"], "encoding") as Encoding;
  if (!["f32", "f16", "i8", "u1", "float", "base64"].includes(encoding)) throw bad(`encoding: ${encoding}`);
  if (!Number.isInteger(dim) || dim < 0) throw bad(`dim: ${dim}`);
  if (!Array.isArray(message["items"])) throw bad("items: no list");
  const items = message["items"].map((item: Record<string, unknown>): ItemOutcome => {
    const known = { tokens: is("number", item["tokens"], "tokens"), truncated: is("boolean", item["truncated"], "truncated") };
    return item["error"] == null ? known : { ...known, error: wireError(item["error"]) };
  });
  const text = (name: string) => is("string", message[name], name);
  const [id, model, variant, version, space] = [text("id"), text("model"), text("variant"), text("version"), text("space")];
  const size = rowBytes(encoding, dim);
  const rows = message["vectors"];
  const bytes = rows instanceof Uint8Array ? rows : packed(rows, encoding, dim, items.length);
  if (bytes.length !== items.length * size) throw bad(`vectors: ${bytes.length} bytes for ${items.length} items of ${size} bytes each`);
  return new Result(id, model, variant, version, space, dim, encoding, bytes, items, message["timing"] as Timing);
}

/** What a request asks for, as `SHA-256=<base64url>`: the same for the same texts and options, whatever the id. */
export function digest(request: EmbedRequest): string {
  const hash = createHash("sha256");
  const { prompt = null, truncate = true, encoding = null, dimensions = null } = request;
  for (const part of [JSON.stringify([prompt, truncate, encoding, dimensions]), ...request.texts]) {
    const bytes = Buffer.from(part, "utf8");
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(bytes.length));
    hash.update(length).update(bytes);
  }
  return `SHA-256=${hash.digest("base64").replaceAll("+", "-").replaceAll("/", "_")}`;
}

/** An answer that makes no sense. */
export function bad(reason: string, cause?: unknown): EmbedError {
  return new EmbedError("bad_answer", reason, { cause });
}

function wireError(value: unknown): EmbedError {
  const error = value as Partial<WireError>;
  const code = is("string", error.code, "code");
  const message = is("string", error.message, "message");
  const retryable = is("boolean", error.retryable, "retryable");
  return EmbedError.of({ code, message, retryable, retry_after_ms: error.retry_after_ms ?? null });
}

interface Kinds {
  string: string;
  number: number;
  boolean: boolean;
}

function is<K extends keyof Kinds>(kind: K, value: unknown, field: string): Kinds[K] {
  if (typeof value !== kind) throw bad(`${field}: no ${kind}`);
  return value as Kinds[K];
}

/** JSON rows in the packed form. */
function packed(rows: unknown, encoding: Encoding, dim: number, count: number): Uint8Array {
  if (!Array.isArray(rows) || rows.length !== count) throw bad(`vectors: no list of ${count} rows`);
  const size = rowBytes(encoding, dim);
  const out = new Uint8Array(count * size);
  const view = new DataView(out.buffer);
  rows.forEach((row: unknown, number) => {
    if (row === null) return;
    if (encoding === "base64") {
      const bytes = typeof row === "string" ? Buffer.from(row, "base64") : Buffer.alloc(0);
      if (bytes.length !== size || bytes.toString("base64") !== row) throw bad(`vectors[${number}]: no base64 of ${size} bytes`);
      out.set(bytes, number * size);
      return;
    }
    const width = encoding === "u1" ? size : dim;
    if (!Array.isArray(row) || row.length !== width || !row.every((x) => typeof x === "number" && fits(x, encoding))) {
      throw bad(`vectors[${number}]: no list of ${width} numbers in the form of ${encoding}`);
    }
    (row as number[]).forEach((x, n) => put(view, encoding, number * size, n, x));
  });
  return out;
}

function fits(x: number, encoding: Encoding): boolean {
  if (encoding === "i8") return Number.isInteger(x) && x >= -128 && x <= 127;
  if (encoding === "u1") return Number.isInteger(x) && x >= 0 && x <= 255;
  return true;
}

function put(view: DataView, encoding: Encoding, at: number, n: number, x: number): void {
  if (encoding === "i8") view.setInt8(at + n, x);
  else if (encoding === "u1") view.setUint8(at + n, x);
  else if (encoding === "f16") view.setUint16(at + 2 * n, toHalf(x), true);
  else view.setFloat32(at + 4 * n, x, true);
}

/** Of a number that is one of half precision already, as JSON has them: nothing is rounded that was not. */
function toHalf(x: number): number {
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const size = Math.abs(x);
  if (!(size < 65520)) return sign | (Number.isNaN(x) ? 0x7e00 : 0x7c00);
  if (size < 2 ** -14) return sign | Math.round(size * 2 ** 24);
  const exponent = Math.floor(Math.log2(size));
  const bits = ((exponent + 15) << 10) + Math.round((size / 2 ** exponent - 1) * 1024);
  return sign | bits;
}
