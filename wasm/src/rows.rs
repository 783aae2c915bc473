//! What happens to rows outside of multiplications: norm, quantisation, embedding.

use crate::half;
use crate::simd::{by_four, keep, load, madd, max, min, opaque, store, sum};
use core::arch::wasm32::*;

/// What the host wrote for [`prepare`].
#[repr(C)]
pub struct Prepare {
    x: *const f32,
    /// Normalised rows; null: x is used as it is.
    normed: *mut f32,
    /// Quantised rows of bytes in 0..=127; null: not wanted.
    quantised: *mut u8,
    /// (scale, zero point) of each quantised row.
    row_scales: *mut [f32; 2],
    /// [columns]
    gain: *const f32,
    /// [columns], or null.
    shift: *const f32,
    columns: usize,
    /// Bytes from one quantised row to the next, a multiple of 4.
    quantised_stride: usize,
    epsilon: f32,
}

/// Norm, then quantisation, of rows side by side in x. Unit: a row.
#[no_mangle]
pub unsafe extern "C" fn prepare(job: &Prepare, begin: usize, end: usize, _scratch: *mut u8) {
    for r in begin..end {
        let mut row = job.x.add(r * job.columns);
        if !job.normed.is_null() {
            let normed = job.normed.add(r * job.columns);
            normalise(job, row, normed);
            row = normed;
        }
        if !job.quantised.is_null() {
            *job.row_scales.add(r) = quantise(job, row, job.quantised.add(r * job.quantised_stride));
        }
    }
}

unsafe fn normalise(job: &Prepare, x: *const f32, out: *mut f32) {
    let (n, columns) = (job.columns, job.columns as f32);
    let mut total = f32x4_splat(0.0);
    by_four(n, |c, count| total = f32x4_add(total, load(x.add(c), count)));
    let mean = f32x4_splat(sum(total) / columns);
    let mut squares = f32x4_splat(0.0);
    by_four(n, |c, count| {
        let d = keep(f32x4_sub(load(x.add(c), count), mean), count);
        squares = madd(d, d, squares);
    });
    let variance = sum(squares) / columns;
    // what overflows is to end as no number, and not as a row of zeros
    let scale = f32x4_splat(1.0 / (variance + job.epsilon + 0.0 * variance).sqrt());
    by_four(n, |c, count| {
        let d = f32x4_mul(f32x4_sub(load(x.add(c), count), mean), scale);
        let mut y = f32x4_mul(d, load(job.gain.add(c), count));
        if !job.shift.is_null() {
            y = f32x4_add(y, load(job.shift.add(c), count));
        }
        store(out.add(c), y, count);
    });
}

/// x ≈ scale·(q − zero), q in 0..=127, over the range of the row widened to hold 0.
unsafe fn quantise(job: &Prepare, x: *const f32, out: *mut u8) -> [f32; 2] {
    let (mut low, mut high) = (f32x4_splat(0.0), f32x4_splat(0.0));
    by_four(job.columns, |c, count| {
        let v = load(x.add(c), count);
        low = f32x4_min(low, v);
        high = f32x4_max(high, v);
    });
    let (low, high) = (min(low), max(high));
    // of a row with what is no number the scale is none either, and so is all that comes of it
    let scale = if high > low { (high - low) / 127.0 } else { 1.0 + (high - low) };
    let zero = (-low / scale).round_ties_even();
    let limits = [opaque(f32x4_splat(0.0)), opaque(f32x4_splat(127.0))];
    by_four(job.columns, |c, count| {
        let v = f32x4_nearest(f32x4_div(load(x.add(c), count), f32x4_splat(scale)));
        let q = i32x4_trunc_sat_f32x4(f32x4_min(f32x4_max(f32x4_add(v, f32x4_splat(zero)), limits[0]), limits[1]));
        let bytes = i8x16_shuffle::<0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0>(q, q);
        v128_store32_lane::<0>(bytes, out.add(c) as *mut u32);
    });
    [scale, zero]
}

/// A matrix read row by row; its panels hold the rows as columns.
#[repr(C)]
pub struct Table {
    data: *const u8,
    scales: *const f32,
    format: usize,
    steps: usize,
}

impl Table {
    /// Calls `f(k, W[row][k])` for k in 0..columns.
    #[inline(always)]
    unsafe fn each(&self, row: usize, columns: usize, mut f: impl FnMut(usize, f32)) {
        let (panel, lane) = (row / 8, row % 8);
        let step = if self.format == 1 || self.format == 2 { 16 } else { 32 };
        let data = self.data.add(panel * self.steps * step + lane * (step / 8));
        match self.format {
            0 => (0..columns).for_each(|k| f(k, *(data.add(k * 32) as *const f32))),
            1 => {
                let scale = *self.scales.add(row);
                (0..columns).for_each(|k| f(k, half::read(*(data.add(k * 16) as *const u16), scale)))
            }
            2 => (0..columns).for_each(|k| f(k, f32::from_bits((*(data.add(k * 16) as *const u16) as u32) << 16))),
            _ => {
                let scale = *self.scales.add(row);
                (0..columns).for_each(|k| f(k, *(data.add(k / 4 * 32 + k % 4) as *const i8) as f32 * scale))
            }
        }
    }
}

/// What the host wrote for [`embed`].
#[repr(C)]
pub struct Embed {
    out: *mut f32,
    /// Factors, or null.
    x: *const f32,
    tokens: *const u32,
    table: Table,
    /// `data` may be null.
    positions: Table,
    /// Position of row 0.
    start: usize,
    columns: usize,
}

/// out = table[token] ⊙ x + positions[start + r]. Unit: a row.
#[no_mangle]
pub unsafe extern "C" fn embed(job: &Embed, begin: usize, end: usize, _scratch: *mut u8) {
    for r in begin..end {
        let out = job.out.add(r * job.columns);
        if job.x.is_null() {
            job.table.each(*job.tokens.add(r) as usize, job.columns, |k, w| *out.add(k) = w);
        } else {
            let x = job.x.add(r * job.columns);
            job.table.each(*job.tokens.add(r) as usize, job.columns, |k, w| *out.add(k) = *x.add(k) * w);
        }
        if !job.positions.data.is_null() {
            job.positions.each(job.start + r, job.columns, |k, w| *out.add(k) += w);
        }
    }
}
