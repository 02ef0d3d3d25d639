/** Many texts, through the queue at the lowest priority, and back in order, within bounds. */

import { idWithKey, newKey } from "./ids.js";
import { EmbedError, type Result } from "./outcome.js";
import { Space } from "./split.js";
import { Backoff, Deadline, sleep } from "./transport.js";
import { LIMITS, type Encoding } from "./wire.generated.js";

/** What a backfill is known by: kept, it can be gone on with after any kind of end. The key lets its results be removed, so it is a secret. */
export interface Run {
  id: string;
  key: string;
}

export function newRun(): Run {
  const key = newKey();
  return { id: idWithKey(key), key };
}

/** Texts that are done. */
export interface Chunk {
  /** The first, counted from 0, and the one after the last. */
  start: number;
  end: number;
  texts: string[];
  /** Their vectors; a text may have failed, see `items`. */
  result: Result;
}

export interface BackfillOptions {
  prompt?: string | undefined;
  truncate?: boolean | undefined;
  encoding?: Encoding | undefined;
  dimensions?: number | undefined;
  variant?: string | undefined;
  tenant?: string | undefined;
  /** The only embedding space whose vectors are of use; else that of the first. */
  space?: string | undefined;
  /** To go on after a crash: the same texts, the same run, and as `done` the `end` of the last chunk that was safe. Jobs that were under way are found again. */
  run?: Run | undefined;
  done?: number | undefined;
  /** Jobs under way at a time. */
  window?: number | undefined;
  textsPerJob?: number | undefined;
  /** A job without an outcome for so long is a `timeout`. 10 minutes if left out. */
  stallMs?: number | undefined;
}

/** What a backfill needs of a client. */
interface Jobs {
  publish(model: string, texts: string[], options: object): Promise<{ id: string }[]>;
  result(model: string, job: never, options: object): Promise<Result>;
  removeResults(model: string, key: string, ids: string[], options: object): Promise<number>;
}

/**
 * When the next chunk is asked for, the one before is taken to be safe: its results are removed from their stream. What is not removed expires.
 */
export async function* backfill(
  client: Jobs,
  model: string,
  texts: Iterable<string> | AsyncIterable<string>,
  options: BackfillOptions,
): AsyncGenerator<Chunk> {
  const { run = newRun(), done = 0, window = 16, textsPerJob = 64, stallMs = 600_000, tenant } = options;
  within("textsPerJob", textsPerJob, LIMITS.texts);
  within("window", window, Infinity);
  const space = new Space(options.space);
  const parts = inParts(texts, done, textsPerJob);
  const pending: { start: number; texts: string[]; id: string; result: Promise<Result> }[] = [];
  let taken: string[] = [];
  let over = false;
  const remove = async () => {
    const ids = taken;
    taken = [];
    // What is not removed expires, and is no reason to end.
    if (ids.length > 0) await client.removeResults(model, run.key, ids, { tenant }).catch(() => 0);
  };
  const ask = async (part: string[], id: string) => {
    const { prompt, truncate, encoding, dimensions, variant } = options;
    const asked = { id, prompt, truncate, encoding, dimensions, variant, tenant, lane: "bulk", timeoutMs: stallMs, expect: true };
    const [job, more] = await published(() => client.publish(model, part, asked), stallMs, () => over);
    if (job === undefined || more !== undefined) {
      throw new EmbedError("payload_too_large", `textsPerJob: texts ${id} do not fit into one message; ask for fewer`);
    }
    return client.result(model, job as never, { tenant, timeoutMs: stallMs });
  };
  const fill = async () => {
    while (pending.length < window) {
      const next = await parts.next();
      if (next.done) return;
      const { start, texts } = next.value;
      const id = `${run.id}-${start}`;
      const result = ask(texts, id);
      // What fails after the first failure is nobody's concern.
      result.catch(() => undefined);
      pending.push({ start, texts, id, result });
    }
  };
  try {
    await fill();
    for (let first = pending[0]; first !== undefined; first = pending[0]) {
      const result = await first.result;
      pending.shift();
      space.check(result);
      await fill();
      yield { start: first.start, end: first.start + first.texts.length, texts: first.texts, result };
      // Who asks for more has done with this one.
      taken.push(first.id);
      if (taken.length >= LIMITS.removals / 4) await remove();
    }
  } finally {
    // Who leaves early wants no more of it: neither jobs that have waited for room, nor texts.
    over = true;
    await parts.return(undefined).catch(() => undefined);
    await remove();
  }
}

function within(what: string, number: number, most: number): void {
  if (!(number >= 1 && number <= most)) throw new EmbedError("invalid_request", `${what}: 1 to ${most}, not ${number}`);
}

/** What was published, once the stream has room for it, unless it is over before. */
async function published<T>(publish: () => Promise<T>, stallMs: number, isOver: () => boolean): Promise<T> {
  const deadline = new Deadline(stallMs);
  const backoff = new Backoff(100, 5000);
  for (;;) {
    try {
      return await publish();
    } catch (error) {
      const pause = backoff.pause();
      if (!(error instanceof EmbedError && error.code === "stream_full") || pause >= deadline.left()) throw error;
      await sleep(pause);
      if (isOver()) throw error;
    }
  }
}

/** Texts in jobs. The same texts give the same jobs, wherever it begins. */
async function* inParts(texts: Iterable<string> | AsyncIterable<string>, done: number, most: number): AsyncGenerator<{ start: number; texts: string[] }> {
  let [count, start, part] = [0, done, [] as string[]];
  for await (const text of texts) {
    count += 1;
    if (count <= done) continue;
    part.push(text);
    if (part.length === most) {
      yield { start, texts: part };
      [start, part] = [count, []];
    }
  }
  if (count < done) throw new EmbedError("invalid_request", `done: there are no ${done} texts`);
  if (part.length > 0) yield { start, texts: part };
}
