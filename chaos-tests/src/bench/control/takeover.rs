//! A leader that is killed, and the next commit.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::voters::Voters;
use super::{commits, wire};
use crate::bench::{Aim, Bench, BenchError, Row, Samples, rounds};

/// A try that takes longer has hung.
const HUNG: Duration = Duration::from_secs(30);
/// Between two proposals to a voter that does not lead.
const POLL: Duration = Duration::from_millis(1);

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let mut voters = Voters::start(&bench.file("takeover"))?;
    commits::prepare(&voters)?;
    let entry = commits::encode(commits::cordon());
    let (mut times, mut hung) = (Samples::new(), 0);
    rounds(bench.repeats(15, 50), Duration::from_secs(300), || {
        let leader = voters.leader()?;
        voters.wait("all voters at one", |status| status.leader == leader)?;
        let others: Vec<u8> = [1, 2, 3].into_iter().filter(|n| *n != leader).collect();
        let links: io::Result<Vec<TcpStream>> = others.iter().map(|n| voters.connect(*n)).collect();
        let mut links = links.map_err(super::system("connect to the other voters"))?;
        voters.kill(leader)?;
        let begin = Instant::now();
        match next_commit(&mut links, &entry, begin) {
            Some(time) => times.push_ms(time),
            None => hung += 1,
        }
        voters.spawn(leader)?;
        let applied = voters
            .status(voters.leader()?)
            .map_or(0, |status| status.applied);
        voters.wait("the killed one back", |status| status.applied >= applied)
    })?;
    let mut p99 = Samples::new();
    p99.extend(times.quantile(0.99));
    let [least, most] = times.spread().unwrap_or([f64::NAN; 2]);
    let note = format!(
        "of {} tries: median {:.0} ms, {least:.0} to {most:.0}; {hung} hung; SIGKILL, default timing",
        times.count(),
        times.median().unwrap_or(f64::NAN),
    );
    let row = Row::new(
        "leader killed to next commit, p99",
        "ms",
        &p99,
        Aim::AtMost(500.0),
    );
    Ok(vec![row.note(note)])
}

/// How long after `begin` one of these has committed an entry.
fn next_commit(links: &mut [TcpStream], entry: &[u8], begin: Instant) -> Option<Duration> {
    while begin.elapsed() < HUNG {
        for link in &mut *links {
            if let Ok(Ok(_)) = wire::ask(link, wire::PROPOSE, entry) {
                return Some(begin.elapsed());
            }
        }
        std::thread::sleep(POLL);
    }
    None
}
