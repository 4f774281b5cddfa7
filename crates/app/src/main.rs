//! The `usher` command.

fn main() -> std::process::ExitCode {
    usher_app::cli::main()
}
