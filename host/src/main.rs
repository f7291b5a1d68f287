//! The binary `anabranch`: arguments in, exit code out.

use std::process::ExitCode;

/// Batches are allocated and freed on different threads all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    anabranch::cli::main()
}
