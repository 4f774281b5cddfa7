//! CPU time of processes, as Linux counts it. Knows nothing of what they do.

use std::fs;
use std::process;
use std::time::Duration;

use super::Outcome;

/// CPU time of a process since its start: all threads, user and system mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its own.
    pub own: Duration,
    /// That of its descendants that ended and were waited for.
    pub ended_children: Duration,
}

impl Cpu {
    /// The CPU time of a process.
    ///
    /// # Errors
    /// If the process is gone, or the system does not report it.
    pub fn of(pid: u32) -> Outcome<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        parse(&stat, rustix::param::clock_ticks_per_second()).ok_or_else(|| format!("no times in {stat:?}").into())
    }

    /// The CPU time of this process.
    ///
    /// # Errors
    /// If the system does not report it.
    pub fn of_this() -> Outcome<Self> {
        Self::of(process::id())
    }
}

/// Reads the fields 14 to 17 of `/proc/PID/stat` (`proc_pid_stat(5)`).
fn parse(stat: &str, ticks_per_s: u64) -> Option<Cpu> {
    // The second field is a name in parentheses that may hold any character; the third follows the last parenthesis.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut times = rest.split(' ').skip(11).map(|field| field.parse::<u64>().ok());
    let mut next_two = || Some(Duration::from_millis((times.next()?? + times.next()??) * 1_000 / ticks_per_s));
    Some(Cpu { own: next_two()?, ended_children: next_two()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_after_a_name_that_looks_like_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 7 3 20 0 1 0 9 9 9";

        let cpu = parse(stat, 100).unwrap();

        assert_eq!(cpu, Cpu { own: Duration::from_secs(2), ended_children: Duration::from_millis(100) });
        assert_eq!(parse("7 (a) S 1 7", 100), None);
    }

    #[test]
    fn work_takes_cpu_time() {
        let before = Cpu::of_this().unwrap();
        let mut turned = 0_u64;

        // Until the counter moves.
        while Cpu::of_this().unwrap().own <= before.own {
            turned = std::hint::black_box(turned.wrapping_add(1));
        }

        assert!(turned > 0);
    }
}
