//! out = f(x·Wᵀ): projections with what follows them fused.

use crate::simd::{dots_by_pairs, load, madd, store, Elementary};
use crate::tile::{
    arrange, multiply, Bf16, Format, Int8, Int8Pairs, Panels, Rows, F16, F32, GROUP, GROUP_COLUMNS, TILE_ROWS,
};
use core::arch::wasm32::*;

/// What the host wrote for [`project`].
#[repr(C)]
pub struct Project {
    out: *mut u8,
    x: *mut u8,
    /// Panels of the matrix.
    weights: *const u8,
    /// f16, int8: [outputs] scale of each channel; null: 1.
    scales: *const f32,
    /// int8: [outputs] sum of each channel's bytes.
    sums: *const i32,
    /// int8: [rows] (scale, zero point) of each row of x, as `prepare` left them.
    row_scales: *const [f32; 2],
    /// [outputs], or null.
    bias: *const f32,
    /// [outputs], or null.
    gate: *const f32,
    rows: usize,
    /// Columns of out; the last panel may be wider.
    outputs: usize,
    /// Steps of the reduction.
    steps: usize,
    /// Bytes from row to row.
    x_stride: usize,
    out_stride: usize,
    /// 0 f32, 1 f16, 2 bf16, 3 int8
    format: usize,
    /// What follows: 0 nothing, 1 GELU, 2 adding to out instead of replacing it.
    then: usize,
    /// 1: the weights are in no cache.
    cold: usize,
}

/// Unit: a group of panels, 48 columns of out. Scratch: rows × 192 bytes; a group as f32; x arranged, a multiple
/// of four rows, which stays there for the job's other calls.
#[no_mangle]
pub unsafe extern "C" fn project(job: &Project, begin: usize, end: usize, scratch: *mut u8, first: bool) {
    match job.format {
        0 => groups::<F32>(job, begin, end, scratch, first),
        1 => groups::<F16>(job, begin, end, scratch, first),
        2 => groups::<Bf16>(job, begin, end, scratch, first),
        _ if dots_by_pairs() => groups::<Int8Pairs>(job, begin, end, scratch, first),
        _ => groups::<Int8>(job, begin, end, scratch, first),
    }
}

#[inline(always)]
unsafe fn groups<F: Format>(job: &Project, begin: usize, end: usize, scratch: *mut u8, first: bool) {
    let weights = Panels { data: job.weights, stride: job.steps * F::STEP, step: F::STEP };
    let x = Rows { data: job.x, stride: job.x_stride };
    let raw = Rows { data: scratch, stride: GROUP_COLUMNS * 4 };
    let wide = Panels { data: scratch.add(job.rows * raw.stride), stride: job.steps * F32::STEP, step: F32::STEP };
    let arranged = wide.from(GROUP).data as *mut u8;
    // a few tiles of rows convert a group each, as f32 it might not stay in the cache; many share one conversion
    let widened = F::WIDENED && job.rows > 4 * TILE_ROWS;
    match widened {
        _ if !first => {}
        true => arrange::<F32>(arranged, x, job.rows, job.steps),
        false => arrange::<F>(arranged, x, job.rows, job.steps),
    }
    for g in begin..end {
        let w = weights.from(g * GROUP);
        if widened {
            (0..GROUP).for_each(|p| widen::<F>(wide.from(p).data as *mut u8, w.from(p).data, job.steps));
            multiply::<F32>(raw, arranged, job.rows, wide, GROUP, job.steps, false);
        } else {
            multiply::<F>(raw, arranged, job.rows, w, GROUP, job.steps, job.cold == 1);
        }
        finish(job, raw, g * GROUP_COLUMNS);
    }
}

/// A panel as f32.
#[inline(always)]
unsafe fn widen<F: Format>(wide: *mut u8, w: *const u8, steps: usize) {
    let held = F::hold();
    for k in 0..steps {
        let [a, b] = F::load(w.add(k * F::STEP), held).map(|v| F::raise(v, held));
        v128_store(wide.add(k * 32) as *mut v128, a);
        v128_store(wide.add(k * 32 + 16) as *mut v128, b);
    }
}

/// Everything after the sum, for columns `column..` of one group. The host pads vectors to a multiple of 4.
#[inline(always)]
unsafe fn finish(job: &Project, raw: Rows, column: usize) {
    match (job.format == 3, job.then) {
        (false, 0) => finish_as::<false, false, false>(job, raw, column),
        (false, 1) => finish_as::<false, true, false>(job, raw, column),
        (false, _) => finish_as::<false, false, true>(job, raw, column),
        (true, 0) => finish_as::<true, false, false>(job, raw, column),
        (true, 1) => finish_as::<true, true, false>(job, raw, column),
        (true, _) => finish_as::<true, false, true>(job, raw, column),
    }
}

#[inline(never)]
unsafe fn finish_as<const QUANTISED: bool, const ACTIVATE: bool, const RESIDUAL: bool>(
    job: &Project,
    raw: Rows,
    column: usize,
) {
    let out = Rows { data: job.out, stride: job.out_stride };
    let columns = GROUP_COLUMNS.min(job.outputs - column);
    let elementary = Elementary::new();
    for r in 0..job.rows {
        for c in (0..columns).step_by(4) {
            let n = column + c;
            let mut y = v128_load(raw.at(r, c) as *const v128);
            if QUANTISED {
                let [scale, zero] = *job.row_scales.add(r);
                let sums = v128_load(job.sums.add(n) as *const v128);
                // Σ w·(q − z) = Σ w·q − z·Σ w, in integers
                let dot = i32x4_sub(y, i32x4_mul(sums, i32x4_splat(zero as i32)));
                let scales = f32x4_mul(v128_load(job.scales.add(n) as *const v128), f32x4_splat(scale));
                y = f32x4_mul(f32x4_convert_i32x4(dot), scales);
            } else if !job.scales.is_null() {
                y = f32x4_mul(y, v128_load(job.scales.add(n) as *const v128));
            }
            if !job.bias.is_null() {
                y = f32x4_add(y, v128_load(job.bias.add(n) as *const v128));
            }
            if ACTIVATE {
                y = elementary.gelu(y);
            }
            let at = out.at(r, n) as *mut f32;
            if RESIDUAL {
                let old = load(at, columns - c);
                y = match job.gate.is_null() {
                    true => f32x4_add(old, y),
                    false => madd(v128_load(job.gate.add(n) as *const v128), y, old),
                };
            }
            store(at, y, columns - c);
        }
    }
}
