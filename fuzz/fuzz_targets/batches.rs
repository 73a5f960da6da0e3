//! The target `batches`: see `src/fuzzing/batches.rs`.
#![no_main]

#[global_allocator]
static ALLOCATOR: ringlog::fuzzing::Counting = ringlog::fuzzing::Counting;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringlog::fuzzing::run("batches", bytes));
