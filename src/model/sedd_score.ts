/**
 * From SEDD's logits to the quantities of its paper (Lou et al. 2024): log-scores, the analytic reverse step, the
 * denoiser, and the score-entropy loss, on the host in float64. For researchers and tests. Of all this, drafting needs
 * the noise schedule alone, as a softmax over the real tokens cancels the rest.
 *
 * All functions take one sequence of R rows, with V real tokens and the mask as id and column V.
 *
 * @module
 */

/** ε of the log-linear schedule: the mask probability at time t is (1 − ε)·t. */
const EPSILON = 1e-3;

/** σ̄(t) of the log-linear schedule, the total noise at t ∈ (0, 1]; t = 1 is all mask. */
export function logLinearSigma(t: number): number {
  return -Math.log1p(-(1 - EPSILON) * t);
}

/** σ'(t), the rate at which {@linkcode logLinearSigma} grows. */
export function logLinearRate(t: number): number {
  return (1 - EPSILON) / (1 - (1 - EPSILON) * t);
}

/** One sequence of log-scores, and what they were computed from. */
export interface Scored {
  /** V */
  readonly vocabSize: number;
  /** [R], the noisy tokens; V is the mask. */
  readonly tokens: ArrayLike<number>;
  /** [R, V+1] log-scores: of the ratios p(y)/p(x) between each token y and the one that is there. */
  readonly logScores: Float64Array;
}

/**
 * Log-scores from the model's logits: shifted by a function of σ, and 0 where a token would stay as it is.
 *
 * @param logits [R, V+1]
 * @param tokens [R], the noisy tokens the logits are for
 * @param sigma σ̄ the model was given
 * @param scaleBySigma `SeddModel.scaleBySigma` of the model
 * @throws {RangeError} if `logits` does not hold a row of V+1 for each token
 */
export function logScores(
  logits: Float32Array,
  tokens: ArrayLike<number>,
  sigma: number,
  vocabSize: number,
  scaleBySigma: boolean,
): Scored {
  const columns = vocabSize + 1;
  if (logits.length !== tokens.length * columns) {
    throw new RangeError(
      `Cannot score: there are ${logits.length} logits, expected [${tokens.length}, ${columns}]`,
    );
  }
  const shift = scaleBySigma ? Math.log(Math.expm1(sigma)) + Math.log(vocabSize) : 0;
  const scores = Float64Array.from(logits, (logit) => logit - shift);
  for (let r = 0; r < tokens.length; r++) scores[r * columns + tokens[r]] = 0;
  return { vocabSize, tokens, logScores: scores };
}

/**
 * Probabilities of the analytic step that takes `delta` of noise away, [R, V+1], as the original samples from
 * them: not normalised, and as a learned score need not be consistent, that of staying masked may be negative.
 *
 * @param delta σ̄(t) − σ̄(t − dt)
 */
export function analyticProbabilities(scored: Scored, delta: number): Float64Array {
  const { vocabSize: mask, tokens, logScores } = scored;
  const columns = mask + 1, gain = Math.expm1(delta);
  const out = new Float64Array(logScores.length);
  for (let r = 0; r < tokens.length; r++) {
    const at = r * columns;
    if (tokens[r] !== mask) {
      out[at + tokens[r]] = 1;
      continue;
    }
    let reveal = 0;
    for (let y = 0; y < mask; y++) reveal += out[at + y] = gain * Math.exp(logScores[at + y]);
    out[at + mask] = 1 - reveal;
  }
  return out;
}

/**
 * Probabilities of the last step, which takes all noise away, [R, V], not normalised: no mask is left, so the
 * original drops its column and draws from the rest.
 *
 * @param sigma σ̄ of the noisy tokens
 */
export function denoiserProbabilities(scored: Scored, sigma: number): Float64Array {
  const { vocabSize, tokens } = scored;
  const full = analyticProbabilities(scored, sigma), columns = vocabSize + 1;
  const out = new Float64Array(tokens.length * vocabSize);
  for (let r = 0; r < tokens.length; r++) {
    out.set(full.subarray(r * columns, r * columns + vocabSize), r * vocabSize);
  }
  return out;
}

/**
 * The score entropy at each position, [R]: 0 where nothing is masked, else
 * Σ_y s_y − r·log s_x + r·(log r − 1) ≥ 0 with r = 1/(e^σ̄ − 1) and x the clean token.
 *
 * @param sigma σ̄ of the noisy tokens
 * @param clean [R], the tokens before noise
 */
export function scoreEntropy(scored: Scored, sigma: number, clean: ArrayLike<number>): Float64Array {
  const { vocabSize: mask, tokens, logScores } = scored;
  const ratio = 1 / Math.expm1(sigma);
  return Float64Array.from({ length: tokens.length }, (_, r) => {
    if (tokens[r] !== mask) return 0;
    const row = logScores.subarray(r * (mask + 1), r * (mask + 1) + mask); // [V]
    const total = row.reduce((sum, s) => sum + Math.exp(s), 0);
    return total - ratio * row[clean[r]] + ratio * (Math.log(ratio) - 1);
  });
}

/**
 * The training loss of one sequence, the paper's Eq. 1: score entropy weighted by the rate of the noise, σ'(t).
 *
 * @param entropy of each position, see {@linkcode scoreEntropy}
 * @param rate σ'(t)
 */
export function weightedLoss(entropy: Float64Array, rate: number): number {
  return rate * entropy.reduce((sum, e) => sum + e, 0);
}
