//! What the machine can do at best, for `bench/kernels.ts` to measure the other kernels against.

use crate::simd::madd;
use core::arch::wasm32::*;

/// What the host wrote for [`probe_madd`] and [`probe_read`].
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

/// Unit: reading 64 KiB, in four places at once, as the memory likes best.
#[no_mangle]
pub unsafe extern "C" fn probe_read(job: &Probe, begin: usize, end: usize, scratch: *mut v128) {
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
