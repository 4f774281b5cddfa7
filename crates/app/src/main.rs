//! The `usher` command.

/// Answers are allocated on one thread and freed on another, which the C library's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    usher_app::cli::main()
}
