//! How many leases a second are durable with 32 callers at once: `lease_rate [FOLDER]` writes to a
//! new registry in FOLDER, by default in the folder for temporary files.

use bugler_model::{Lease, LeaseState, MacAddr, Timestamp};
use bugler_store::{SqliteStore, Store, StoreError};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CALLERS: u32 = 32;
const TIME: Duration = Duration::from_secs(3);

fn lease(number: u32, expires: i64) -> Lease {
    let [a, b, c, d] = number.to_be_bytes();
    Lease {
        address: number.into(),
        mac: MacAddr([2, 0, a, b, c, d]),
        client_id: Some(vec![1, 2, 0, a, b, c, d]),
        hostname: Some(format!("node-{number}")),
        state: LeaseState::Bound,
        expires: Timestamp(expires),
    }
}

/// Has every caller write `batch` leases at a time, in turns of 4 batches of its own addresses;
/// with `fresh`, never an address twice. Returns leases, commits and the time it took.
async fn run(
    store: &Arc<SqliteStore>,
    batch: u32,
    fresh: bool,
) -> Result<(u64, u64, Duration), StoreError> {
    let commits = store.commits();
    let start = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let store = store.clone();
        callers.spawn(async move {
            let first = (caller + 1) << 24;
            let mut written = 0_u32;
            while start.elapsed() < TIME {
                let offset = if fresh {
                    written + 0x1_0000
                } else {
                    written % (4 * batch)
                };
                let numbers = first + offset..first + offset + batch;
                let leases = numbers
                    .map(|number| lease(number, written.into()))
                    .collect();
                store.commit_leases(leases).await?;
                written += batch;
            }
            Ok::<u32, StoreError>(written)
        });
    }
    let mut written = 0;
    for result in callers.join_all().await {
        written += u64::from(result?);
    }
    Ok((written, store.commits() - commits, start.elapsed()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = match std::env::args_os().nth(1) {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let store = Arc::new(SqliteStore::open(folder.path().join("registry.sqlite"))?);
    println!("{CALLERS} callers; leases a second that are flushed to the disk, in registry.sqlite");
    println!(
        "{:>16} {:>10} {:>12} {:>12}",
        "leases a call", "kind", "leases/s", "commits/s"
    );
    for batch in [1, 8, 64] {
        for fresh in [false, true] {
            let (leases, commits, time) = run(&store, batch, fresh).await?;
            println!(
                "{batch:>16} {:>10} {:>12.0} {:>12.0}",
                if fresh { "new" } else { "renewed" },
                leases as f64 / time.as_secs_f64(),
                commits as f64 / time.as_secs_f64(),
            );
        }
    }
    store.close().await;
    Ok(())
}
