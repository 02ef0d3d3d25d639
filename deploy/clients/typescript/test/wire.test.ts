/** The golden messages of all clients, byte for byte, and what is refused. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { EmbedError, isResult, type Result } from "../src/outcome.js";
import { checkId, checkSlug, idPart, idWithKey, newId, newKey } from "../src/ids.js";
import { combine, Space, split } from "../src/split.js";
import type { EmbedRequest } from "../src/wire.generated.js";
import { decode, decodeOutcome, digest, encode, requestFields, type Format } from "../src/wire.js";
import { golden } from "./support.js";

const REQUEST: EmbedRequest = {
  texts: ["hello", "naïve 🎉"],
  id: "job-1",
  prompt: "query",
  truncate: false,
  encoding: "f16",
  dimensions: 128,
  deadline_ms: 500,
};
const FORMATS: Format[] = ["json", "msgpack"];

function read(name: string): Buffer {
  return readFileSync(new URL(name, golden));
}

function result(name: string): Result {
  const outcome = decodeOutcome(read(name));
  assert.ok(isResult(outcome));
  return outcome;
}

test("requests are written as Rust writes them", () => {
  for (const format of FORMATS) {
    assert.deepEqual(Buffer.from(encode(requestFields(REQUEST), format)), read(`request.${format}`));
    assert.deepEqual(decode(read(`request.${format}`)), REQUEST);
  }
});

test("results are read", () => {
  const files = readdirSync(golden).filter((name) => name.startsWith("result-"));
  assert.equal(files.length, 11);
  const rounded: Record<string, number[]> = { i8: [64, -32, 16, -127], u1: [1, -1, 1, -1] };
  for (const file of files) {
    const got = result(file);
    assert.deepEqual([got.id, got.model, got.variant, got.version], ["job-1", "all-minilm-l6-v2", "fp32", "v1.0.0"]);
    assert.equal(got.space, "sha256:0123456789abcdef");
    assert.deepEqual([...got.vector(0)], rounded[got.encoding] ?? [0.5, -0.25, 0.125, -1], file);
    assert.deepEqual([got.items[0]?.tokens, got.items[0]?.truncated, got.timing.total_us], [4, true, 70_000]);
    assert.throws(() => got.vector(1), { code: "text_too_long", retryable: false });
    assert.throws(() => got.vectors(), EmbedError);
    assert.throws(() => got.vector(2), RangeError);
  }
});

test("half precision is kept, from JSON as well", () => {
  const message = JSON.parse(read("result-f16.json").toString());
  for (const x of [0, 1, -1, 0.333251953125, 65504, 6.103515625e-5, 5.960464477539063e-8, -1.52587890625e-5, 1023.5]) {
    message.vectors[0][0] = x;
    const outcome = decodeOutcome(Buffer.from(JSON.stringify(message)));
    assert.ok(isResult(outcome));
    assert.equal(outcome.vector(0)[0], x);
  }
});

test("failures have a code and a hint", () => {
  for (const format of FORMATS) {
    const failure = decodeOutcome(read(`failure.${format}`));
    assert.ok(!isResult(failure));
    assert.deepEqual([failure.error.code, failure.error.retryable, failure.error.retryAfterMs], ["overloaded", true, 20]);
  }
});

test("digests are those of Rust", () => {
  const lines = read("digests.jsonl").toString().trimEnd().split("\n");
  assert.ok(lines.length > 2);
  for (const line of lines) {
    const { request, digest: wanted } = JSON.parse(line);
    assert.equal(digest(request), wanted, line);
  }
});

test("what is no outcome is refused", () => {
  const json = read("result-float.json").toString();
  const messages: (string | Uint8Array)[] = [
    "",
    "hello",
    "[]",
    "{",
    "{}",
    '{"error":{}}',
    '{"error":{"code":"x","message":"y","retryable":1}}',
    json.replace('"dim":4', '"dim":5'),
    json.replace('"dim":4', '"dim":-4'),
    json.replace("0.125", '"x"'),
    json.replace(",null]", "]"),
    json.replace('"float"', '"f64"'),
    read("result-base64.json").toString().replace("AAAAPw", "AAAA?w"),
    read("result-i8.json").toString().replace("64", "640"),
    read("result-f32.msgpack").subarray(0, -1),
    Buffer.concat([read("result-f32.msgpack"), Buffer.of(0)]),
    Buffer.of(0x81),
  ];
  for (const message of messages) {
    assert.throws(() => decodeOutcome(Buffer.from(message)), { code: "bad_answer" }, String(message).slice(0, 60));
  }
});

test("lists are cut into messages and put together in order", () => {
  const texts = Array.from({ length: 300 }, (_, n) => String(n).repeat(n % 7));
  for (const format of FORMATS) {
    const parts = split({ texts }, format, 64, 2000);
    assert.deepEqual(parts.flatMap(([start, end]) => texts.slice(start, end)), texts);
    const longest = Math.max(...parts.map(([start, end]) => encode({ texts: texts.slice(start, end) }, format).length));
    assert.ok(longest > 500 && longest <= 2000 - 1024, `${longest}`);
  }
  assert.throws(() => split({ texts: ["a", "x".repeat(3000)] }, "json", 64, 2000), { code: "payload_too_large", message: /texts\[1\] has 3000/ });
  const whole = result("result-f32.msgpack");
  const both = combine([whole, whole]);
  assert.deepEqual([both.items.length, [...both.vector(2)]], [4, [0.5, -0.25, 0.125, -1]]);
  const other = whole.with({ space: "t" });
  assert.throws(() => combine([whole, other]), { code: "other_space" });
  const space = new Space(undefined);
  space.check(whole);
  assert.throws(() => space.check(other), { code: "other_space" });
});

test("ids are those of subjects", () => {
  assert.equal(new Set(Array.from({ length: 1000 }, newId)).size, 1000);
  checkId(newId());
  // As Python makes it.
  assert.equal(idPart("0".repeat(26)), "8k2vstvxjbt7473fyrfft9k83s");
  assert.ok(checkId(idWithKey(newKey())).length === 36);
  for (const bad of ["", "a.b", "a b", "*", "x".repeat(129), "a\n"]) assert.throws(() => checkId(bad), EmbedError);
  for (const bad of ["", "A", ">", "-a", "x".repeat(65)]) assert.throws(() => checkSlug("model", bad), EmbedError);
});
