/** Calls, jobs and results against real workers, and calls against one that answers as a test wants. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { connect as connectNats, headers, type Msg, type NatsConnection } from "@nats-io/transport-node";
import { connect, EmbedError, isResult, newRun, type Chunk, type Client, type EmbedOptions, type Result } from "../src/index.js";
import { MODEL, PATIENCE, stack } from "./support.js";

const TEXTS = Array.from({ length: 150 }, (_, n) => `sentence number ${n}${" and more".repeat(n % 5)}`);
let there: Awaited<ReturnType<typeof stack>>;
let client: Client;
let other: NatsConnection;

before(async () => {
  there = await stack();
  client = await connect({ servers: there.url });
  other = await connectNats({ servers: there.url });
});

after(async () => {
  await client?.close();
  await other?.close();
  await there?.stop();
});

function close(a: Float32Array, b: ArrayLike<number>, by = 1e-4): void {
  assert.equal(a.length, b.length);
  a.forEach((x, n) => assert.ok(Math.abs(x - b[n]!) <= by, `component ${n}: ${x} and ${b[n]}`));
}

test("a call is answered in both formats alike, and as a plain client sees it", async () => {
  const packed = await client.embed(MODEL, ["hello world", "you"], { timeoutMs: PATIENCE });
  const answer = await other.request(`embed.rpc.${MODEL}`, '{"texts":["hello world"]}', { timeout: PATIENCE });
  const [vector] = answer.json<{ vectors: number[][] }>().vectors;
  close(packed.vector(0), vector!);
  const json = await connect({ servers: there.url, format: "json" });
  try {
    close((await json.embed(MODEL, ["hello world"], { timeoutMs: PATIENCE })).vector(0), vector!);
    close((await json.embed(MODEL, ["hello world"], { encoding: "base64", timeoutMs: PATIENCE })).vector(0), vector!);
  } finally {
    await json.close();
  }
  close((await client.embed(MODEL, ["hello world"], { encoding: "f16", timeoutMs: PATIENCE })).vector(0), vector!, 1e-3);
  await assert.rejects(client.embed(MODEL, ["a"], { prompt: "nonsense", timeoutMs: PATIENCE }), { code: "unknown_prompt" });
  await assert.rejects(client.embed("nobodys", ["a"], { timeoutMs: PATIENCE }), { code: "unknown_model" });
});

test("jobs are stored once, and their results are those of calls", async () => {
  const jobs = await client.publish(MODEL, TEXTS, { id: "ts-1", expect: true });
  const called = await client.embed(MODEL, TEXTS, { timeoutMs: PATIENCE });
  const got = await client.result(MODEL, jobs[0]!, { timeoutMs: PATIENCE });
  got.vectors().forEach((vector, n) => close(vector, called.vector(n)));
  const [again] = await client.publish(MODEL, TEXTS, { id: "ts-1" });
  assert.equal(again?.duplicate, true);
  await assert.rejects(client.publish(MODEL, ["other"], { id: "ts-1" }), { code: "id_conflict" });
  await assert.rejects(client.publish("nobodys", ["a"]), { code: "no_stream" });
  const parts = await client.publish(MODEL, Array.from({ length: 300 }, (_, n) => `${n}`), { id: "ts-2", lane: "bulk", expect: true });
  assert.deepEqual(parts.map((job) => job.id), ["ts-2-0", "ts-2-1"]);
  const sizes = new Map<string, number>();
  for await (const [id, outcome] of client.results(MODEL, parts, { timeoutMs: PATIENCE })) {
    assert.ok(isResult(outcome));
    sizes.set(id, outcome.items.length);
  }
  assert.deepEqual(Object.fromEntries(sizes), { "ts-2-0": 256, "ts-2-1": 44 });
  await assert.rejects(client.result(MODEL, "never", { timeoutMs: 200 }), { code: "timeout" });
});

test("a backfill comes in order, goes on where it was, and leaves nothing in the stream", async () => {
  const run = newRun();
  const rows = async function* () {
    yield* TEXTS;
  };
  const chunks: Chunk[] = [];
  for await (const chunk of client.backfill(MODEL, rows(), { run, textsPerJob: 40, window: 2, stallMs: PATIENCE })) {
    chunks.push(chunk);
    if (chunk.end === 80) break;
  }
  for await (const chunk of client.backfill(MODEL, TEXTS, { run, done: 80, textsPerJob: 40, stallMs: PATIENCE })) chunks.push(chunk);
  assert.deepEqual(chunks.map(({ start, end }) => [start, end]), [[0, 40], [40, 80], [80, 120], [120, 150]]);
  assert.deepEqual(chunks.flatMap((chunk) => chunk.texts), TEXTS);
  const called = await client.embed(MODEL, TEXTS, { timeoutMs: PATIENCE });
  chunks.forEach(({ start, result }) => result.vectors().forEach((vector, n) => close(vector, called.vector(start + n))));
  // The chunk after which it was broken off was not known to be safe.
  await assert.rejects(client.result(MODEL, `${run.id}-0`, { timeoutMs: 200 }), { code: "timeout" });
  assert.equal(await client.removeResults(MODEL, run.key, [`${run.id}-40`]), 1);
  await assert.rejects(client.removeResults(MODEL, "another", ["x-1"]), { code: "rejected" });
  await assert.rejects(client.backfill(MODEL, TEXTS, { done: 151 }).next(), { code: "invalid_request" });
  await assert.rejects(client.backfill(MODEL, TEXTS, { textsPerJob: 0 }).next(), { code: "invalid_request" });
});

type Request = { id: string; texts: string[]; deadline_ms: number };

function reply(request: Request, changes: object = {}): object {
  const vectors = request.texts.map((text) => [text.length, text.charCodeAt(0)]);
  const timing = { queue_us: 1, tokenize_us: 1, infer_us: 1, total_us: 1, batch_size: 1 };
  const of = { id: request.id, model: "fake", variant: "v", version: "v1", space: "s", dim: 2, encoding: "float", timing };
  return { ...of, vectors, items: vectors.map(() => ({ tokens: 1, truncated: false })), ...changes };
}

const failure = (request: Request, code: string, more: object = {}) => ({
  id: request.id,
  error: { code, message: "no", retryable: false, ...more },
});

/** What a call comes to with this worker. */
async function ask(answer: (request: Request) => object, texts: string[], options: EmbedOptions = {}): Promise<Result> {
  const take = (_error: Error | null, message: Msg) => void message.respond(JSON.stringify(answer(message.json())));
  const subscription = other.subscribe("embed.rpc.fake", { callback: take });
  await other.flush();
  const json = await connect({ servers: there.url, format: "json" });
  try {
    return await json.embed("fake", texts, { timeoutMs: PATIENCE, ...options });
  } finally {
    subscription.unsubscribe();
    await json.close();
  }
}

test("a call is made again when the worker says so, until the deadline, of which it is told", async () => {
  const deadlines: number[] = [];
  const got = await ask((request) => {
    deadlines.push(request.deadline_ms);
    return deadlines.length < 3 ? failure(request, "overloaded", { retryable: true, retry_after_ms: 60 }) : reply(request);
  }, ["abc"]);
  assert.deepEqual([...got.vector(0)], [3, 97]);
  assert.ok(deadlines[0]! <= PATIENCE && deadlines[2]! <= deadlines[0]! - 119, String(deadlines));
  let asked = 0;
  // Longer than the call has left, in the end.
  const full = (request: Request) =>
    failure(request, "overloaded", { retryable: true, retry_after_ms: ++asked < 3 ? 100 : 2 * PATIENCE });
  await assert.rejects(ask(full, ["a"]), { code: "overloaded", retryAfterMs: 2 * PATIENCE });
  assert.equal(asked, 3);
  asked = 0;
  await assert.rejects(ask(full, ["a"], { retry: false }), { code: "overloaded" });
  assert.equal(asked, 1);
});

test("large lists are split and come back in order, in halves where that is too much", async () => {
  const texts = Array.from({ length: 200 }, (_, n) => "x".repeat(1 + (n % 9)));
  const answer = (request: Request) => (request.texts.length > 20 ? failure(request, "call_too_large") : reply(request));
  const got = await ask(answer, texts, { id: "mine" });
  assert.deepEqual(got.vectors().map((vector) => vector[0]), texts.map((text) => text.length));
  assert.equal(got.id, "mine");
});

test("what is not to be believed is refused, and what was answered is kept", async () => {
  await assert.rejects(ask((request) => reply(request, { id: "another" }), ["a"]), { code: "bad_answer" });
  await assert.rejects(ask((request) => reply(request, { vectors: [], items: [] }), ["a"]), { code: "bad_answer" });
  await assert.rejects(ask((request) => reply(request), ["a"], { space: "t" }), { code: "other_space" });
  const bad = (request: Request) => (request.texts[0] === "bad" ? failure(request, "engine_failed") : reply(request));
  const error = await ask(bad, [...Array<string>(64).fill("a"), "bad"]).catch((thrown: unknown) => thrown);
  assert.ok(error instanceof EmbedError);
  assert.deepEqual([error.code, error.answered.map((part) => part.start)], ["engine_failed", [0]]);
});

test("a forged copy changes nothing", async () => {
  const [job] = await client.publish(MODEL, ["precious"], { expect: true });
  const sent = headers();
  sent.set("Embed-Request-Digest", "SHA-256=x");
  other.publish(`embed.store.${MODEL}.ts-forged`, JSON.stringify(reply({ id: "ts-forged", texts: ["a"], deadline_ms: 1 })), { headers: sent });
  await other.flush();
  assert.ok((await client.result(MODEL, job!, { timeoutMs: PATIENCE })).dim === 384);
  await assert.rejects(client.publish(MODEL, ["a"], { id: "ts-forged" }), { code: "id_conflict" });
});
