/** The connection, and the few requests that everything else is made of. */

import { errors, headers, type Msg, type NatsConnection } from "@nats-io/transport-node";
import { bad } from "./wire.js";
import { EmbedError } from "./outcome.js";

export const STREAM_NOT_FOUND = 10059;
export const CONSUMER_NOT_FOUND = 10014;

/** Nobody listens on the subject. */
export class NoResponders extends Error {}

/** JetStream refuses a call of its API. */
export class ApiError extends Error {
  constructor(
    readonly errCode: number,
    description: string,
  ) {
    super(description);
  }
}

/** A message as a stream holds it. */
export interface Stored {
  sequence: number;
  headers: Map<string, string>;
  payload: Uint8Array;
}

/** A moment, by a clock that nobody sets. */
export class Deadline {
  readonly #at: number;

  constructor(readonly timeoutMs: number) {
    this.#at = performance.now() + timeoutMs;
  }

  /** Milliseconds; not below 0. */
  left(): number {
    return Math.max(0, this.#at - performance.now());
  }
}

/** Exponential back-off with jitter: half of every pause is random. `advice` is what the other side asks for; it is kept to. */
export class Backoff {
  constructor(
    private next: number,
    private readonly most: number,
  ) {}

  pause(advice?: number): number {
    const jitter = Math.random() / 2;
    const pause = advice === undefined ? this.next * (0.5 + jitter) : advice * (1 + jitter);
    this.next = Math.min(this.next * 2, this.most);
    return Math.min(pause, Math.max(this.most, advice ?? 0));
  }
}

export const sleep = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));

/** Requests over one connection. */
export class Transport {
  constructor(
    readonly nats: NatsConnection,
    readonly apiPrefix: string,
  ) {}

  /** The largest message that the server takes, bytes. */
  get maxPayload(): number {
    return this.nats.info?.max_payload ?? 1 << 20;
  }

  /** A request and its answer. Throws `NoResponders`, or an error with code `timeout`, `not_permitted` or `disconnected`. */
  async request(subject: string, payload: Uint8Array, timeoutMs: number, own: Record<string, string> = {}): Promise<Msg> {
    const sent = headers();
    for (const [name, value] of Object.entries(own)) sent.set(name, value);
    try {
      return await this.nats.request(subject, payload, { timeout: Math.max(1, timeoutMs), headers: sent });
    } catch (error) {
      const cause = error instanceof errors.RequestError ? (error.cause ?? error) : error;
      if (cause instanceof errors.NoRespondersError || (error instanceof errors.RequestError && error.isNoResponders())) {
        throw new NoResponders();
      }
      if (cause instanceof errors.TimeoutError) {
        throw new EmbedError("timeout", `no answer from ${subject} within ${Math.round(timeoutMs)} ms`, { retryable: true, cause });
      }
      if (cause instanceof errors.PermissionViolationError) {
        throw new EmbedError("not_permitted", `the server does not permit this user to publish on ${cause.subject}`, { cause });
      }
      throw new EmbedError("disconnected", String(cause), { retryable: true, cause });
    }
  }

  /** A call of JetStream's API. */
  async api(call: string, timeoutMs = 5000): Promise<Record<string, unknown>> {
    const answer = await this.request(`${this.apiPrefix}.${call}`, new Uint8Array(), timeoutMs);
    const read = answer.json<Record<string, unknown>>();
    const error = read["error"] as { err_code?: number; description?: string } | undefined;
    if (error !== undefined) throw new ApiError(error.err_code ?? 0, error.description ?? "no reason given");
    return read;
  }

  /** The last message on a subject, or that with this sequence, read without a consumer. `undefined` if there is none. */
  async stored(stream: string, which: string | number, timeoutMs = 5000): Promise<Stored | undefined> {
    const call = `${this.apiPrefix}.DIRECT.GET.${stream}`;
    const question = new TextEncoder().encode(JSON.stringify({ seq: which }));
    const answer =
      typeof which === "string"
        ? await this.request(`${call}.${which}`, new Uint8Array(), timeoutMs)
        : await this.request(call, question, timeoutMs);
    const found = new Map<string, string>();
    for (const name of answer.headers?.keys() ?? []) found.set(name, answer.headers?.last(name) ?? "");
    const sequence = found.get("Nats-Sequence");
    if (sequence !== undefined) return { sequence: Number(sequence), headers: found, payload: answer.data };
    if (answer.headers?.code === 404) return undefined;
    throw bad(`the stream ${stream} cannot be read: status ${answer.headers?.code}`);
  }
}
