/**
 * What the SpecDiff paper reports (Christopher et al. 2024, arXiv 2408.05636 v2: Tables 1 and 3; its Table 2 and
 * Figure 2 are pictures without numbers), and what its numbers allow. Nothing here is measured.
 *
 * @module
 */

/** The paper's data sets. */
export type TaskName = "cnn-dm" | "openwebtext" | "lm1b";

/** One of the paper's tasks. */
export interface Task {
  readonly name: TaskName;
  /** The data set, for people. */
  readonly title: string;
  /** Tokens generated per prompt, where the context has room. */
  readonly maxTokens: number;
  /** γ of the paper's diffusion drafts. */
  readonly gamma: number;
  /** Column of the data set that holds the text. */
  readonly column: string;
  /**
   * What follows the text to ask for a continuation. The paper does not say; "TL;DR:" is how GPT-2 was asked for
   * summaries (Radford et al. 2019, §3.6).
   */
  readonly suffix: string;
  /** Tokens of the text that make a prompt, by the target's context; the paper does not say. */
  promptTokens(contextLength: number): number;
}

/** The tasks of Table 1, then that of Table 3. */
export const tasks: readonly Task[] = [
  {
    name: "cnn-dm",
    title: "CNN/DM",
    maxTokens: 1024,
    gamma: 40,
    column: "article",
    suffix: "\nTL;DR:",
    promptTokens: (contextLength) => contextLength >> 2,
  },
  {
    name: "openwebtext",
    title: "OpenWebText",
    maxTokens: 1024,
    gamma: 45,
    column: "text",
    suffix: "",
    promptTokens: (contextLength) => contextLength >> 4,
  },
  {
    name: "lm1b",
    title: "LM1B",
    maxTokens: 100,
    gamma: 30,
    column: "text",
    suffix: "",
    promptTokens: () => 16,
  },
];

/** γ of the paper's baseline, speculative sampling with GPT-2. */
export const CLASSICAL_GAMMA = 5;

/** The paper's targets, told by their shape: names can be anything, and a shape is what a speed-up depends on. */
export const targets = [
  { title: "GPT-2 XL", layers: 48, width: 1600 },
  { title: "GPT-Neo 2.7B", layers: 32, width: 2560 },
] as const;

/** Name of a target of the paper. */
export type TargetTitle = typeof targets[number]["title"];

/** One row of Table 1 or 3: the paper calls the methods "Spec" and "Ours". */
export interface PaperCell {
  readonly task: TaskName;
  readonly target: TargetTitle;
  readonly method: "classical" | "diffusion";
  readonly gamma: number;
  /** As printed; what it is a share of, the paper does not define twice alike: see {@linkcode bounds}. */
  readonly alpha: number;
  /** Against autoregressive decoding. */
  readonly speedup: number;
}

function cell(
  task: TaskName,
  target: TargetTitle,
  [method, gamma]: readonly [PaperCell["method"], number],
  alpha: number,
  speedup: number,
): PaperCell {
  return { task, target, method, gamma, alpha, speedup };
}

const SPEC = ["classical", CLASSICAL_GAMMA] as const;

/** Tables 1 and 3, in the paper's order. Drafters: GPT-2 124M (classical), SEDD-Absorb small (diffusion). */
export const paperCells: readonly PaperCell[] = [
  cell("cnn-dm", "GPT-2 XL", SPEC, 0.80, 2.95),
  cell("cnn-dm", "GPT-Neo 2.7B", SPEC, 0.81, 4.50),
  cell("cnn-dm", "GPT-2 XL", ["diffusion", 40], 0.89, 7.59),
  cell("cnn-dm", "GPT-Neo 2.7B", ["diffusion", 40], 0.91, 8.73),
  cell("openwebtext", "GPT-2 XL", SPEC, 0.76, 3.16),
  cell("openwebtext", "GPT-Neo 2.7B", SPEC, 0.77, 3.38),
  cell("openwebtext", "GPT-2 XL", ["diffusion", 45], 0.89, 4.79),
  cell("openwebtext", "GPT-Neo 2.7B", ["diffusion", 45], 0.92, 5.50),
  cell("lm1b", "GPT-2 XL", SPEC, 0.69, 1.70),
  cell("lm1b", "GPT-Neo 2.7B", SPEC, 0.81, 2.47),
  cell("lm1b", "GPT-2 XL", ["diffusion", 30], 0.87, 2.35),
  cell("lm1b", "GPT-Neo 2.7B", ["diffusion", 30], 0.86, 3.25),
];

/** What an α and a γ say, under either reading of α. */
export interface Bounds {
  /** Accepted tokens per draft if α is accepted over drafted: α·γ. */
  readonly acceptedIfDrafted: number;
  /** Accepted tokens per draft if α is the chance of each token that was tested: α + α² + … + α^γ. */
  readonly acceptedIfTested: number;
  /** Tokens per pass of the target under the second reading: the most a speed-up can be, drafts costing nothing. */
  readonly most: number;
}

/**
 * What an α and a γ say.
 * @param alpha in [0, 1]
 */
export function bounds(alpha: number, gamma: number): Bounds {
  const tested = expectedPrefix(alpha, gamma);
  return { acceptedIfDrafted: alpha * gamma, acceptedIfTested: tested, most: 1 + tested };
}

/** Expected length of the accepted prefix of γ tokens, each of which passes with probability α given those before. */
export function expectedPrefix(alpha: number, gamma: number): number {
  let sum = 0;
  for (let j = 1; j <= gamma; j++) sum += alpha ** j;
  return sum;
}
