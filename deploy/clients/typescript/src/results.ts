/**
 * Outcomes of jobs, read from the stream that they are stored in: it is the truth. A job may ask for a copy of its outcome; that is a reason
 * to look, no more, since anybody could have sent it. One subscription serves all of a client's jobs.
 */

import type { Subscription } from "@nats-io/transport-node";
import { createInbox } from "@nats-io/transport-node";
import { EmbedError, isResult, type Outcome } from "./outcome.js";
import { HEADERS, NAMES, SUBJECTS } from "./wire.generated.js";
import { bad, decodeOutcome } from "./wire.js";
import { NoResponders, type Stored, type Transport } from "./transport.js";

const SHORTEST_PAUSE = 20;
const LONGEST_PAUSE = 2000;
/** Between two looks passes this part of the time for which an outcome has been waited for: so much later may it be known. */
const OF_AGE = 0.1;
/** The server that is asked may lag behind what was heard of. */
const HEARD_PAUSE = 5;
/** Looks at the same time. */
const LOOKS = 32;

/** Where outcomes are heard of. */
export class Lookout {
  readonly #inbox: string;
  readonly #subscription: Subscription;
  readonly #wake = new Map<number, () => void>();
  #next = 0;
  #looking = 0;
  readonly #turn: (() => void)[] = [];

  constructor(
    private readonly transport: Transport,
    inboxPrefix: string,
  ) {
    this.#inbox = createInbox(inboxPrefix);
    this.#subscription = transport.nats.subscribe(`${this.#inbox}.*`, {
      callback: (_error, message) => this.#wake.get(Number(message.subject.slice(this.#inbox.length + 1)))?.(),
    });
  }

  /** A new number, and the subject by which a copy is known. */
  copy(): { number: number; subject: string } {
    this.#next += 1;
    return { number: this.#next, subject: `${this.#inbox}.${this.#next}` };
  }

  close(): void {
    this.#subscription.unsubscribe();
  }

  /** The message that is stored on a subject, as soon as it is. */
  async wait(number: number, stream: string, subject: string, signal: AbortSignal): Promise<Stored> {
    const since = performance.now();
    let heard = false;
    let hurry = 0;
    for (;;) {
      signal.throwIfAborted();
      const found = await this.#look(stream, subject, signal);
      if (found !== undefined) return found;
      let pause = Math.min(Math.max((performance.now() - since) * OF_AGE, SHORTEST_PAUSE), LONGEST_PAUSE);
      if (heard) {
        hurry = HEARD_PAUSE;
        heard = false;
      } else if (hurry > 0) {
        hurry *= 2;
      }
      if (hurry > 0 && hurry < pause) pause = hurry;
      heard = await this.#pause(number, pause, signal);
    }
  }

  /** Whether a copy was heard meanwhile. */
  #pause(number: number, ms: number, signal: AbortSignal): Promise<boolean> {
    return new Promise((done) => {
      const end = (heard: boolean) => {
        clearTimeout(timer);
        signal.removeEventListener("abort", stop);
        this.#wake.delete(number);
        done(heard);
      };
      const stop = () => end(false);
      const timer = setTimeout(stop, ms);
      signal.addEventListener("abort", stop);
      this.#wake.set(number, () => end(true));
    });
  }

  async #look(stream: string, subject: string, signal: AbortSignal): Promise<Stored | undefined> {
    while (this.#looking >= LOOKS) await new Promise<void>((turn) => this.#turn.push(turn));
    this.#looking += 1;
    try {
      if (signal.aborted) return undefined;
      return await this.transport.stored(stream, subject);
    } catch (error) {
      // There may be no leader now, or no connection: it is looked for again.
      const passes = error instanceof NoResponders || (error instanceof EmbedError && error.code === "timeout");
      if (!passes) throw error;
      return undefined;
    } finally {
      this.#looking -= 1;
      this.#turn.shift()?.();
    }
  }
}

/** An outcome, if it is that of this job: it says so itself, and vectors come with the digest of the request that they answer. */
export function readOutcome(found: Stored, id: string, digest: string | undefined): Outcome {
  const of = found.headers.get(HEADERS.requestDigest);
  if (digest !== undefined && of !== undefined && of !== digest) throw conflict(id);
  const outcome = decodeOutcome(found.payload);
  if (outcome.id !== undefined && outcome.id !== id) throw bad(`it is the outcome of another job, ${outcome.id}, and not of ${id}`);
  if (digest !== undefined && of === undefined && isResult(outcome)) {
    throw bad(`it does not say which request it answers (${HEADERS.requestDigest} is missing): publish the job under another id`);
  }
  return outcome;
}

/** Another job has the id. */
export function conflict(id: string): EmbedError {
  return new EmbedError("id_conflict", `another job has the id ${id}, with other texts or options: choose another id`);
}

/** Under what an outcome is stored, and in which stream. */
export function resultPlace(model: string, tenant: string | undefined, id: string): { stream: string; subject: string } {
  return {
    stream: fill(NAMES.resultsStream, { model }),
    subject: fill(SUBJECTS.result, { model, id: tenant === undefined ? id : `${tenant}.${id}` }),
  };
}

/** A name with its placeholders filled in. */
export function fill(template: string, values: Record<string, string>): string {
  return template.replace(/\{(\w+)\}/g, (whole, name: string) => values[name] ?? whole);
}
