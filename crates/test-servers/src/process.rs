//! Signals to the process of a server that a test started.

use rustix::process::{Pid, Signal, kill_process};

/// Sends one to a server that told its process id.
pub(crate) fn send(pid: Option<Pid>, signal: Signal) {
    kill_process(pid.expect("it told its process id"), signal).expect("it runs");
}
