//! The `usher` command.

/// mimalloc, because answers are allocated on one thread and freed on another, which is slow in the C library's
/// allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    usher_app::cli::main()
}
