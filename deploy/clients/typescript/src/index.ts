/** Text embeddings over NATS: the client of akidb-embed for TypeScript and JavaScript. */

export { Client, connect } from "./client.js";
export type { ClientOptions, EmbedOptions, Job, PublishOptions, RequestOptions, ResultsOptions } from "./client.js";
export { newRun } from "./backfill.js";
export type { BackfillOptions, Chunk, Run } from "./backfill.js";
export { EmbedError, isResult, Result } from "./outcome.js";
export type { Failure, ItemOutcome, Outcome, OwnCode } from "./outcome.js";
export { idWithKey, newId, newKey } from "./ids.js";
export type { Format } from "./wire.js";
export type { EmbedRequest, Encoding, KnownCode, Timing, WorkerStatus } from "./wire.generated.js";
