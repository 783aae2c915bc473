//! The one matrix multiplication: tiles of rows × panels, for projections and for both halves of attention.
//!
//! A panel holds 8 neighbouring columns of the right-hand side, one *step* after the other. Both operands advance
//! by 4 bytes per column and step: one f32, or four bytes of an int8 product.
//!
//! **The bit-exact rule.** Whatever the tile, an output is one accumulator that starts at 0 and meets the steps in
//! ascending order. Tiles differ in which outputs they hold, never in how one is computed.

use crate::half::RAISE;
use crate::simd::{dot4, dot4_by_pairs, madd, opaque};
use core::arch::wasm32::*;

/// Rows of the largest tile.
pub const TILE_ROWS: usize = 4;
/// Panels of a tile of a matrix, and so of a group.
pub const GROUP: usize = 6;
/// Columns of a group.
pub const GROUP_COLUMNS: usize = GROUP * 8;

/// How a step of a panel is held, and how it is multiplied.
pub trait Format {
    /// Bytes of a step of a panel.
    const STEP: usize;
    /// Whether panels come in whole groups and their steps side by side, as those of a matrix do.
    const GROUPED: bool = true;
    /// Whether a panel that many tiles of rows need is first held as f32: where that takes more than shuffles.
    const WIDENED: bool = false;
    /// Vectors that every step needs. They pass through [`opaque`], for V8 makes a constant anew at each use.
    type Held: Copy;
    fn hold() -> Self::Held;
    /// Columns 0..4 and 4..8 of the step at `w`, short of the factor that [`Format::raise`] gives x.
    unsafe fn load(w: *const u8, held: Self::Held) -> [v128; 2];
    /// Four numbers of x as they are multiplied: a factor costs least here, for there are fewer of them than weights.
    #[inline(always)]
    fn raise(x: v128, _: Self::Held) -> v128 {
        x
    }
    /// acc + x·w
    fn multiply(x: v128, w: v128, acc: v128, held: Self::Held) -> v128;
}

/// Eight f32.
pub struct F32;
/// Eight f32 of any number of panels, whose steps may lie apart: what attention has.
pub struct Loose;
/// Eight halves, as `half.rs` has them.
pub struct F16;
/// Eight upper halves of an f32.
pub struct Bf16;
/// Eight columns of four signed bytes, for rows of four bytes in 0..=127.
pub struct Int8;
/// The same numbers, for machines that have no one instruction for four products.
pub struct Int8Pairs;

#[inline(always)]
unsafe fn load_two(w: *const u8) -> [v128; 2] {
    [v128_load(w as *const v128), v128_load(w.add(16) as *const v128)]
}

/// Eight 32-bit numbers from their lower and upper halves.
#[inline(always)]
fn join_halves(low: v128, high: v128) -> [v128; 2] {
    [i16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>(low, high), i16x8_shuffle::<4, 12, 5, 13, 6, 14, 7, 15>(low, high)]
}

impl Format for F32 {
    const STEP: usize = 32;
    type Held = ();
    #[inline(always)]
    fn hold() {}
    #[inline(always)]
    unsafe fn load(w: *const u8, _: ()) -> [v128; 2] {
        load_two(w)
    }
    #[inline(always)]
    fn multiply(x: v128, w: v128, acc: v128, _: ()) -> v128 {
        madd(x, w, acc)
    }
}

impl Format for Loose {
    const STEP: usize = 32;
    const GROUPED: bool = false;
    type Held = ();
    #[inline(always)]
    fn hold() {}
    #[inline(always)]
    unsafe fn load(w: *const u8, _: ()) -> [v128; 2] {
        load_two(w)
    }
    #[inline(always)]
    fn multiply(x: v128, w: v128, acc: v128, _: ()) -> v128 {
        madd(x, w, acc)
    }
}

impl Format for Bf16 {
    const STEP: usize = 16;
    type Held = ();
    #[inline(always)]
    fn hold() {}
    #[inline(always)]
    unsafe fn load(w: *const u8, _: ()) -> [v128; 2] {
        join_halves(i32x4_splat(0), v128_load(w as *const v128))
    }
    #[inline(always)]
    fn multiply(x: v128, w: v128, acc: v128, _: ()) -> v128 {
        madd(x, w, acc)
    }
}

impl Format for F16 {
    const STEP: usize = 16;
    const WIDENED: bool = true;
    type Held = [v128; 2];
    #[inline(always)]
    fn hold() -> [v128; 2] {
        [opaque(u16x8_splat(0x8fff)), opaque(f32x4_splat(RAISE))]
    }
    #[inline(always)]
    unsafe fn load(w: *const u8, [mask, _]: [v128; 2]) -> [v128; 2] {
        let h = v128_load(w as *const v128);
        join_halves(i16x8_shl(h, 13), v128_and(i16x8_shr(h, 3), mask))
    }
    #[inline(always)]
    fn raise(x: v128, [_, factor]: [v128; 2]) -> v128 {
        f32x4_mul(x, factor)
    }
    #[inline(always)]
    fn multiply(x: v128, w: v128, acc: v128, _: [v128; 2]) -> v128 {
        madd(x, w, acc)
    }
}

impl Format for Int8 {
    const STEP: usize = 32;
    type Held = ();
    #[inline(always)]
    fn hold() {}
    #[inline(always)]
    unsafe fn load(w: *const u8, _: ()) -> [v128; 2] {
        load_two(w)
    }
    #[inline(always)]
    fn multiply(x: v128, w: v128, acc: v128, _: ()) -> v128 {
        dot4(w, x, acc)
    }
}

impl Format for Int8Pairs {
    const STEP: usize = 32;
    type Held = v128;
    #[inline(always)]
    fn hold() -> v128 {
        opaque(i16x8_splat(1))
    }
    #[inline(always)]
    unsafe fn load(w: *const u8, _: v128) -> [v128; 2] {
        load_two(w)
    }
    #[inline(always)]
    fn multiply(x: v128, w: v128, acc: v128, ones: v128) -> v128 {
        dot4_by_pairs(w, x, acc, ones)
    }
}

/// Rows of 4-byte entries: the left-hand side (an entry is a step) or the result (an entry is a column).
#[derive(Clone, Copy)]
pub struct Rows {
    pub data: *mut u8,
    /// Bytes from one row to the next.
    pub stride: usize,
}

impl Rows {
    #[inline(always)]
    pub unsafe fn at(self, row: usize, entry: usize) -> *mut u8 {
        self.data.add(row * self.stride + entry * 4)
    }
    #[inline(always)]
    unsafe fn from(self, row: usize, entry: usize) -> Rows {
        Rows { data: self.at(row, entry), ..self }
    }
}

/// The right-hand side: panels of steps.
#[derive(Clone, Copy)]
pub struct Panels {
    pub data: *const u8,
    /// Bytes from one panel to the next.
    pub stride: usize,
    /// Bytes from one step to the next; that of the format, unless it is [`Loose`].
    pub step: usize,
}

impl Panels {
    #[inline(always)]
    pub unsafe fn from(self, panel: usize) -> Panels {
        Panels { data: self.data.add(panel * self.stride), ..self }
    }
    #[inline(always)]
    unsafe fn after(self, steps: usize) -> Panels {
        Panels { data: self.data.add(steps * self.step), ..self }
    }
}

/// Lane LANE in all four.
#[inline(always)]
fn splat<const LANE: usize>(v: v128) -> v128 {
    i32x4_shuffle::<LANE, LANE, LANE, LANE>(v, v)
}

/// One step of a tile: row m contributes `x(m)`, one number in all lanes.
#[inline(always)]
unsafe fn advance<F: Format, const M: usize, const P: usize>(
    acc: &mut [[[v128; 2]; P]; M],
    held: F::Held,
    w: Panels,
    x: impl Fn(usize) -> v128,
) {
    let w: [[v128; 2]; P] = core::array::from_fn(|p| F::load(w.from(p).data, held));
    for m in 0..M {
        let a = x(m);
        for p in 0..P {
            acc[m][p] = core::array::from_fn(|half| F::multiply(a, w[p][half], acc[m][p][half], held));
        }
    }
}

/// M × 8P outputs over all steps.
///
/// Out of line, because V8 compiles one loop better than a function of fifty. Four steps at a time, because each load
/// is paid for with a bounds check: one load of x serves four steps. (The check is cheaper without a constant offset,
/// another reason for `w.step` to be a variable.) One pointer for all rows and one for all panels, because registers
/// are few.
#[inline(never)]
unsafe fn tile<F: Format, const M: usize, const P: usize>(out: Rows, x: Rows, w: Panels, steps: usize) {
    let held = F::hold();
    let mut acc = [[[i32x4_splat(0); 2]; P]; M];
    let mut x = x;
    // a constant where it can be: registers are few
    let mut w = Panels { step: if F::GROUPED { F::STEP } else { w.step }, ..w };
    for _ in 0..steps / 4 {
        let a: [v128; M] = core::array::from_fn(|m| F::raise(v128_load(x.at(m, 0) as *const v128), held));
        advance::<F, M, P>(&mut acc, held, w, |m| splat::<0>(a[m]));
        advance::<F, M, P>(&mut acc, held, w.after(1), |m| splat::<1>(a[m]));
        advance::<F, M, P>(&mut acc, held, w.after(2), |m| splat::<2>(a[m]));
        advance::<F, M, P>(&mut acc, held, w.after(3), |m| splat::<3>(a[m]));
        x = x.from(0, 4);
        w = w.after(4);
    }
    for _ in 0..steps % 4 {
        advance::<F, M, P>(&mut acc, held, w, |m| F::raise(v128_load32_splat(x.at(m, 0) as *const u32), held));
        x = x.from(0, 1);
        w = w.after(1);
    }
    for m in 0..M {
        for p in 0..P {
            v128_store(out.at(m, p * 8) as *mut v128, acc[m][p][0]);
            v128_store(out.at(m, p * 8 + 4) as *mut v128, acc[m][p][1]);
        }
    }
}

/// Has panels come from memory to the nearest cache: nothing but loads, one of each cache line, are so many under way at
/// once as a tile's never are among its multiplications.
#[inline(never)]
unsafe fn fetch(w: Panels, panels: usize, steps: usize) {
    let (steps_a_line, panels_a_line) = ((64 / w.step).max(1), (64 / w.stride).max(1));
    let mut seen = i32x4_splat(0);
    for p in (0..panels).step_by(panels_a_line) {
        let mut w = w.from(p);
        for _ in (0..steps).step_by(steps_a_line) {
            seen = v128_or(seen, v128_load(w.data as *const v128));
            w = w.after(steps_a_line);
        }
    }
    core::hint::black_box(seen);
}

/// M rows, all panels: those of a matrix by the group, loose ones by four, then, if there are some left, one by one.
/// `cold` ones are fetched first.
#[inline(always)]
unsafe fn row_tile<F: Format, const M: usize>(
    out: Rows,
    x: Rows,
    w: Panels,
    panels: usize,
    steps: usize,
    cold: bool,
) {
    let side_by_side = if F::GROUPED { GROUP } else { 4 };
    let whole = panels / side_by_side * side_by_side;
    for p in (0..whole).step_by(side_by_side) {
        if cold {
            fetch(w.from(p), side_by_side, steps);
        }
        if F::GROUPED {
            tile::<F, M, GROUP>(out.from(0, p * 8), x, w.from(p), steps);
        } else {
            tile::<F, M, 4>(out.from(0, p * 8), x, w.from(p), steps);
        }
    }
    if !F::GROUPED {
        for p in whole..panels {
            tile::<F, M, 1>(out.from(0, p * 8), x, w.from(p), steps);
        }
    }
}

/// out = x·w, every panel whole: 8 columns each, f32, or i32 for the int8 formats. A panel comes from memory once;
/// what follows the first tile of rows finds it in the cache.
///
/// Tiles are as wide as they are because memory is read at its full rate only from several places at once, and because
/// a vector of x is then loaded and spread once for many panels. That their accumulators exceed x86's 16 registers
/// costs less than that gains, up to four rows.
///
/// Panels that are `cold`, and few enough for the nearest cache, are worth fetching before they are multiplied.
#[inline(never)]
pub unsafe fn multiply<F: Format>(
    out: Rows,
    x: Rows,
    rows: usize,
    w: Panels,
    panels: usize,
    steps: usize,
    cold: bool,
) {
    let tiles = rows.div_ceil(TILE_ROWS);
    for t in 0..tiles {
        // as even as can be: a tile of one row has too few accumulators to hide their latency
        let (first, last) = (rows * t / tiles, rows * (t + 1) / tiles);
        let (out, x, cold) = (out.from(first, 0), x.from(first, 0), cold && t == 0);
        match last - first {
            1 => row_tile::<F, 1>(out, x, w, panels, steps, cold),
            2 => row_tile::<F, 2>(out, x, w, panels, steps, cold),
            3 => row_tile::<F, 3>(out, x, w, panels, steps, cold),
            _ => row_tile::<F, TILE_ROWS>(out, x, w, panels, steps, cold),
        }
    }
}
