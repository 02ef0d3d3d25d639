/** Ids of jobs, and the names in subjects. */

import { createHash, randomBytes } from "node:crypto";
import { EmbedError } from "./outcome.js";
import { JOB_ID, SLUG } from "./wire.generated.js";

const DIGITS = "0123456789abcdefghjkmnpqrstvwxyz";

/** A new id: unique, and sorted by time. 10 characters of milliseconds and 13 of randomness. */
export function newId(): string {
  return number(BigInt(Date.now()), 10) + number(randomBytes(8).readBigUInt64BE(), 13);
}

/** A secret that proves that ids are one's own; see `idWithKey`. */
export function newKey(): string {
  return digits(randomBytes(32));
}

/** A new id that this key belongs to: whoever has the key can have results removed whose ids begin with it, and nobody else. */
export function idWithKey(key: string): string {
  return number(BigInt(Date.now()), 10) + idPart(key);
}

/** What the ids hold that it is the key of. */
export function idPart(key: string): string {
  return digits(createHash("sha256").update(`akidb-embed removal ${key}`).digest()).slice(0, 26);
}

/** Five bits a character, those that are left over dropped. */
function digits(bytes: Buffer): string {
  const count = Math.floor((bytes.length * 8) / 5);
  return number(BigInt(`0x${bytes.toString("hex")}`) >> BigInt(bytes.length * 8 - count * 5), count);
}

function number(value: bigint, count: number): string {
  const digit = (place: number) => DIGITS[Number((value >> BigInt(5 * place)) & 31n)];
  return Array.from({ length: count }, (_, n) => digit(count - 1 - n)).join("");
}

/** The id, if it is one. */
export function checkId(id: string): string {
  if (!JOB_ID.test(id)) throw new EmbedError("invalid_request", `id: ${JSON.stringify(id)}: use 1 to 128 letters, digits, - and _`);
  return id;
}

/** The name of a model, variant or tenant, if it is one. */
export function checkSlug(what: string, name: string): string {
  if (!SLUG.test(name)) {
    throw new EmbedError(
      "invalid_request",
      `${what}: ${JSON.stringify(name)} is no name in subjects: lower-case letters, digits and -, at most 64`,
    );
  }
  return name;
}
