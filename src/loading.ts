/**
 * Loading for the engine: a model from a folder or by name, in its checkpoint's precision, and a drafter with its
 * default options. Deliberately absent: generating texts, which is in `engine.ts`.
 *
 * @module
 */

import type { Backend, Dtype } from "./backend/backend.ts";
import { AutoregressiveDrafter } from "./decode/autoregressive_drafter.ts";
import type { SharedProfile } from "./decode/shared_profile.ts";
import { DiffusionDrafter, type DiffusionDrafterOptions } from "./decode/diffusion_drafter.ts";
import type { Drafter } from "./decode/drafter.ts";
import { NgramDrafter } from "./decode/ngram_drafter.ts";
import { DEFAULT_GAMMA } from "./decode/speculative.ts";
import { draftingOf } from "./drafting.ts";
import type { EngineOptions } from "./engine.ts";
import { type Checkpoint, openCheckpoint } from "./hub/checkpoint.ts";
import { isFolderHere } from "./hub/files.ts";
import { locateModel } from "./hub/models.ts";
import type { HubOptions } from "./hub/options.ts";
import { type LoadedModel, loadModel } from "./model/load.ts";
import type { CausalModel } from "./model/model.ts";
import type { LoadOptions } from "./model/uploads.ts";
import { embeddedDrafter, embeddedDrafters, openEmbedded } from "./pair.ts";
import { watchedWeights, type WatchOptions } from "./watched_weights.ts";

/** Options that only diffusion drafters use. It does not compile if one is missing. */
export const DIFFUSION_OPTIONS = Object.keys(
  {
    steps: true,
    order: true,
    draftContext: true,
    contextCache: true,
    sigma: true,
    hotStart: true,
  } satisfies Record<keyof DiffusionDrafterOptions, true>,
) as (keyof DiffusionDrafterOptions)[];

/** A loaded drafter, which can be created for each text. */
export interface LoadedDrafter {
  /** Options that it does not use. */
  readonly unused: readonly (keyof DiffusionDrafterOptions)[];
  /** Costs of rounds, by the options that affect them. Measured when first needed. */
  readonly costs: Map<string, Promise<SharedProfile>>;
  /** The default γ. */
  readonly gamma: number;
  /** @param capacity the most tokens a text will have; a drafter's own context may be shorter */
  create(options: DiffusionDrafterOptions, capacity: number): Drafter;
  dispose(): void;
}

/** Options of the hub, with a signal that either caller's signal aborts. */
export function hubOptions({ hub = {}, signal }: EngineOptions): HubOptions {
  const signals = [signal, hub.signal].filter((signal) => signal !== undefined);
  return { ...hub, signal: signals.length > 1 ? AbortSignal.any(signals) : signals[0] };
}

/** Loads a model, in its stored precision unless the options name another. */
export async function load(
  checkpoint: Checkpoint,
  backend: Backend,
  options: LoadOptions,
  watch: WatchOptions,
): Promise<LoadedModel> {
  const dtype = options.dtype ?? ownDtype(checkpoint);
  return await loadModel(watchedWeights(checkpoint, watch), backend, { ...options, dtype });
}

/** The smallest dtype that holds every matrix of a checkpoint unchanged. */
function ownDtype(checkpoint: Checkpoint): Dtype {
  const stored = new Set(
    checkpoint.tensors().filter(({ shape }) => shape.length === 2).map(({ dtype }) => dtype),
  );
  if (stored.size !== 1) return "f32";
  return stored.has("F16") ? "f16" : stored.has("BF16") ? "bf16" : "f32";
}

/**
 * Loads a drafter.
 * @param choice as {@linkcode EngineOptions.drafter} says
 * @throws {CheckpointError} if it is not as expected, or not there
 * @throws {TypeError} if its vocabulary is not the target's
 */
export async function loadDrafter(
  choice: string | URL,
  target: CausalModel,
  targetBackend: Backend,
  backend: Backend,
  options: EngineOptions,
): Promise<LoadedDrafter> {
  const { vocabSize } = target.shape;
  if (choice === "ngram") {
    return {
      unused: DIFFUSION_OPTIONS,
      gamma: DEFAULT_GAMMA,
      costs: new Map(),
      create: () => new NgramDrafter(vocabSize),
      dispose: () => {},
    };
  }
  using checkpoint = await openDrafter(choice, options);
  const drafting = draftingOf(checkpoint);
  const dtype = options.draftDtype ?? (backend.name === "cuda" ? "f16" : "int8");
  const loaded = await load(checkpoint, backend, { dtype, target, targetBackend, anyOrder: true }, options);
  const { model } = loaded;
  if (model.shape.vocabSize !== vocabSize) {
    model[Symbol.dispose]();
    throw new TypeError(
      `Cannot draft with "${checkpoint.origin}": it has ${model.shape.vocabSize} tokens, expected the target's ${vocabSize}`,
    );
  }
  return {
    unused: unusedBy(loaded),
    gamma: drafting.gamma ?? DEFAULT_GAMMA,
    costs: new Map(),
    create: loaded.kind === "diffusion"
      ? (options) => {
        const draftContext = options.draftContext ?? drafting.draftContext;
        return new DiffusionDrafter(loaded.model, backend, { ...options, draftContext });
      }
      : (_, capacity) => {
        return new AutoregressiveDrafter(
          loaded.model,
          backend,
          Math.min(capacity, model.shape.contextLength),
        );
      },
    dispose: () => model[Symbol.dispose](),
  };
}

/** Opens the checkpoint of a drafter: embedded, in a folder or by name. */
async function openDrafter(choice: string | URL, options: EngineOptions): Promise<Checkpoint> {
  const embedded = typeof choice === "string" ? embeddedDrafter(choice) : undefined;
  try {
    return embedded !== undefined
      ? await openEmbedded(embedded)
      : await openCheckpoint(await locateModel(choice, hubOptions(options)));
  } catch (error) {
    // a single word that is not a folder is probably a misspelt name
    if (embedded === undefined && /^[\w-]+$/.test(String(choice)) && !await isFolderHere(String(choice))) {
      (error as Error).message += `; embedded drafters are ${embeddedDrafters.join(", ")}`;
    }
    throw error;
  }
}

/** Options that a drafting model does not use. One that caches its prefix exactly needs no approximate cache. */
function unusedBy(loaded: LoadedModel): LoadedDrafter["unused"] {
  if (loaded.kind === "causal") return DIFFUSION_OPTIONS;
  return loaded.model.prefixAttention === "bidirectional" ? [] : ["contextCache"];
}
