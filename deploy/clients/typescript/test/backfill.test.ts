/** Backfills without a server: what becomes of the source and of jobs when somebody leaves early. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { backfill } from "../src/backfill.js";
import { EmbedError, type Result } from "../src/outcome.js";

test("who leaves early leaves the source, and nothing is published any more", async () => {
  let closed = false;
  let published = 0;
  async function* source(): AsyncGenerator<string> {
    try {
      for (;;) yield "text";
    } finally {
      closed = true;
    }
  }
  const client = {
    publish: async () => {
      published += 1;
      if (published > 1) throw new EmbedError("stream_full", "there is no room");
      return [{ id: "job" }];
    },
    result: async () => ({ space: "s" }) as unknown as Result,
    removeResults: async () => 0,
  };
  for await (const chunk of backfill(client, "m", source(), { window: 4, textsPerJob: 1 })) {
    assert.deepEqual([chunk.start, chunk.end], [0, 1]);
    break;
  }
  assert.ok(closed);
  const before = published;
  await sleep(1000);
  assert.equal(published, before);
});
