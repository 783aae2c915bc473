//! The one matrix multiplication: tiles of rows × panels, for projections and for both halves of attention.
//!
//! A panel holds 8 neighbouring columns of the right-hand side, one *step* after the other. Both operands advance
//! by 4 bytes per column and step: one f32, or four bytes of an int8 product. Rows of the left-hand side that share a
//! tile are interleaved beforehand, so that one load has what a step needs of all of them.
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
    /// Whether a sum is ready for its next step within a cycle, so that the sums of one panel keep the processor busy.
    const PROMPT: bool = false;
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
    const PROMPT: bool = true;
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

/// Rows as tiles read them: TILE_ROWS at a time interleaved, blocks of [steps, TILE_ROWS] entries, and a last one that is
/// alone as it is.
pub unsafe fn arrange<F: Format>(to: *mut u8, x: Rows, rows: usize, steps: usize) {
    let held = F::hold();
    for first in (0..rows).step_by(TILE_ROWS) {
        let (to, x, count) = (to.add(first * steps * 4), x.from(first, 0), TILE_ROWS.min(rows - first));
        let width = if count == 1 { 1 } else { TILE_ROWS };
        let whole = steps / 4 * 4;
        for k in (0..whole).step_by(4) {
            let four = |m: usize| F::raise(v128_load(x.at(m, k) as *const v128), held);
            let to = to.add(k * width * 4) as *mut v128;
            if count == 1 {
                v128_store(to, four(0));
                continue;
            }
            // what stands in the place of a row that is not there is multiplied by nobody
            let [a, b] = zip(four(0), four(1));
            let [c, d] = zip(four(2.min(count - 1)), four(3.min(count - 1)));
            v128_store(to, i64x2_shuffle::<0, 2>(a, c));
            v128_store(to.add(1), i64x2_shuffle::<1, 3>(a, c));
            v128_store(to.add(2), i64x2_shuffle::<0, 2>(b, d));
            v128_store(to.add(3), i64x2_shuffle::<1, 3>(b, d));
        }
        for k in whole..steps {
            for m in 0..count {
                let entry = F::raise(v128_load32_splat(x.at(m, k) as *const u32), held);
                v128_store32_lane::<0>(entry, to.add((k * width + m) * 4) as *mut u32);
            }
        }
    }
}

/// Entries of two rows by turns.
#[inline(always)]
fn zip(a: v128, b: v128) -> [v128; 2] {
    [i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<2, 6, 3, 7>(a, b)]
}

/// M × 8P outputs over all steps, of rows as [`arrange`] leaves them.
///
/// Out of line, because V8 compiles one loop better than a function of fifty. A step at a time, because of several the
/// compiler takes all for one accumulator before the next, while what the others need waits in registers, which are few.
#[inline(never)]
unsafe fn tile<F: Format, const M: usize, const P: usize>(out: Rows, x: *const u8, w: Panels, steps: usize) {
    let held = F::hold();
    let mut acc = [[[i32x4_splat(0); 2]; P]; M];
    let mut x = x;
    // a constant where it can be: registers are few
    let mut w = Panels { step: if F::GROUPED { F::STEP } else { w.step }, ..w };
    for _ in 0..steps {
        let a = match M {
            1 => [v128_load32_splat(x as *const u32); TILE_ROWS],
            _ => {
                let a = v128_load(x as *const v128);
                [splat::<0>(a), splat::<1>(a), splat::<2>(a), splat::<3>(a)]
            }
        };
        for p in 0..P {
            let columns = F::load(w.from(p).data, held);
            for m in 0..M {
                acc[m][p] = core::array::from_fn(|half| F::multiply(a[m], columns[half], acc[m][p][half], held));
            }
        }
        x = x.add(if M == 1 { 4 } else { TILE_ROWS * 4 });
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

/// M rows, all panels: of one row those of a matrix by the group and loose ones by four, else one by one. `cold` ones
/// are fetched first, as many at a time; if sums are prompt, they are read one by one instead, in one stretch of memory.
#[inline(always)]
unsafe fn row_tile<F: Format, const M: usize>(
    out: Rows,
    x: *const u8,
    w: Panels,
    panels: usize,
    steps: usize,
    cold: bool,
) {
    let side_by_side = if F::GROUPED { GROUP } else { 4 };
    for first in (0..panels).step_by(side_by_side) {
        let count = side_by_side.min(panels - first);
        let (out, w) = (out.from(0, first * 8), w.from(first));
        let alone = cold && F::PROMPT;
        if cold && !alone {
            fetch(w, count, steps);
        }
        if M > 1 || alone || count < side_by_side {
            (0..count).for_each(|p| tile::<F, M, 1>(out.from(0, p * 8), x, w.from(p), steps));
        } else if F::GROUPED {
            tile::<F, M, GROUP>(out, x, w, steps);
        } else {
            tile::<F, M, 4>(out, x, w, steps);
        }
    }
}

/// out = x·w, every panel whole: 8 columns each, f32, or i32 for the int8 formats. x: as [`arrange`] leaves it. A panel
/// comes from memory once; what follows the first tile of rows finds it in the cache.
///
/// A sum is ready for its next step only after a few multiplications of others, so one row takes several panels at
/// once. Several rows take one: they have no more accumulators than x86 has registers then, and read memory in one
/// stretch, from panel to panel.
///
/// Panels that are `cold` are worth fetching before one row is multiplied with them, unless sums are prompt. Several rows
/// take their time with each, and the processor fetches ahead by itself.
#[inline(never)]
pub unsafe fn multiply<F: Format>(
    out: Rows,
    x: *const u8,
    rows: usize,
    w: Panels,
    panels: usize,
    steps: usize,
    cold: bool,
) {
    for first in (0..rows).step_by(TILE_ROWS) {
        let (out, x, cold) = (out.from(first, 0), x.add(first * steps * 4), cold && rows == 1);
        match rows - first {
            1 => row_tile::<F, 1>(out, x, w, panels, steps, cold),
            2 => row_tile::<F, 2>(out, x, w, panels, steps, cold),
            3 => row_tile::<F, 3>(out, x, w, panels, steps, cold),
            _ => row_tile::<F, TILE_ROWS>(out, x, w, panels, steps, cold),
        }
    }
}
