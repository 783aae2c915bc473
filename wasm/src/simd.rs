//! The few vector operations in which the two builds differ, and elementary functions on four lanes.

use core::arch::wasm32::*;

/// a·b + c, rounded once where the machine can (relaxed build), twice otherwise.
#[inline(always)]
pub fn madd(a: v128, b: v128, c: v128) -> v128 {
    #[cfg(target_feature = "relaxed-simd")]
    return f32x4_relaxed_madd(a, b, c);
    #[cfg(not(target_feature = "relaxed-simd"))]
    return f32x4_add(f32x4_mul(a, b), c);
}

/// acc[j] + Σᵢ a[4j+i]·b[4j+i] over i in 0..4, a in −127..=127, b in 0..=127: the range in which every machine gives
/// the same integers. One instruction where the machine has it (see [`dots_by_pairs`]).
#[inline(always)]
pub fn dot4(a: v128, b: v128, acc: v128) -> v128 {
    #[cfg(target_feature = "relaxed-simd")]
    return i32x4_relaxed_dot_i8x16_i7x16_add(a, b, acc);
    #[cfg(not(target_feature = "relaxed-simd"))]
    return dot4_by_pairs(a, b, acc, i16x8_splat(1));
}

/// The same as [`dot4`] in three instructions: products summed in pairs to 16 bits, pairs of pairs to 32, the sum.
/// `ones` are eight 16-bit ones.
#[inline(always)]
pub fn dot4_by_pairs(a: v128, b: v128, acc: v128, ones: v128) -> v128 {
    #[cfg(target_feature = "relaxed-simd")]
    let pairs = i16x8_relaxed_dot_i8x16_i7x16(a, b);
    #[cfg(not(target_feature = "relaxed-simd"))]
    let pairs = {
        let low = i32x4_dot_i16x8(i16x8_extend_low_i8x16(a), i16x8_extend_low_i8x16(b));
        let high = i32x4_dot_i16x8(i16x8_extend_high_i8x16(a), i16x8_extend_high_i8x16(b));
        i16x8_narrow_i32x4(low, high)
    };
    i32x4_add(acc, i32x4_dot_i16x8(pairs, ones))
}

/// Whether this machine's relaxed dot of four is itself made of pairs, and then slower than [`dot4_by_pairs`]: x86
/// without VNNI. Its 16-bit sums saturate, which operands that [`dot4`] never has bring to light.
#[inline(always)]
pub fn dots_by_pairs() -> bool {
    #[cfg(target_feature = "relaxed-simd")]
    {
        let (a, b) = (core::hint::black_box(i8x16_splat(127)), core::hint::black_box(u8x16_splat(255)));
        return i32x4_extract_lane::<0>(i32x4_relaxed_dot_i8x16_i7x16_add(a, b, i32x4_splat(0))) == 2 * i16::MAX as i32;
    }
    #[cfg(not(target_feature = "relaxed-simd"))]
    return true;
}

/// A value that the compiler does not know to be constant.
#[inline(always)]
pub fn opaque(v: v128) -> v128 {
    core::hint::black_box(v)
}

/// The first `count` of four f32, the rest 0; all for `count` ≥ 4.
#[inline(always)]
pub unsafe fn load(p: *const f32, count: usize) -> v128 {
    match count {
        1 => v128_load32_zero(p as *const u32),
        2 => v128_load64_zero(p as *const u64),
        3 => v128_load32_lane::<2>(v128_load64_zero(p as *const u64), p.add(2) as *const u32),
        _ => v128_load(p as *const v128),
    }
}

/// Stores the first `count` lanes; all for `count` ≥ 4.
#[inline(always)]
pub unsafe fn store(p: *mut f32, v: v128, count: usize) {
    match count {
        1 => v128_store32_lane::<0>(v, p as *mut u32),
        2 => v128_store64_lane::<0>(v, p as *mut u64),
        3 => {
            v128_store64_lane::<0>(v, p as *mut u64);
            v128_store32_lane::<2>(v, p.add(2) as *mut u32);
        }
        _ => v128_store(p as *mut v128, v),
    }
}

/// Calls `f(index, count)` for 0..n four at a time: `count` is 4 and the compiler knows it, but for what is left over.
#[inline(always)]
pub fn by_four(n: usize, mut f: impl FnMut(usize, usize)) {
    for i in (0..n / 4 * 4).step_by(4) {
        f(i, 4);
    }
    if n % 4 > 0 {
        f(n / 4 * 4, n % 4);
    }
}

/// The first `count` lanes of v, the others 0; all for `count` ≥ 4.
#[inline(always)]
pub fn keep(v: v128, count: usize) -> v128 {
    if count >= 4 {
        return v;
    }
    v128_and(v, i32x4_lt(i32x4(0, 1, 2, 3), i32x4_splat(count as i32)))
}

/// (l0 + l1) + (l2 + l3)
#[inline(always)]
pub fn sum(v: v128) -> f32 {
    (f32x4_extract_lane::<0>(v) + f32x4_extract_lane::<1>(v))
        + (f32x4_extract_lane::<2>(v) + f32x4_extract_lane::<3>(v))
}

/// Largest lane.
#[inline(always)]
pub fn max(v: v128) -> f32 {
    let w = f32x4_max(v, i32x4_shuffle::<2, 3, 0, 1>(v, v));
    f32x4_extract_lane::<0>(f32x4_max(w, i32x4_shuffle::<1, 0, 3, 2>(w, w)))
}

/// Smallest lane.
#[inline(always)]
pub fn min(v: v128) -> f32 {
    -max(f32x4_neg(v))
}

/// The constants of [`Elementary::exp`] and [`Elementary::gelu`], made once and kept: V8 makes a constant anew at each
/// use. In order: the least argument, the greatest, log₂ e, what rounds to an integer when added, −ln 2 in two parts, a
/// polynomial, and those of GELU.
pub struct Elementary([v128; 15]);

/// Natural logarithm of about the smallest normal number: below it eˣ is 0.
const LEAST: f32 = -87.336_54;
/// 1.5·2²³: a sum with it has no bits left for a fraction, and the integer in its last ones.
const INTEGER: f32 = 12_582_912.0;
/// −2·√(2/π)
const GELU: f32 = -2.0 * 0.797_884_6;

impl Elementary {
    #[inline(always)]
    pub fn new() -> Self {
        let constants = [
            LEAST,
            88.37,
            core::f32::consts::LOG2_E,
            INTEGER,
            -0.693_359_4,
            2.121_944_4e-4,
            // minimax polynomial of Cephes expf: eʳ = 1 + r + r²·p(r)
            1.987_569_1e-4,
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            0.5,
            1.0,
            GELU,
            GELU * 0.044_715,
        ];
        Self(constants.map(|c| opaque(f32x4_splat(c))))
    }

    /// eˣ to about 1 unit in the last place; exactly 0 below [`LEAST`], NaN for NaN.
    #[inline(always)]
    pub fn exp(&self, x: v128) -> v128 {
        let [least, greatest, log2_e, integer, ln2_high, ln2_low, p0, p1, p2, p3, p4, p5, one, ..] = self.0;
        let y = f32x4_pmin(f32x4_pmax(x, least), greatest);
        // x = n·ln 2 + r, |r| ≤ ln 2 / 2; the first part of ln 2 is short enough for an exact product
        let rounded = madd(y, log2_e, integer);
        let n = f32x4_sub(rounded, integer);
        let r = madd(n, ln2_low, madd(n, ln2_high, y));
        let p = [p1, p2, p3, p4, p5].into_iter().fold(p0, |p, c| madd(p, r, c));
        let e = f32x4_add(madd(p, f32x4_mul(r, r), r), one);
        // e·2ⁿ: the bits of 1.0 have the exponent's bias in place
        let scale = i32x4_add(i32x4_shl(rounded, 23), one);
        let in_range = v128_andnot(f32x4_mul(e, scale), f32x4_lt(x, least));
        // the minimum and maximum above may have swallowed a NaN: all ones is one
        v128_or(in_range, f32x4_ne(x, x))
    }

    /// The tanh form of GELU, as y / (1 + e⁻²ᵘ) with u = √(2/π)·(y + 0.044715·y³): the same function without the
    /// cancellation of 1 + tanh u for negative u.
    #[inline(always)]
    pub fn gelu(&self, y: v128) -> v128 {
        let [.., one, first, third] = self.0;
        let e = self.exp(f32x4_mul(y, madd(f32x4_mul(y, y), third, first)));
        f32x4_div(y, f32x4_add(one, e))
    }
}
