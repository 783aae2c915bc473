//! Attention over a cache, made of two multiplications per head.
//!
//! Of each layer and head the cache holds keys as panels of 8 positions (so that q·k for many keys is a product with
//! panels, D steps) and values as rows, [capacity, D] (so that the weighted sum is one too, a step per position).
//! A row is reduced over absolute positions in ascending order; keys it must not see have weight 0 and add exactly
//! nothing. So its result does not depend on which rows share its tile.

use crate::simd::{load, max, store, sum, Elementary};
use crate::tile::{arrange, multiply, Loose, Panels, Rows};
use core::arch::wasm32::*;

/// What the host wrote for [`append`] and [`attend`].
#[repr(C)]
pub struct Attention {
    out: *mut f32,
    /// [rows, 3·H·D]
    qkv: *mut f32,
    /// This layer: [H, capacity/8, D, 8]
    keys: *mut f32,
    /// This layer: [H, capacity, D]
    values: *mut f32,
    /// [≥ start + rows, D] cosines (D/2) then sines (D/2) of each position, or null.
    rotary: *const f32,
    /// A multiple of 8.
    capacity: usize,
    heads: usize,
    /// D
    size: usize,
    rows: usize,
    /// Position of row 0.
    start: usize,
    causal_rows: usize,
    /// 0: no limit.
    window: usize,
    /// Rows of a unit of [`attend`].
    block: usize,
    scale: f32,
}

impl Attention {
    /// Row r of part 0 (queries), 1 (keys) or 2 (values) of a head.
    unsafe fn part(&self, part: usize, head: usize, r: usize) -> *mut f32 {
        let width = self.heads * self.size;
        self.qkv.add(r * 3 * width + part * width + head * self.size)
    }
    /// The positions [begin, end) that row r sees.
    fn visible(&self, r: usize) -> (usize, usize) {
        let position = self.start + r;
        let begin = if self.window == 0 { 0 } else { (position + 1).saturating_sub(self.window) };
        (begin, if r < self.causal_rows { position + 1 } else { self.start + self.rows })
    }
    /// Entry d of a vector at a position, rotated if this model rotates.
    #[inline(always)]
    unsafe fn rotated(&self, v: *const f32, position: usize, d: usize) -> f32 {
        if self.rotary.is_null() {
            return *v.add(d);
        }
        let half = self.size / 2;
        let table = self.rotary.add(position * self.size);
        let j = if d < half { d } else { d - half };
        let (cos, sin) = (*table.add(j), *table.add(half + j));
        match d < half {
            true => *v.add(d) * cos - *v.add(d + half) * sin,
            false => *v.add(d) * cos + *v.add(d - half) * sin,
        }
    }
}

/// Appends keys and values. Unit: a head.
#[no_mangle]
pub unsafe extern "C" fn append(job: &Attention, begin: usize, end: usize, _scratch: *mut u8) {
    for head in begin..end {
        let offset = head * job.capacity * job.size;
        for r in 0..job.rows {
            let position = job.start + r;
            let key = job.part(1, head, r);
            let panel = job.keys.add(offset + position / 8 * 8 * job.size + position % 8);
            for d in 0..job.size {
                *panel.add(d * 8) = job.rotated(key, position, d);
            }
            let row = job.values.add(offset + position * job.size);
            row.copy_from_nonoverlapping(job.part(2, head, r), job.size);
        }
    }
}

/// Attends. Unit: a block of rows of a head, blocks of one head side by side. Where all rows are one block, it appends
/// their keys and values too; several have been given them before. Scratch, f32: block × (positions seen + 16); block ×
/// (D + 8); block, up to a multiple of four, × the larger of D and the positions seen.
#[no_mangle]
pub unsafe extern "C" fn attend(job: &Attention, begin: usize, end: usize, scratch: *mut u8) {
    let blocks = job.rows.div_ceil(job.block);
    for unit in begin..end {
        let (head, first) = (unit / blocks, unit % blocks * job.block);
        if blocks == 1 {
            append(job, head, head + 1, scratch);
        }
        let rows = job.block.min(job.rows - first);
        attend_block(job, head, first, rows, scratch);
    }
}

unsafe fn attend_block(job: &Attention, head: usize, first: usize, rows: usize, scratch: *mut u8) {
    let size = job.size;
    // positions seen by any row of the block, from a panel's first
    let begin = job.visible(first).0 / 8 * 8;
    let end = (first..first + rows).fold(0, |end, r| end.max(job.visible(r).1));
    let panels = (end - begin).div_ceil(8);

    let scores = Rows { data: scratch, stride: panels * 32 };
    let spare = scratch.add(rows * scores.stride);
    let arranged = spare.add(rows * size.div_ceil(8) * 32);
    let offset = head * job.capacity * size;

    let mut queries = Rows { data: job.part(0, head, first) as *mut u8, stride: 3 * job.heads * size * 4 };
    if !job.rotary.is_null() {
        let rotated = Rows { data: spare, stride: size * 4 };
        for r in 0..rows {
            for d in 0..size {
                *(rotated.at(r, d) as *mut f32) = job.rotated(queries.at(r, 0) as *const f32, job.start + first + r, d);
            }
        }
        queries = rotated;
    }
    let keys = Panels { data: job.keys.add(offset + begin * size) as *const u8, stride: size * 32, step: 32 };
    // a pass reads all weights between one visit and the next
    arrange::<Loose>(arranged, queries, rows, size);
    multiply::<Loose>(scores, arranged, rows, keys, panels, size, true);

    let mut totals = [0f32; MAX_BLOCK];
    for (r, total) in totals.iter_mut().enumerate().take(rows) {
        let (low, high) = job.visible(first + r);
        *total = weigh(scores.at(r, 0) as *mut f32, panels * 8, low - begin, high - begin, job.scale);
    }

    // the queries have done their work: their place is free
    let wide = size.div_ceil(8);
    let mixed = Rows { data: spare, stride: wide * 32 };
    let values = Panels { data: job.values.add(offset + begin * size) as *const u8, stride: 32, step: size * 4 };
    arrange::<Loose>(arranged, scores, rows, end - begin);
    multiply::<Loose>(mixed, arranged, rows, values, wide, end - begin, true);
    for (r, total) in totals.iter().enumerate().take(rows) {
        let out = job.out.add(((first + r) * job.heads + head) * size);
        for d in (0..size).step_by(4) {
            let v = f32x4_div(v128_load(mixed.at(r, d) as *const v128), f32x4_splat(*total));
            store(out.add(d), v, size - d);
        }
    }
}

/// Largest `block` the host may ask for.
pub const MAX_BLOCK: usize = 24;

/// Ones where `first + lane` is in low..high.
#[inline(always)]
fn within(first: usize, low: usize, high: usize) -> v128 {
    let index = i32x4_add(i32x4_splat(first as i32), i32x4(0, 1, 2, 3));
    v128_and(i32x4_ge(index, i32x4_splat(low as i32)), i32x4_lt(index, i32x4_splat(high as i32)))
}

/// Scores to unnormalised weights, 0 outside [low, high); returns their sum.
unsafe fn weigh(scores: *mut f32, count: usize, low: usize, high: usize, scale: f32) -> f32 {
    let scale = f32x4_splat(scale);
    let mut largest = f32x4_splat(f32::NEG_INFINITY);
    for j in (0..count).step_by(4) {
        let s = f32x4_mul(load(scores.add(j), 4), scale);
        largest = f32x4_pmax(largest, v128_bitselect(s, largest, within(j, low, high)));
    }
    let largest = f32x4_splat(max(largest));
    let elementary = Elementary::new();
    let mut total = f32x4_splat(0.0);
    for j in (0..count).step_by(4) {
        let s = f32x4_mul(load(scores.add(j), 4), scale);
        let w = v128_and(elementary.exp(f32x4_sub(s, largest)), within(j, low, high));
        total = f32x4_add(total, w);
        store(scores.add(j), w, 4);
    }
    sum(total)
}
