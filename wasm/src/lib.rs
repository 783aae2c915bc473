//! SIMD kernels of the CPU backend.
//!
//! Every export is a *stage*: `stage(job, begin, end, scratch)` does units `begin..end` of a job, a struct that the
//! host wrote into the shared memory. What a unit is (a row, a group of panels, a head) stands at each stage. Units
//! are independent and a reduction never crosses one, so it does not matter which thread does which. A stage that
//! prepares something in its scratch for all of a job takes a fifth parameter, `first`: whether it is called for this
//! job and with this scratch for the first time.
//!
//! Deliberately absent: allocation, threads, atomics, tables of shapes, checks. The host owns the memory, deals out
//! the units and has checked every shape; a thread's `scratch` is its own.
//!
//! The crate's one dependency is there for wasm-pack, which builds nothing without it. The exports are plain C.

use wasm_bindgen as _;

mod attention;
mod half;
mod law;
mod pack;
mod probe;
mod project;
mod rows;
mod simd;
mod tile;
