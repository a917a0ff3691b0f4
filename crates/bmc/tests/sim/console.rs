//! Serial over LAN.

use crate::bench::Sim;
use bugler_bmc::{Console, ConsoleEvent, Error, Hub};
use std::time::Duration;

/// Reads until as much was said; tells what, and how often it was connected meanwhile.
async fn read(console: &mut Console, length: usize) -> (Vec<u8>, u32) {
    let mut said = Vec::new();
    let mut ups = 0;
    while said.len() < length {
        match tokio::time::timeout(Duration::from_secs(300), console.next())
            .await
            .unwrap_or_else(|_| panic!("only {} bytes came", said.len()))
            .unwrap()
        {
            ConsoleEvent::Data(data) => said.extend(data),
            ConsoleEvent::Up => ups += 1,
            ConsoleEvent::Down { why, again_in } => println!("{why} ({again_in:?})"),
            other => println!("{other:?}"),
        }
    }
    (said, ups)
}

async fn up(console: &mut Console) {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(300), console.next()).await;
        match event.expect("the console comes up").unwrap() {
            ConsoleEvent::Up => return,
            other => println!("{other:?}"),
        }
    }
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|n| b'a' + (n % 26) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_characters_each_way_and_none_lost_by_a_reset_of_the_bmc() {
    let mut sim = Sim::start(0);
    let hub = Hub::new().unwrap();
    let bmc = sim.bmc(&hub);
    let mut console = bmc.sol(false);
    up(&mut console).await;
    let writer = console.writer();
    writer.write(&text(1000)).await.unwrap();
    let heard = tokio::task::block_in_place(|| sim.serial.heard(1000));
    assert!(heard == text(1000), "{}", String::from_utf8_lossy(&heard));
    tokio::task::block_in_place(|| sim.serial.say(&text(1000)));
    let (said, _) = read(&mut console, 1000).await;
    assert!(said == text(1000), "{}", String::from_utf8_lossy(&said));

    // Keys pressed while the BMC is away are typed when it is back.
    tokio::task::block_in_place(|| sim.kill());
    writer.write(b"typed while it was away").await.unwrap();
    tokio::task::block_in_place(|| sim.restart());
    bmc.try_again();
    up(&mut console).await;
    let heard = tokio::task::block_in_place(|| sim.serial.heard(1023));
    assert_eq!(
        String::from_utf8_lossy(&heard[1000..]),
        "typed while it was away"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_console_is_taken_over_only_when_that_is_asked_for() {
    let sim = Sim::start(0);
    let hub = Hub::new().unwrap();
    let bmc = sim.bmc(&hub);
    let mut first = bmc.sol(false);
    up(&mut first).await;
    let mut second = bmc.sol(false);
    match second.next().await.unwrap() {
        ConsoleEvent::Down { why, .. } => {
            println!("{why}");
            assert!(matches!(why, Error::ConsoleTaken { .. }), "{why}");
        }
        other => panic!("{other:?}"),
    }
    drop(second);
    let mut third = bmc.sol(true);
    up(&mut third).await;
    third.writer().write(b"mine").await.unwrap();
    let heard = tokio::task::block_in_place(|| sim.serial.heard(4));
    assert_eq!(heard, b"mine");
}
