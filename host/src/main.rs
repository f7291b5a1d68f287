//! The binary `anabranch`: arguments in, exit code out.

use std::process::ExitCode;

/// Batches are allocated and freed on different threads all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Before anything allocates: memory is committed page by page and given back a tenth of a second after it was freed, not a second.
/// Together they hold half as much under load, at no cost that could be measured (docs/performance.md); `MIMALLOC_PURGE_DELAY`
/// (in milliseconds) and `MIMALLOC_ARENA_EAGER_COMMIT` in the environment go before.
#[allow(unsafe_code, reason = "only C can be asked before the first allocation, which is before `main`")]
mod lean {
    use std::ffi::c_long;

    use libmimalloc_sys::{mi_option_set_default, mi_option_t};

    // `mimalloc.h` of mimalloc 3, `mi_option_e`; the crate has no names for them.
    const ARENA_EAGER_COMMIT: mi_option_t = 4;
    const PURGE_DELAY: mi_option_t = 15;
    const PURGE_DELAY_MS: c_long = 100;

    #[used]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".preinit_array"))]
    static SET: extern "C" fn() = set;

    extern "C" fn set() {
        // SAFETY: it writes into a static table of numbers, and no other thread is there yet.
        unsafe {
            mi_option_set_default(ARENA_EAGER_COMMIT, 0);
            mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS);
        }
    }
}

fn main() -> ExitCode {
    anabranch::cli::main()
}
