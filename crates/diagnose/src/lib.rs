//! Why did it not boot?
//!
//! ```text
//! pcap file --> pcap --> frame --> recording --\
//!                                               +--> Timeline --> explain --> Explanation
//! the server's sessions and events --> history -/
//!
//! capture   one device's boot traffic, as a pcapng stream
//! doctor    what of this host stands in the way
//! ```
//!
//! [`explain`](explain::explain) is a pure function over one [`Timeline`](timeline::Timeline): a
//! recording that somebody sent and what the server itself saw are judged by the same rules.

pub mod capture;
pub mod doctor;
pub mod explain;
pub mod frame;
pub mod history;
pub mod pcap;
pub mod recording;
pub mod timeline;
mod unsafe_system;

/// For the fuzzer: reads any bytes as a capture file and explains what is in them.
///
/// # Panics
/// Never, whatever the bytes: that is what is tested.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(recording) = recording::read(bytes) {
        for timeline in &recording.timelines {
            let explanation = explain::explain(timeline);
            assert!(!explanation.stopped.is_empty(), "nothing to say");
        }
    }
}
