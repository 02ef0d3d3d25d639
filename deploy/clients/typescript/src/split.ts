/** Cutting many texts into messages that the server takes, and putting answers together. No I/O. */

import { EmbedError, Result } from "./outcome.js";
import type { EmbedRequest, Timing } from "./wire.generated.js";
import { encode, requestFields, type Format } from "./wire.js";

/** Room for the headers that every message has. */
const HEADER_BYTES = 1024;
/** Texts in one call. The dimension is not known here, so this bounds the answer too. */
export const TEXTS_PER_CALL = 64;

/** Beginnings and ends of parts, in order and without gaps, each of which fits into a message. */
export function split(request: EmbedRequest, format: Format, most: number, maxPayload: number): [number, number][] {
  const room = maxPayload - HEADER_BYTES - encode(requestFields({ ...request, texts: [] }), format).length;
  const parts: [number, number][] = [];
  let [start, size] = [0, 0];
  request.texts.forEach((text, index) => {
    const own = encode(text, format).length + 1;
    if (own > room) {
      throw new EmbedError(
        "payload_too_large",
        `texts[${index}] has ${Buffer.byteLength(text)} bytes, and a message may have ${maxPayload} on this server: ` +
          "cut the text, or raise max_payload in the server's configuration",
      );
    }
    if (index > start && (index - start === most || size + own > room)) {
      parts.push([start, index]);
      [start, size] = [index, 0];
    }
    size += own;
  });
  parts.push([start, request.texts.length]);
  return parts;
}

/** One result from those of the parts, in order. */
export function combine(parts: Result[]): Result {
  const [first, ...rest] = parts;
  if (first === undefined) throw new RangeError("there is no part");
  if (rest.length === 0) return first;
  const other = rest.find((part) => part.space !== first.space || part.dim !== first.dim || part.encoding !== first.encoding);
  if (other !== undefined) {
    throw new EmbedError(
      "other_space",
      `the parts of this request were answered by ${first.variant} ${first.version} and ${other.variant} ${other.version}, ` +
        "whose vectors cannot be compared: choose one with `variant`",
    );
  }
  const longest = (name: keyof Timing) => Math.max(...parts.map((part) => part.timing[name]));
  return new Result(
    first.id,
    first.model,
    first.variant,
    first.version,
    first.space,
    first.dim,
    first.encoding,
    Buffer.concat(parts.map((part) => part.bytes)),
    parts.flatMap((part) => part.items),
    {
      queue_us: longest("queue_us"),
      tokenize_us: longest("tokenize_us"),
      infer_us: longest("infer_us"),
      total_us: longest("total_us"),
      batch_size: longest("batch_size"),
    },
  );
}

/** The one embedding space whose vectors are taken: that which was asked for, or else the first that comes. */
export class Space {
  #wanted: string | undefined;

  constructor(wanted: string | undefined) {
    this.#wanted = wanted;
  }

  /** Throws `other_space`. */
  check(result: Result): void {
    this.#wanted ??= result.space;
    if (result.space !== this.#wanted) {
      throw new EmbedError(
        "other_space",
        `expected space ${this.#wanted}, and ${result.variant} ${result.version} of ${result.model} has ${result.space}: vectors of two ` +
          "spaces cannot be compared. Choose a variant of the expected space with `variant`; or, if the new one is wanted, embed everything anew",
      );
    }
  }
}
