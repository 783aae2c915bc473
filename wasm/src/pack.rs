//! From rows of f32 to panels, converting on the way.

use crate::half::write_channel;

/// What the host wrote for [`pack`].
#[repr(C)]
pub struct Pack {
    /// [rows, inputs]
    rows_data: *const f32,
    /// Where the first panel goes.
    panels: *mut u8,
    /// f16, int8: scale of each channel, of the first row on.
    scales: *mut f32,
    /// int8: sum of each channel's bytes, likewise.
    sums: *mut i32,
    rows: usize,
    inputs: usize,
    steps: usize,
    format: usize,
}

/// Unit: a panel, made of 8 rows; rows that are not there become zeros.
#[no_mangle]
pub unsafe extern "C" fn pack(job: &Pack, begin: usize, end: usize, _scratch: *mut u8) {
    let step = if job.format == 1 || job.format == 2 { 16 } else { 32 };
    for panel in begin..end {
        let data = job.panels.add(panel * job.steps * step);
        data.write_bytes(0, job.steps * step);
        for lane in 0..8.min(job.rows.saturating_sub(panel * 8)) {
            let row = job.rows_data.add((panel * 8 + lane) * job.inputs);
            match job.format {
                0 => (0..job.inputs).for_each(|k| *(data as *mut f32).add(k * 8 + lane) = *row.add(k)),
                1 => *job.scales.add(panel * 8 + lane) = write_channel(row, job.inputs, (data as *mut u16).add(lane)),
                2 => (0..job.inputs).for_each(|k| *(data as *mut u16).add(k * 8 + lane) = to_bfloat(*row.add(k))),
                _ => quantise(job, row, data as *mut i8, panel * 8 + lane),
            }
        }
    }
}

/// Symmetric, per channel: w ≈ scale·q, q in −127..=127.
unsafe fn quantise(job: &Pack, row: *const f32, data: *mut i8, channel: usize) {
    let largest = (0..job.inputs).fold(0f32, |m, k| m.max((*row.add(k)).abs()));
    let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
    let mut sum = 0;
    for k in 0..job.inputs {
        let q = (*row.add(k) / scale).round_ties_even() as i8;
        *data.add(k / 4 * 32 + channel % 8 * 4 + k % 4) = q;
        sum += q as i32;
    }
    *job.scales.add(channel) = scale;
    *job.sums.add(channel) = sum;
}

/// The upper half of an f32, to nearest, ties to even.
fn to_bfloat(value: f32) -> u16 {
    let bits = value.to_bits();
    match value.is_nan() {
        true => (bits >> 16) as u16 | 0x40,
        false => ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16,
    }
}
