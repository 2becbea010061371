//! After a migration that completed: when was the guest heard on its network again (MIG-39)?
//!
//! Nothing depends on the answer but a line of the receipt, so it is asked for when all else is done,
//! and missed when it does not come in time. The machines do not know of it.

use std::time::Duration;

use godwit_proto::migrate::FromTarget;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, timeout_at};

use crate::source::Event;

/// How long after the resume the target waits for the guest's first frame, if nothing else is left to do.
pub(super) const WATCH: Duration = Duration::from_secs(1);
/// How much longer the source waits for what the target has to say.
const SLACK: Duration = Duration::from_millis(500);

/// At the source: waits for the target's last word among what comes, of which `of_link` picks what the
/// target says. `None` when it does not come or has nothing to tell.
pub(super) async fn heard<T>(
    inbox: &mut Receiver<T>,
    of_link: impl Fn(T) -> Option<Event>,
) -> Option<Duration> {
    heard_within(WATCH + SLACK, inbox, of_link).await
}

async fn heard_within<T>(
    patience: Duration,
    inbox: &mut Receiver<T>,
    of_link: impl Fn(T) -> Option<Event>,
) -> Option<Duration> {
    let deadline = Instant::now() + patience;
    loop {
        match timeout_at(deadline, inbox.recv()).await {
            Ok(None) | Err(_) => return None,
            Ok(Some(happening)) => match of_link(happening) {
                Some(Event::Control(FromTarget::FirstFrame { after_resume_ns })) => {
                    return after_resume_ns.map(Duration::from_nanos);
                }
                Some(Event::LinkLost) => return None,
                // What was under way.
                _ => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::channel;

    use super::*;

    fn said(after_resume_ns: Option<u64>) -> Event {
        Event::Control(FromTarget::FirstFrame { after_resume_ns })
    }

    #[tokio::test]
    async fn the_targets_last_word_is_taken_whatever_was_under_way() {
        let pong = || Event::Control(FromTarget::Pong { nonce: 1 });
        for (events, expected) in [
            (vec![said(Some(7))], Some(Duration::from_nanos(7))),
            (vec![pong(), pong(), said(Some(0))], Some(Duration::ZERO)),
            (vec![said(None), said(Some(7))], None),
            (vec![Event::LinkLost, said(Some(7))], None),
        ] {
            let (sender, mut inbox) = channel(8);
            for event in &events {
                sender.try_send(event.clone()).unwrap();
            }
            assert_eq!(heard(&mut inbox, Some).await, expected, "{events:?}");
        }
    }

    #[tokio::test]
    async fn a_target_that_says_nothing_or_something_else_is_not_waited_for_for_ever() {
        let (sender, mut inbox) = channel(8);
        let complete = Event::Control(FromTarget::Complete);
        sender.try_send(complete).unwrap();
        // The sender lives: the link is up.
        let patience = Duration::from_millis(30);
        assert_eq!(heard_within(patience, &mut inbox, Some).await, None);
        drop(sender);
        assert_eq!(heard(&mut inbox, Some).await, None);
    }
}
