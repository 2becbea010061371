//! A process that is killed while it writes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::{all, append, entry, open};

/// Tells the child where its store is.
const DIRECTORY: &str = "GODWIT_STORE_CHILD";

/// Killed when it goes.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn everything_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = None;
    for lines in [1, 40, 7, 150, 90] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["store::tests::kill::appends_until_it_is_killed", "--exact"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = Killed(child.unwrap());
        let output = BufReader::new(child.0.stdout.take().unwrap());
        let numbers = output.lines().map_while(Result::ok);
        let numbers = numbers.filter_map(|line| line.strip_prefix("durable ")?.parse().ok());
        acknowledged = numbers.take(lines).last().or(acknowledged);
        child.0.kill().unwrap();
        drop(child);
        let wanted: u64 = acknowledged.expect("the child never acknowledged anything");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = open(directory.path());
            let found = all(&store).await;
            assert!(found.len() as u64 > wanted, "{} of {wanted}", found.len());
            let right = (0..).map(|index| entry(1, index));
            assert!(
                found
                    .into_iter()
                    .zip(right)
                    .all(|(found, right)| found == right)
            );
            store.close().await;
        });
    }
}

#[test]
#[ignore = "a part of the test above, in a process of its own"]
fn appends_until_it_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = open(directory.as_ref());
        let first = store.ends().last.map_or(0, |last| last.index + 1);
        // An end, should nobody kill it.
        for index in first..first + 100_000 {
            append(&store, vec![entry(1, index)]).await.unwrap();
            println!("durable {index}");
        }
    });
}
