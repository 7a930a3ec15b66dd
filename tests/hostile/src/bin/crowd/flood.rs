//! Floods of what a service may do.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_json::json;
use sivshm_abi::frame::{Facts, Payload, Reason};
use sivshm_handshake::service::ClientEvent;
use sivshm_hostile::end::{End, event};

use crate::line::{Heard, Inherited, Line};
use crate::member::{Member, credentials, want};

/// Longest wait for an answer before the next attempt.
const PATIENCE: Duration = Duration::from_millis(1);

/// Attempts, or refusals, after which the flood is said to run: more than any bucket holds.
const RUNNING: u64 = 200;

/// Sessions that are kept open: as many as may have proved nothing.
const UNPROVED: usize = 4;

/// Wants a channel, gives it up when that is answered or takes long, and wants it again.
pub fn wants(
    line: &mut Line,
    facts: Facts,
    inherited: &Inherited,
    end: &End,
) -> nix::Result<Infallible> {
    let own = credentials(inherited)?;
    let want = want(own.id(), end)?;
    let mut member = loop {
        let mut member = Member::join(line, facts, &own)?;
        match member.until(line, |event| matches!(event, ClientEvent::Authenticated)) {
            Ok(()) => break member,
            // An earlier flood has used up what this service may open.
            Err(Errno::ESHUTDOWN) => {}
            Err(errno) => return Err(errno),
        }
    };
    let mut count = 0_u64;
    loop {
        count += 1;
        member.want(want)?;
        member.speak(line)?;
        let patience = Instant::now() + PATIENCE;
        while let Some((_, heard)) = line.hear(patience)? {
            member.take(heard)?;
            member.speak(line)?;
            if member.answered(want) {
                break;
            }
        }
        member.give_up(want);
        // What it has no credit for waits.
        while !member.speak(line)? {
            let (_, heard) = line
                .hear(Instant::now() + Duration::from_secs(30))?
                .ok_or(Errno::ETIMEDOUT)?;
            member.take(heard)?;
        }
        if count == RUNNING {
            event("flooding", "", &json!({ "wishes": count }));
        }
    }
}

/// Opens sessions one after the other, begins TLS in each, and closes the oldest.
pub fn sessions(line: &mut Line, facts: Facts, inherited: &Inherited) -> nix::Result<Infallible> {
    let own = credentials(inherited)?;
    let mut open = VecDeque::new();
    let mut refused = 0_u64;
    loop {
        open.push_back(Member::join(line, facts, &own)?.session);
        if open.len() > UNPROVED
            && let Some(oldest) = open.pop_front()
        {
            line.send(oldest, &Payload::Close(Reason::Closed))?;
        }
        // Nobody reads what TLS says.
        let patience = Instant::now() + PATIENCE;
        while let Some((_, heard)) = line.hear(patience)? {
            if matches!(heard, Heard::Closed(Reason::Flood)) {
                refused += 1;
                if refused == RUNNING {
                    event("flooding", "", &json!({ "refused": refused }));
                }
            }
        }
    }
}
