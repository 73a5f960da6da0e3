//! The `ringlog` binary: the command line, and the process-wide choices (allocator, panic policy).

#[global_allocator]
static ALLOCATOR: ringlog::memory::HugeAware = ringlog::memory::HugeAware;

fn main() -> std::process::ExitCode {
    ringlog::cli::main()
}
