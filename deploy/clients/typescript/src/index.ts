/** Text embeddings over NATS: the client of akidb-embed for TypeScript and JavaScript. */

export { Client, connect } from "./client.js";
export type { ClientOptions, EmbedOptions, Job, PublishOptions, RequestOptions, ResultsOptions } from "./client.js";
export { EmbedError } from "./errors.js";
export type { OwnCode } from "./errors.js";
export { newId } from "./ids.js";
export { isResult, Result } from "./wire.js";
export type { Failure, Format, ItemOutcome, Outcome } from "./wire.js";
export type { EmbedRequest, Encoding, KnownCode, Timing, WorkerStatus } from "./wire.generated.js";
