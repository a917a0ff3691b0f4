//! What was acknowledged is there after the process is killed.

use crate::common::{at, sighting};
use bugler_model::{EventKind, Lease, LeaseState, MacAddr, NewEvent};
use bugler_store::{EventFilter, SqliteStore, Store};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Tells the child which registry to write to.
const CHILD: &str = "BUGLER_STORE_CRASH_CHILD";
const CALLERS: u32 = 8;
const ROUNDS: u32 = 3;
const ACKNOWLEDGED: usize = 250;

fn mac(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([2, 0, a, b, c, d])
}

/// Writes for ever, and says on its output what was acknowledged.
#[tokio::main(flavor = "current_thread")]
async fn write_for_ever(path: &Path, round: u32) {
    let store = Arc::new(SqliteStore::open(path).unwrap());
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let store = store.clone();
        callers.spawn(async move {
            for n in 0_u32.. {
                let number = (round * CALLERS + caller) << 16 | n;
                let lease = Lease {
                    address: number.into(),
                    mac: mac(number),
                    client_id: None,
                    hostname: None,
                    state: LeaseState::Bound,
                    expires: at(1),
                };
                store.commit_leases(vec![lease]).await.unwrap();
                store
                    .observe(sighting(mac(number), None), at(1))
                    .await
                    .unwrap();
                let event = NewEvent::new(EventKind::Log, number.to_string());
                store.append_event(event, at(1)).await.unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "\nacknowledged {number}")
                    .and_then(|()| out.flush())
                    .unwrap();
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
}

#[test]
fn an_acknowledged_commit_survives_kill_9() {
    if let Ok(order) = std::env::var(CHILD) {
        let (round, path) = order.split_once(' ').unwrap();
        return write_for_ever(Path::new(path), round.parse().unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.sqlite");
    let mut acknowledged = HashSet::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::an_acknowledged_commit_survives_kill_9",
                "--nocapture",
            ])
            .env(CHILD, format!("{round} {}", path.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut before = acknowledged.len();
        let mut killed = false;
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while output.read_line(&mut line).unwrap() > 0 {
            // A line that was cut off by the kill says nothing.
            if let Some(number) = line
                .strip_prefix("acknowledged ")
                .and_then(|n| n.strip_suffix('\n'))
            {
                acknowledged.insert(number.parse::<u32>().unwrap());
            }
            line.clear();
            if !killed && acknowledged.len() >= before + ACKNOWLEDGED {
                child.kill().unwrap();
                killed = true;
                before = acknowledged.len();
            }
        }
        child.wait().unwrap();
        assert!(
            killed,
            "the child ended by itself after {}",
            acknowledged.len() - before
        );
        check(&path, &acknowledged);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn check(path: &Path, acknowledged: &HashSet<u32>) {
    let store = SqliteStore::open(path).unwrap();
    let leases: HashSet<u32> = store
        .leases()
        .await
        .unwrap()
        .iter()
        .map(|lease| lease.address.into())
        .collect();
    let filter = EventFilter {
        kind: Some(EventKind::Log),
        limit: usize::MAX,
        ..Default::default()
    };
    let events: HashSet<u32> = store
        .events(filter)
        .await
        .unwrap()
        .iter()
        .map(|e| e.text.parse().unwrap())
        .collect();
    for number in acknowledged {
        assert!(leases.contains(number), "lease {number}");
        assert!(events.contains(number), "event {number}");
        assert!(
            store.find_client(mac(*number), None).is_some(),
            "device {number}"
        );
    }
}
