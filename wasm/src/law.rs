//! From logits to a token.

use crate::simd::{by_four, keep, load, max, store, sum, Elementary};
use core::arch::wasm32::*;

#[link(wasm_import_module = "host")]
extern "C" {
    /// The host's `Math.log1p`, so that a draw here and one in TypeScript agree to the last bit.
    fn log1p(x: f64) -> f64;
}

/// What the host wrote for [`softmax`].
#[repr(C)]
pub struct Softmax {
    p: *mut f32,
    logits: *const f32,
    columns: usize,
    /// Entries from one row of logits to the next.
    stride: usize,
    /// Above 0.
    temperature: f32,
}

/// p = softmax(logits / temperature) over the first `columns`. Unit: a row.
#[no_mangle]
pub unsafe extern "C" fn softmax(job: &Softmax, begin: usize, end: usize, _scratch: *mut u8) {
    let n = job.columns;
    let elementary = Elementary::new();
    for r in begin..end {
        let (logits, p) = (job.logits.add(r * job.stride), job.p.add(r * n));
        // NaN is passed over here and shows in the total; a vector that is not full is filled up with its first entry
        let mut largest = f32x4_splat(f32::NEG_INFINITY);
        by_four(n, |c, count| {
            let v = load(logits.add(c), count);
            let first = i32x4_shuffle::<0, 0, 0, 0>(v, v);
            largest = f32x4_pmax(largest, v128_or(keep(v, count), v128_andnot(first, keep(u32x4_splat(!0), count))));
        });
        let largest = f32x4_splat(max(largest));
        let temperature = f32x4_splat(job.temperature);
        let mut total = f32x4_splat(0.0);
        by_four(n, |c, count| {
            let e = elementary.exp(f32x4_div(f32x4_sub(load(logits.add(c), count), largest), temperature));
            total = f32x4_add(total, keep(e, count));
            store(p.add(c), e, count);
        });
        let total = f32x4_splat(sum(total));
        by_four(n, |c, count| store(p.add(c), f32x4_div(load(p.add(c), count), total), count));
    }
}

/// What the host wrote for [`race`].
#[repr(C)]
pub struct Race {
    out: *mut i32,
    p: *const f32,
    columns: usize,
    seed_low: u32,
    seed_high: u32,
    purpose: u32,
    /// Of row 0.
    position: u32,
}

/// Ten rounds of Philox4x32.
#[inline(always)]
fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = 0xD251_1F53u64 * c[0] as u64;
        let b = 0xCD9E_8D57u64 * c[2] as u64;
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// out = argmin over v of E_v / p[v], the lowest index among equals; −1 if no weight is positive. The same
/// operations in the same order as `race` in `src/backend/philox.ts`. Unit: a row.
#[no_mangle]
pub unsafe extern "C" fn race(job: &Race, begin: usize, end: usize, _scratch: *mut u8) {
    for r in begin..end {
        let p = job.p.add(r * job.columns);
        let position = job.position.wrapping_add(r as u32);
        let (mut best, mut winner) = (f64::INFINITY, -1);
        for block in 0..job.columns.div_ceil(4) {
            let noise = philox([block as u32, position, job.purpose, 0], [job.seed_low, job.seed_high]);
            for (i, &k) in noise.iter().enumerate().take(job.columns - block * 4) {
                let weight = *p.add(block * 4 + i) as f64;
                let u = (k as f64 + 0.5) * (1.0 / 4_294_967_296.0);
                // −log1p(−u) ≥ u: an entry that loses with u in place of its exponential cannot win
                if weight > 0.0 && u < best * weight {
                    let time = -log1p(-u) / weight;
                    if time < best {
                        best = time;
                        winner = (block * 4 + i) as i32;
                    }
                }
            }
        }
        *job.out.add(r) = winner;
    }
}
