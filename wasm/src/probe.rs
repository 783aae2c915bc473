//! What the machine can do at best, for `bench/kernels.ts` to measure the other kernels against.

use crate::simd::{dot4, dot4_by_pairs, dots_by_pairs, madd, opaque};
use core::arch::wasm32::*;

/// What the host wrote for the probes.
#[repr(C)]
pub struct Probe {
    data: *const v128,
}

/// Unit: 1000 steps of 12 independent multiply-adds of 4 lanes each, from and to registers.
#[no_mangle]
pub unsafe extern "C" fn probe_madd(job: &Probe, begin: usize, end: usize, scratch: *mut v128) {
    let (a, b) = (v128_load(job.data), v128_load(job.data.add(1)));
    let mut acc = [a; 12];
    for _ in 0..(end - begin) * 1000 {
        acc = acc.map(|v| madd(v, a, b));
    }
    v128_store(scratch, acc.into_iter().fold(b, |x, y| f32x4_add(x, y)));
}

/// Unit: 12000 sums of 4 products, 4 lanes each: as many as the other probe has multiply-adds. Side by side 6 or 8 of them,
/// as registers hold with all that they need: what is added in one instruction is ready later, and needs no more.
#[no_mangle]
pub unsafe extern "C" fn probe_dot(job: &Probe, begin: usize, end: usize, scratch: *mut v128) {
    let (units, ones) = (end - begin, opaque(i16x8_splat(1)));
    match dots_by_pairs() {
        true => dots::<3>(job, units, scratch, |a, b, acc| dot4_by_pairs(a, b, acc, ones)),
        false => dots::<4>(job, units, scratch, dot4),
    }
}

#[inline(always)]
unsafe fn dots<const N: usize>(
    job: &Probe,
    units: usize,
    scratch: *mut v128,
    dot: impl Fn(v128, v128, v128) -> v128,
) {
    let a: [v128; N] = core::array::from_fn(|i| v128_load(job.data.add(i)));
    let mut b: [v128; 2] = core::array::from_fn(|i| v128_load(job.data.add(i)));
    let mut acc = [[a[0]; N]; 2];
    for _ in 0..units * 12000 / (2 * N) {
        for (acc, b) in acc.iter_mut().zip(b.iter_mut()) {
            *acc = core::array::from_fn(|i| dot(a[i], *b, acc[i]));
            // other operands each time, or pairs would be formed once
            *b = v128_xor(*b, a[N - 1]);
        }
    }
    v128_store(scratch, acc.into_iter().flatten().fold(a[0], |x, y| i32x4_add(x, y)));
}

/// Unit: reading 64 KiB, one cache line after the other.
#[no_mangle]
pub unsafe extern "C" fn probe_read(job: &Probe, begin: usize, end: usize, scratch: *mut v128) {
    let mut acc = [i32x4_splat(0); 8];
    let mut data = job.data.add(begin * 4096);
    for _ in 0..(end - begin) * 4096 / 8 {
        acc = core::array::from_fn(|i| i32x4_add(acc[i], v128_load(data.add(i))));
        data = data.add(8);
    }
    v128_store(scratch, acc.into_iter().fold(i32x4_splat(0), |x, y| i32x4_add(x, y)));
}

/// The same in four places at once, which some memories like better.
#[no_mangle]
pub unsafe extern "C" fn probe_read_places(job: &Probe, begin: usize, end: usize, scratch: *mut v128) {
    let mut acc = [[i32x4_splat(0); 4]; 4];
    for unit in begin..end {
        let mut places: [*const v128; 4] = core::array::from_fn(|i| job.data.add(unit * 4096 + i * 1024));
        for _ in 0..1024 / 4 {
            for (place, acc) in places.iter_mut().zip(acc.iter_mut()) {
                for (i, v) in acc.iter_mut().enumerate() {
                    *v = i32x4_add(*v, v128_load(place.add(i)));
                }
                *place = place.add(4);
            }
        }
    }
    v128_store(scratch, acc.into_iter().flatten().fold(i32x4_splat(0), |x, y| i32x4_add(x, y)));
}
