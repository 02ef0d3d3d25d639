// Vectors at once, and of stored jobs: `node examples/calls.mjs nats://127.0.0.1:4222`.

import { connect, EmbedError, isResult } from "akidb-embed";

const MODEL = "all-minilm-l6-v2";
const client = await connect({ servers: process.argv[2] });

const result = await client.embed(MODEL, ["hello world", "good morning"], { timeoutMs: 30_000 });
console.log(`${result.items.length} vectors of ${result.dim} components, ${result.variant} ${result.version}`);

try {
  await client.embed(MODEL, ["hello"], { dimensions: 5 });
} catch (error) {
  if (!(error instanceof EmbedError)) throw error;
  console.log(`refused: ${error.code}`, error.retryable ? `try again in ${error.retryAfterMs} ms` : "");
}

const jobs = await client.publish(MODEL, ["one", "two", "three"], { expect: true });
for await (const [id, outcome] of client.results(MODEL, jobs, { timeoutMs: 60_000 })) {
  console.log(isResult(outcome) ? `job: ${outcome.items.length} vectors` : `${id}: ${outcome.error.message}`);
}

await client.close();
