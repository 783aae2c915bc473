/**
 * Loading streams: a model never takes much more memory than it has as it is held. Measured in processes of their own,
 * where the system tells a process's peak.
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { toPath } from "../src/hub/files.ts";

const LAYERS = 2, WIDTH = 768, VOCABULARY = 100_000, CONTEXT = 64;

/** Tensors of a GPT-2, as its checkpoints name them. */
function* shapes(): Generator<[name: string, shape: number[]]> {
  yield ["wte.weight", [VOCABULARY, WIDTH]];
  yield ["wpe.weight", [CONTEXT, WIDTH]];
  for (let i = 0; i < LAYERS; i++) {
    for (
      const [part, rows, columns] of [
        ["attn.c_attn", WIDTH, 3 * WIDTH],
        ["attn.c_proj", WIDTH, WIDTH],
        ["mlp.c_fc", WIDTH, 4 * WIDTH],
        ["mlp.c_proj", 4 * WIDTH, WIDTH],
      ] as const
    ) {
      yield [`h.${i}.${part}.weight`, [rows, columns]];
      yield [`h.${i}.${part}.bias`, [columns]];
    }
    for (const norm of ["ln_1", "ln_2"]) {
      yield [`h.${i}.${norm}.weight`, [WIDTH]];
      yield [`h.${i}.${norm}.bias`, [WIDTH]];
    }
  }
  yield ["ln_f.weight", [WIDTH]];
  yield ["ln_f.bias", [WIDTH]];
}

/** A checkpoint of zeros, 360 MB as f32, which takes no time to write: the file has a hole. */
async function writeZeros(folder: string, stored: "F32" | "F16"): Promise<void> {
  let end = 0;
  const entries = [...shapes()].map(([name, shape]) => {
    const begin = end;
    end += shape.reduce((product, n) => product * n, stored === "F32" ? 4 : 2);
    return [name, { dtype: stored, shape, data_offsets: [begin, end] }];
  });
  const header = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  using file = await Deno.open(join(folder, "model.safetensors"), { write: true, create: true });
  await file.write(new Uint8Array(BigUint64Array.of(BigInt(header.length)).buffer));
  await file.write(header);
  await file.truncate(8 + header.length + end);
  const config = {
    model_type: "gpt2",
    ...{ n_embd: WIDTH, n_head: 12, n_layer: LAYERS, n_positions: CONTEXT, vocab_size: VOCABULARY },
  };
  await Deno.writeTextFile(join(folder, "config.json"), JSON.stringify(config));
}

/** The system tells a process of its peak only where it may do all. */
async function load(folder: string, dtype: string): Promise<{ bytes: number; peak: number }> {
  const script = toPath(new URL("./loaded_peak.ts", import.meta.url));
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-lock", "--no-check", "--allow-all", script, folder, dtype],
  }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
  return JSON.parse(new TextDecoder().decode(stdout));
}

Deno.test({
  name: "loading takes less than 1.25 times the memory of the weights as they are held",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const base = await load(toPath(new URL("../fixtures/parity/gpt2-tiny", import.meta.url)), "f32");
    for (const [stored, dtypes] of [["F32", ["f32", "int8"]], ["F16", ["f16"]]] as const) {
      const folder = await Deno.makeTempDir();
      try {
        await writeZeros(folder, stored);
        for (const dtype of dtypes) {
          const { bytes, peak } = await load(folder, dtype);
          const more = (peak - base.peak) / (bytes - base.bytes);
          assert.ok(more < 1.25, `${stored} as ${dtype}: ${more.toFixed(2)} times its ${bytes} bytes`);
        }
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    }
  },
});
