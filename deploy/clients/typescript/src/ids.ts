/** Ids of jobs, and the names in subjects. */

import { randomBytes } from "node:crypto";
import { EmbedError } from "./errors.js";
import { JOB_ID, SLUG } from "./wire.generated.js";

const DIGITS = "0123456789abcdefghjkmnpqrstvwxyz";

/** A new id: unique, and sorted by time. 10 characters of milliseconds and 13 of randomness. */
export function newId(): string {
  return number(BigInt(Date.now()), 10) + number(randomBytes(8).readBigUInt64BE(), 13);
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
