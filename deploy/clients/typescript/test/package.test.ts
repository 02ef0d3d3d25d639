/** The package as `npm pack` makes it: what is in it, and that the example runs with it. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { PATIENCE, root, stack } from "./support.js";

const HERE = join(root(), "deploy/clients/typescript");

test("what is packed is enough, and the example runs with it", async () => {
  const folder = mkdtempSync(join(tmpdir(), "akidb-embed-"));
  const there = await stack();
  try {
    const packed = execFileSync("npm", ["pack", "--json", "--pack-destination", folder], { cwd: HERE, encoding: "utf8" });
    const [{ filename, files }] = JSON.parse(packed.slice(packed.indexOf("[\n")));
    const names = (files as { path: string }[]).map((file) => file.path);
    for (const name of ["dist/index.js", "dist/index.d.ts", "package.json", "README.md"]) assert.ok(names.includes(name), name);
    assert.ok(names.every((name) => /^(dist\/|package\.json|README\.md)/.test(name)), String(names));

    // As npm would install it; what it depends on is here already.
    const modules = join(folder, "node_modules");
    mkdirSync(modules);
    execFileSync("tar", ["-xzf", join(folder, filename), "-C", folder]);
    cpSync(join(folder, "package"), join(modules, "akidb-embed"), { recursive: true });
    for (const name of ["@nats-io", "@msgpack", "tweetnacl"]) symlinkSync(join(HERE, "node_modules", name), join(modules, name));
    cpSync(join(HERE, "examples/calls.mjs"), join(folder, "calls.mjs"));
    const said = execFileSync(process.execPath, ["calls.mjs", there.url], { cwd: folder, encoding: "utf8", timeout: PATIENCE });
    assert.deepEqual(said.trim().split("\n").map((line) => line.trim()), [
      "2 vectors of 384 components, fp32 v1.0.0",
      "refused: unsupported_dimensions",
      "job: 3 vectors",
    ]);
  } finally {
    await there.stop();
    rmSync(folder, { recursive: true });
  }
});
