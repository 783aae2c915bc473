/**
 * Loads the model in a folder as a dtype, and prints the bytes of its weights as held and the process's peak memory:
 * a process of its own for `memory_test.ts`.
 *
 * @module
 */

import { peakBytes } from "../bench/peak.ts";

import type { Dtype } from "../src/backend/backend.ts";
import { createBackend } from "../src/backend/create.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { loadModel } from "../src/model/load.ts";

const [folder, dtype] = Deno.args;
using backend = await createBackend("wasm", { threads: 1 });
using checkpoint = await openCheckpoint(folder);
const { model } = await loadModel(checkpoint, backend, { dtype: dtype as Dtype });
console.log(JSON.stringify({ bytes: model.bytes, peak: peakBytes() }));
model[Symbol.dispose]();
