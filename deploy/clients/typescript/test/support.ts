/** What tests have in common. */

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath, pathToFileURL } from "node:url";

/** The folder of this checkout. */
export function root(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "Cargo.lock"))) folder = dirname(folder);
  return folder;
}

export const golden = pathToFileURL(`${root()}/schemas/golden/`);
export const MODEL = "all-minilm-l6-v2";
/** Long, for slow and busy machines; what is waited for comes in a fraction of it. */
export const PATIENCE = 120_000;

/** A stack that runs: that of `EMBED_NATS_URL`, or one of this checkout's own. */
export async function stack(): Promise<{ url: string; stop: () => Promise<void> }> {
  const url = process.env["EMBED_NATS_URL"];
  if (url !== undefined) return { url, stop: async () => undefined };
  const target = process.env["CARGO_TARGET_DIR"] ?? join(root(), "target");
  const folder = mkdtempSync(join(tmpdir(), "akidb-embed-"));
  const command = ["dev", "--json", "--port", "0", "--data-dir", join(folder, "data")];
  const child = spawn(join(target, "release/embed"), command, { stdio: ["ignore", "pipe", "inherit"], cwd: root() });
  const ended = new Promise<void>((done) => child.once("exit", () => done()));
  for await (const line of createInterface(child.stdout)) {
    return {
      url: JSON.parse(line).nats_url,
      stop: async () => {
        child.kill("SIGTERM");
        await ended;
        rmSync(folder, { recursive: true });
      },
    };
  }
  throw new Error("the stack did not start: run `make build` first");
}
