/** The client: calls that are answered at once, jobs that are stored, and their results. */

import { connect as connectNats, type ConnectionOptions, type NatsConnection } from "@nats-io/transport-node";
import { backfill, type BackfillOptions, type Chunk } from "./backfill.js";
import { checkId, checkSlug, newId } from "./ids.js";
import { EmbedError, isResult, type Outcome, type Result } from "./outcome.js";
import { conflict, fill, Lookout, readOutcome, resultPlace } from "./results.js";
import { combine, Space, split, TEXTS_PER_CALL } from "./split.js";
import { ApiError, Backoff, CONSUMER_NOT_FOUND, Deadline, NoResponders, sleep, STREAM_NOT_FOUND, Transport } from "./transport.js";
import { CONTENT_TYPES, HEADERS, LIMITS, NAMES, SUBJECTS, type EmbedRequest, type Encoding, type Removal } from "./wire.generated.js";
import { bad, decode, decodeOutcome, digest, encode, requestFields, type Format } from "./wire.js";

const CALLS_IN_FLIGHT = 8;
const ACK_TIMEOUT = 5000;
const REMOVAL_TIMEOUT = 5000;
/** Temporarily unavailable, too many at once, or the same message on its way already. */
const PASSES = [409, 429, 503];

/** What may be asked for beside texts. */
export interface RequestOptions {
  id?: string | undefined;
  /** The name of one of the model's prompts, or "" for none. */
  prompt?: string | undefined;
  /** `false`: a text that is too long is an error. */
  truncate?: boolean | undefined;
  encoding?: Encoding | undefined;
  dimensions?: number | undefined;
  variant?: string | undefined;
  deadlineMs?: number | undefined;
}

export interface EmbedOptions extends RequestOptions {
  /** The only embedding space whose vectors are of use. */
  space?: string | undefined;
  /** For the whole request, retries included; workers are told how much of it is left. 10 seconds if left out. */
  timeoutMs?: number | undefined;
  /** `false`: nothing is tried again. */
  retry?: boolean | undefined;
}

export interface PublishOptions extends RequestOptions {
  lane?: "job" | "bulk" | undefined;
  tenant?: string | undefined;
  /** How long to keep trying while the server is away. 30 seconds if left out. */
  timeoutMs?: number | undefined;
  /** Has a copy of each outcome sent here, so that `results` knows of it at once. */
  expect?: boolean | undefined;
}

export interface ResultsOptions {
  tenant?: string | undefined;
  space?: string | undefined;
  /** As long as it takes if left out. */
  timeoutMs?: number | undefined;
}

/** A job that is stored: what its result is found by. */
export interface Job {
  id: string;
  stream: string;
  sequence: number;
  /** Whether the same job had been stored before, so that this one was not. */
  duplicate: boolean;
  /** What it asks for; a result of anything else is refused. */
  digest: string;
  copy?: number;
}

export interface ClientOptions {
  format?: Format;
  apiPrefix?: string;
}

/** A connection to NATS, as a producer of texts sees it. */
export class Client {
  readonly #transport: Transport;
  readonly #format: Format;
  readonly #inboxPrefix: string;
  #lookout: Lookout | undefined;

  /** On a connection that exists. `connect` makes one. */
  constructor(
    readonly nats: NatsConnection,
    options: ClientOptions & { inboxPrefix?: string | undefined } = {},
  ) {
    this.#transport = new Transport(nats, options.apiPrefix ?? "$JS.API");
    this.#format = options.format ?? "msgpack";
    this.#inboxPrefix = options.inboxPrefix ?? "_INBOX";
  }

  /** Ends the connection. */
  async close(): Promise<void> {
    this.#lookout?.close();
    await this.nats.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /**
   * Asks workers for the vectors of any number of texts, and waits for them. Within the time-out, a call is made again when a worker asks for
   * that, or while the workers of a model that is provisioned are restarted. Large lists are sent as several calls, eight at a time; where one
   * fails, the error's `answered` has what came before. Vectors of two spaces are refused.
   */
  async embed(model: string, texts: string[], options: EmbedOptions = {}): Promise<Result> {
    const request = this.#request(texts, options);
    const bare = fill(SUBJECTS.rpc, { model: checkSlug("model", model) });
    const subject = options.variant === undefined ? bare : `${bare}.${checkSlug("variant", options.variant)}`;
    const call: Call = { model, subject, options, deadline: new Deadline(options.timeoutMs ?? 10_000), space: new Space(options.space) };
    const parts = split(request, this.#format, TEXTS_PER_CALL, this.#transport.maxPayload);
    const results: (Result | undefined)[] = parts.map(() => undefined);
    let next = 0;
    let failed: unknown;
    const take = async () => {
      while (next < parts.length && failed === undefined) {
        const n = next++;
        const [start, end] = parts[n]!;
        const id = request.id == null ? newId() : parts.length > 1 ? checkId(`${request.id}-${n}`) : request.id;
        try {
          results[n] = await this.#part(call, { ...request, id, texts: request.texts.slice(start, end) });
        } catch (error) {
          failed ??= error;
        }
      }
    };
    await Promise.all(Array.from({ length: CALLS_IN_FLIGHT }, take));
    if (failed !== undefined) {
      if (failed instanceof EmbedError) {
        failed.answered = results.flatMap((result, n) => (result === undefined ? [] : [{ start: parts[n]![0], result }]));
      }
      throw failed;
    }
    const whole = combine(results as Result[]);
    return request.id == null ? whole : whole.with({ id: request.id });
  }

  /**
   * Stores texts as one or more jobs, and waits until the server has them. A job whose id the server has seen in the last two minutes, or that
   * has its result already, is not stored again; the same id with other texts or options is an `id_conflict`.
   */
  async publish(model: string, texts: string[], options: PublishOptions = {}): Promise<Job[]> {
    const request = this.#request(texts, options);
    const own = request.id ?? newId();
    const longest = { ...request, id: `${own}-${"9".repeat(20)}` };
    const parts = split(longest, this.#format, LIMITS.texts, this.#transport.maxPayload);
    const jobs: Job[] = [];
    for (const [n, [start, end]] of parts.entries()) {
      const id = parts.length > 1 ? checkId(`${own}-${n}`) : own;
      jobs.push(await this.#store(checkSlug("model", model), { ...request, id, texts: request.texts.slice(start, end) }, options));
    }
    return jobs;
  }

  /**
   * The outcomes of jobs, as they come. They are read from the stream, and taken only if they are of these jobs: by their ids, and where jobs
   * come from `publish`, by what was asked. Vectors of two spaces are refused.
   */
  async *results(model: string, jobs: Iterable<Job | string>, options: ResultsOptions = {}): AsyncGenerator<[string, Outcome]> {
    const lookout = this.#looking();
    const space = new Space(options.space);
    const over = new AbortController();
    const late = new EmbedError("timeout", `results did not come within ${options.timeoutMs} ms; is a worker running?`, { retryable: true });
    const timer = options.timeoutMs === undefined ? undefined : setTimeout(() => over.abort(late), options.timeoutMs);
    const one = async (job: Job | string): Promise<[string, Outcome]> => {
      const id = checkId(typeof job === "string" ? job : job.id);
      const number = (typeof job === "string" ? undefined : job.copy) ?? lookout.copy().number;
      const { stream, subject } = resultPlace(checkSlug("model", model), options.tenant, id);
      const found = await lookout.wait(number, stream, subject, over.signal);
      const outcome = readOutcome(found, id, typeof job === "string" ? undefined : job.digest);
      if (isResult(outcome)) space.check(outcome);
      return [id, outcome];
    };
    const waiting = new Map<number, Promise<{ n: number; outcome: [string, Outcome] }>>();
    let n = 0;
    for (const job of jobs) {
      const key = n++;
      const task = one(job).then((outcome) => ({ n: key, outcome }));
      // What fails after the first failure is nobody's concern.
      task.catch(() => undefined);
      waiting.set(key, task);
    }
    try {
      while (waiting.size > 0) {
        const { n: key, outcome } = await Promise.race(waiting.values());
        waiting.delete(key);
        yield outcome;
      }
    } finally {
      clearTimeout(timer);
      over.abort(late);
    }
  }

  /** The vectors of one job, waited for. Throws the error of a job that failed. */
  async result(model: string, job: Job | string, options: ResultsOptions = {}): Promise<Result> {
    for await (const [, outcome] of this.results(model, [job], options)) {
      if (isResult(outcome)) return outcome;
      throw outcome.error;
    }
    throw new RangeError("one job has one outcome");
  }

  /** Embeds many texts at the lowest priority: their vectors, in order, a chunk at a time. See `BackfillOptions`. */
  backfill(model: string, texts: Iterable<string> | AsyncIterable<string>, options: BackfillOptions = {}): AsyncGenerator<Chunk> {
    return backfill(this, model, texts, options);
  }

  /** Has a worker remove the results of jobs whose ids were made with this key (`idWithKey`). How many were there. */
  async removeResults(model: string, key: string, ids: string[], options: { tenant?: string | undefined } = {}): Promise<number> {
    const bare = fill(SUBJECTS.remove, { model: checkSlug("model", model) });
    const subject = options.tenant === undefined ? bare : `${bare}.${checkSlug("tenant", options.tenant)}`;
    let removed = 0;
    for (let at = 0; at < ids.length; at += LIMITS.removals) {
      const removal: Removal = { key, ids: ids.slice(at, at + LIMITS.removals) };
      let said: Record<string, unknown>;
      try {
        said = decode((await this.#transport.request(subject, encode(removal, this.#format), REMOVAL_TIMEOUT, this.#contentType())).data);
      } catch (error) {
        if (!(error instanceof NoResponders)) throw error;
        throw new EmbedError("rejected", `results could not be removed: no worker serves model ${model}`);
      }
      // Beside what is left, it says why that is.
      const left = said["left"];
      const isRefused = !Array.isArray(left) || left.length === 0 || !said["removed"];
      if (said["error"] != null && isRefused) throw new EmbedError("rejected", `results could not be removed: ${JSON.stringify(said["error"])}`);
      removed += Number(said["removed"] ?? 0);
    }
    return removed;
  }

  #request(texts: string[], options: RequestOptions): EmbedRequest {
    if (!Array.isArray(texts) || texts.length === 0 || !texts.every((text) => typeof text === "string" && text.isWellFormed())) {
      throw new EmbedError("invalid_request", "texts: a list of strings is needed, none with half of a surrogate pair");
    }
    if (this.#format === "msgpack" && options.encoding === "base64") {
      throw new EmbedError("invalid_request", "encoding: base64 is for JSON; leave it out: vectors come as bytes");
    }
    if (options.id !== undefined) checkId(options.id);
    return {
      texts,
      id: options.id ?? null,
      prompt: options.prompt ?? null,
      truncate: options.truncate ?? true,
      encoding: options.encoding ?? null,
      dimensions: options.dimensions ?? null,
      deadline_ms: options.deadlineMs ?? null,
    };
  }

  /** One part. Asks for its halves if it is more than a worker computes in one call, or the answer does not fit into a message. */
  async #part(call: Call, request: EmbedRequest): Promise<Result> {
    try {
      return await this.#retried(call, request);
    } catch (error) {
      const tooMuch = error instanceof EmbedError && (error.code === "call_too_large" || error.code === "result_too_large");
      if (!tooMuch || request.texts.length === 1) throw error;
    }
    const half = Math.floor(request.texts.length / 2);
    const halves = [request.texts.slice(0, half), request.texts.slice(half)];
    return combine(await Promise.all(halves.map((texts) => this.#part(call, { ...request, texts, id: newId() }))));
  }

  async #retried(call: Call, request: EmbedRequest): Promise<Result> {
    const backoff = new Backoff(20, 1000);
    for (;;) {
      let error: EmbedError;
      let took = 0;
      const left = call.deadline.left();
      try {
        return await this.#once(call, request);
      } catch (thrown) {
        if (thrown instanceof NoResponders) {
          error = new EmbedError("unknown_model", `no worker serves ${call.subject.replace(/^embed\.rpc\./, "")}`);
          if (call.options.retry === false || !(await this.#provisioned(call))) throw error;
        } else if (thrown instanceof EmbedError && thrown.retryable && !OWN_DEADLINE.includes(thrown.code) && call.options.retry !== false) {
          error = thrown;
          took = left - call.deadline.left();
        } else {
          throw thrown;
        }
      }
      const pause = backoff.pause(error.retryAfterMs);
      // What would be refused again takes as long as this did: if it were late, the advice would be lost.
      if (pause + took >= call.deadline.left()) throw error;
      await sleep(pause);
    }
  }

  async #once(call: Call, request: EmbedRequest): Promise<Result> {
    const left = call.deadline.left();
    const deadline_ms = Math.max(1, Math.min(Math.round(left), request.deadline_ms ?? Infinity));
    const payload = encode(requestFields({ ...request, deadline_ms }), this.#format);
    const answer = await this.#transport.request(call.subject, payload, left, this.#contentType());
    const outcome = decodeOutcome(answer.data);
    if (outcome.id !== undefined && outcome.id !== request.id) throw bad(`it answers the call ${outcome.id}, and not ${request.id}`);
    if (!isResult(outcome)) throw outcome.error;
    if (outcome.items.length !== request.texts.length) throw bad(`${outcome.items.length} rows for ${request.texts.length} texts`);
    call.space.check(outcome);
    return outcome;
  }

  /** Whether somebody is likely to take calls soon. Where it cannot be told, waiting costs no more than the time-out. */
  async #provisioned(call: Call): Promise<boolean> {
    call.provisioned ??= (async () => {
      const stream = fill(NAMES.jobsStream, { model: call.model });
      const { variant } = call.options;
      const consumer = variant === undefined ? undefined : fill(NAMES.jobConsumer, { variant });
      try {
        await this.#transport.api(consumer === undefined ? `STREAM.INFO.${stream}` : `CONSUMER.INFO.${stream}.${consumer}`, 2000);
      } catch (error) {
        return !(error instanceof ApiError && [STREAM_NOT_FOUND, CONSUMER_NOT_FOUND].includes(error.errCode));
      }
      return true;
    })();
    return call.provisioned;
  }

  async #store(model: string, request: EmbedRequest & { id: string }, options: PublishOptions): Promise<Job> {
    const { variant, tenant } = options;
    const bare = fill(SUBJECTS[options.lane ?? "job"], { model });
    const pinned = variant === undefined ? bare : `${bare}.${checkSlug("variant", variant)}`;
    const subject = tenant === undefined ? pinned : `${bare}.${variant ?? NAMES.anyVariant}.${checkSlug("tenant", tenant)}`;
    const copy = options.expect ? this.#looking().copy() : undefined;
    const job = { id: request.id, digest: digest(request), ...(copy === undefined ? {} : { copy: copy.number }) };
    if (options.id !== undefined) {
      const known = await this.#known(model, tenant, job);
      if (known !== undefined) return { ...job, stream: resultPlace(model, tenant, job.id).stream, sequence: known, duplicate: true };
    }
    const headers = {
      ...this.#contentType(),
      [HEADERS.messageId]: tenant === undefined ? job.id : `${tenant}.${job.id}`,
      [HEADERS.subject]: subject,
      ...(copy === undefined ? {} : { [HEADERS.replyTo]: copy.subject }),
    };
    const payload = encode(requestFields(request), this.#format);
    const ack = await this.#acknowledged(model, subject, payload, headers, new Deadline(options.timeoutMs ?? 30_000));
    const stored = { ...job, stream: ack.stream, sequence: ack.seq, duplicate: ack.duplicate ?? false };
    if (stored.duplicate) {
      const first = await this.#readable(stored.stream, stored.sequence);
      if (first === undefined) await this.#known(model, tenant, job);
      else if (digest(decode(first.payload) as unknown as EmbedRequest) !== job.digest) throw conflict(job.id);
    }
    return stored;
  }

  /** The sequence of the outcome that is stored under this id already, if it is that of the same job. */
  async #known(model: string, tenant: string | undefined, job: { id: string; digest: string }): Promise<number | undefined> {
    const { stream, subject } = resultPlace(model, tenant, job.id);
    const found = await this.#readable(stream, subject);
    if (found === undefined) return undefined;
    const outcome = readOutcome(found, job.id, job.digest);
    if (!isResult(outcome)) throw outcome.error;
    return found.sequence;
  }

  async #readable(stream: string, which: string | number) {
    try {
      return await this.#transport.stored(stream, which);
    } catch (error) {
      if (error instanceof NoResponders || (error instanceof EmbedError && ["timeout", "not_permitted"].includes(error.code))) return undefined;
      throw error;
    }
  }

  async #acknowledged(model: string, subject: string, payload: Uint8Array, headers: Record<string, string>, deadline: Deadline): Promise<Ack> {
    const backoff = new Backoff(50, 2000);
    for (;;) {
      let error: EmbedError;
      try {
        const answer = await this.#transport.request(subject, payload, Math.min(deadline.left(), ACK_TIMEOUT), headers);
        return judge(model, subject, answer.string());
      } catch (thrown) {
        if (thrown instanceof NoResponders) {
          await this.#isThere(model);
          error = new EmbedError("disconnected", `cannot publish to ${subject}: the stream has no leader`, { retryable: true });
        } else if (thrown instanceof EmbedError && ["timeout", "disconnected"].includes(thrown.code)) {
          error = thrown;
        } else {
          throw thrown;
        }
      }
      const pause = backoff.pause();
      if (pause >= deadline.left()) throw error;
      await sleep(pause);
    }
  }

  /** Throws if no stream takes jobs for the model; it may only be between leaders. */
  async #isThere(model: string): Promise<void> {
    const stream = fill(NAMES.jobsStream, { model });
    try {
      await this.#transport.api(`STREAM.INFO.${stream}`);
    } catch (error) {
      if (error instanceof ApiError && error.errCode === STREAM_NOT_FOUND) {
        throw new EmbedError("no_stream", `no stream takes jobs for model ${model}: run \`embed init\` against this server (${stream} does not exist)`);
      }
    }
  }

  #contentType(): Record<string, string> {
    return { [HEADERS.contentType]: this.#format === "json" ? CONTENT_TYPES.json : CONTENT_TYPES.messagePack };
  }

  #looking(): Lookout {
    this.#lookout ??= new Lookout(this.#transport, this.#inboxPrefix);
    return this.#lookout;
  }
}

/** Nobody needs the answer any more, or there is no time left. */
const OWN_DEADLINE = ["deadline_exceeded", "timeout"];

/** What is the same for all parts of a request. */
interface Call {
  model: string;
  subject: string;
  options: EmbedOptions;
  deadline: Deadline;
  space: Space;
  provisioned?: Promise<boolean>;
}

interface Ack {
  stream: string;
  seq: number;
  duplicate?: boolean;
}

function judge(model: string, subject: string, text: string): Ack {
  let read: Partial<Ack> & { error?: { code?: number; description?: string } };
  try {
    read = JSON.parse(text);
  } catch (error) {
    // Somebody else answers on the subject.
    throw bad(`no acknowledgement from ${subject}`, error);
  }
  const { error, stream, seq, duplicate } = read;
  if (error === undefined) {
    if (typeof stream !== "string" || typeof seq !== "number") throw bad(`no acknowledgement from ${subject}`);
    return { stream, seq, duplicate: duplicate ?? false };
  }
  const description = error.description ?? "no reason given";
  if (description.includes("maximum") && description.includes("exceeded")) {
    throw new EmbedError("stream_full", `the stream of ${model} is full (${description}): jobs wait to be served`, { retryable: true });
  }
  const passes = PASSES.includes(error.code ?? 0);
  throw new EmbedError(passes ? "disconnected" : "rejected", `cannot publish to ${subject}: ${description}`, { retryable: passes });
}

/** Connects once; later disconnections mend themselves. */
export async function connect(options: ConnectionOptions & ClientOptions = {}): Promise<Client> {
  const { format, apiPrefix, ...rest } = options;
  const nats = await connectNats({ name: "akidb-embed", maxReconnectAttempts: -1, pingInterval: 5000, ...rest });
  return new Client(nats, {
    ...(format === undefined ? {} : { format }),
    ...(apiPrefix === undefined ? {} : { apiPrefix }),
    inboxPrefix: options.inboxPrefix,
  });
}
