//! Halves: numbers of half precision, written so that few instructions make f32 of them.
//!
//! The numbers are those of IEEE binary16. A channel of a matrix has a scale, a power of two, and of what binary16
//! writes its halves differ in that the exponents are larger by [`LIFT`], as far as the channel's largest entry allows,
//! and that the largest exponent is one like the others. So a channel that stays below 128 has scale 1 and no subnormal
//! numbers, which some processors take a hundred times as long to multiply, as f32 as well.
//!
//! A half that is moved to its place in an f32 lacks a factor of [`RAISE`], which rows are given instead of weights: the
//! products are the same, to the bit, unless a row reaches 2²⁶, and then they are no numbers.

/// What is added to exponents at most: what makes the least subnormal number of binary16 a normal one.
const LIFT: u32 = 10;

/// The difference of the biases of f32 and binary16, less the lift.
pub const RAISE: f32 = power_of_two(112 - LIFT as i32);

/// 2ⁿ, a normal number.
const fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((127 + n) as u32) << 23)
}

/// The half nearest to a number, ties to even, for magnitudes below 2¹⁷; without a lift.
fn nearest(value: f32) -> u16 {
    let (sign, magnitude) = ((value.to_bits() >> 16) as u16 & 0x8000, value.to_bits() & 0x7fff_ffff);
    let half = match magnitude {
        // adding 2¹³ (13 = 23 bits of mantissa − 10) units of the last place rounds in the adder itself
        0x3880_0000.. => (magnitude - (112 << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13,
        // subnormal: ½ has its last place exactly at 2⁻²⁴
        _ => (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits(),
    };
    sign | half as u16
}

/// What a half without a lift stands for.
fn number(half: u16) -> f32 {
    let bits = ((half as u32 & 0x8000) << 16) | ((half as u32 & 0x7fff) << 13);
    f32::from_bits(bits) * power_of_two(112)
}

/// Writes a channel, every eighth half from `halves` on, and returns its scale. What exceeds binary16 is cut to 2¹⁶.
pub unsafe fn write_channel(values: *const f32, count: usize, halves: *mut u16) -> f32 {
    let rounded = |k: usize| nearest((*values.add(k)).clamp(-65536.0, 65536.0));
    let largest = (0..count).fold(0, |m, k| m.max(rounded(k) & 0x7fff));
    let lift = LIFT.min(31 - (largest >> 10) as u32) as i32;
    for k in 0..count {
        *halves.add(k * 8) = nearest(number(rounded(k)) * power_of_two(lift));
    }
    power_of_two(LIFT as i32 - lift)
}

/// The number that a half of a channel of this scale stands for.
#[inline(always)]
pub fn read(half: u16, scale: f32) -> f32 {
    number(half) * (scale * power_of_two(-(LIFT as i32)))
}
