//! Runs a command with one server of each kind, which its tests share instead of starting their own:
//! `with-servers cargo nextest run`.

use std::env;
use std::process::{Command, ExitCode};

use usher_test_servers::shared;

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let program = arguments.next().expect("a command to run");
    let status = shared::run(Command::new(program).args(arguments)).expect("the command can be run");
    // A command that a signal ended has no code.
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
