//! Judging how a hold ends without a sale: its buyer gives it back, or its time runs out.

use usher_kernel::Timestamp;

use super::holdings::{HoldingWrites, Holdings};
use crate::State;
use crate::ports::{ReleaseCommand, ReleaseOutcome};

/// Judges releases, one after the other. `holdings` has the reservations that the commands name, where they exist.
pub fn release_all(
    commands: &[ReleaseCommand],
    mut holdings: Holdings,
    now: Timestamp,
) -> (Vec<ReleaseOutcome>, HoldingWrites) {
    let outcomes = commands.iter().map(|command| release(command, &mut holdings, now)).collect();
    (outcomes, holdings.into_writes())
}

fn release(command: &ReleaseCommand, holdings: &mut Holdings, now: Timestamp) -> ReleaseOutcome {
    let own = holdings.get(command.reservation).filter(|reservation| reservation.account == command.account);
    let Some(held) = own else { return ReleaseOutcome::NotFound };
    if held.state == State::Released {
        return ReleaseOutcome::AlreadyReleased;
    }
    match held.clone().release(now) {
        Ok(released) => {
            holdings.put_ended(released.clone());
            ReleaseOutcome::Released(released)
        }
        Err(refusal) => ReleaseOutcome::Refused(refusal),
    }
}

/// Expires the holds that have lapsed at `now`; answers with their number. Reservations that were paid, released or
/// expired since they were selected stay as they are.
#[must_use]
pub fn expire_all(mut holdings: Holdings, now: Timestamp) -> (usize, HoldingWrites) {
    let expired: Vec<_> = holdings.iter().filter_map(|held| held.clone().expire(now).ok()).collect();
    let n_expired = expired.len();
    for reservation in expired {
        holdings.put_ended(reservation);
    }
    (n_expired, holdings.into_writes())
}
