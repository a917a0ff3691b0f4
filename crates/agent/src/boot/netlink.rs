//! Interfaces, addresses and routes by netlink (rtnetlink(7), `linux/rtnetlink.h`).
//!
//! Four requests are all that a boot environment needs; each is built by a pure function and sent
//! with an acknowledgement asked for.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send,
    socket_with,
};
use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_ACK: u16 = 0x004;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const HEADER_LEN: usize = 16;

const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
/// The route came from DHCP (`RTPROT_DHCP`).
const RTPROT_DHCP: u8 = 16;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

/// Multicast groups: changes of links (`RTMGRP_LINK`), and what the kernel tells udev.
const LINK_GROUP: u32 = 1;
const UEVENT_GROUP: u32 = 1;

/// `NETLINK_ROUTE` is protocol 0, which is what no protocol at all means.
const ROUTE: Option<Protocol> = None;

/// How long the kernel may take to acknowledge; it answers at once.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// A request to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Sets an interface up.
    Up { index: u32 },
    /// Gives an interface an address.
    AddAddress {
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
    },
    /// Takes an address away.
    RemoveAddress {
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
    },
    /// Makes a router the way to everything that is not on a network of its own.
    DefaultRoute { index: u32, router: Ipv4Addr },
    /// Says that a host is on the link, whatever the prefix says.
    HostRoute { index: u32, host: Ipv4Addr },
}

impl Change {
    /// The message, with sequence number `seq`.
    fn encode(&self, seq: u32) -> Vec<u8> {
        let (kind, flags) = match self {
            Self::Up { .. } => (RTM_NEWLINK, 0),
            Self::AddAddress { .. } => (RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE),
            Self::RemoveAddress { .. } => (RTM_DELADDR, 0),
            Self::DefaultRoute { .. } | Self::HostRoute { .. } => {
                (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE)
            }
        };
        // The length comes last.
        let mut message = vec![0; 4];
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        message.extend_from_slice(&seq.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        match *self {
            Self::Up { index } => {
                // ifinfomsg: family, type, index, flags, mask of the flags that count.
                message.extend_from_slice(&[0; 4]);
                message.extend_from_slice(&index.to_ne_bytes());
                message.extend_from_slice(&IFF_UP.to_ne_bytes());
                message.extend_from_slice(&IFF_UP.to_ne_bytes());
            }
            Self::AddAddress {
                index,
                address,
                prefix,
            }
            | Self::RemoveAddress {
                index,
                address,
                prefix,
            } => {
                // ifaddrmsg: family, prefix, flags, scope, index.
                message.extend_from_slice(&[AF_INET, prefix, 0, RT_SCOPE_UNIVERSE]);
                message.extend_from_slice(&index.to_ne_bytes());
                attribute(&mut message, IFA_LOCAL, &address.octets());
                attribute(&mut message, IFA_ADDRESS, &address.octets());
                if prefix < 31 {
                    let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                    let broadcast = Ipv4Addr::from_bits(address.to_bits() | host);
                    attribute(&mut message, IFA_BROADCAST, &broadcast.octets());
                }
            }
            Self::DefaultRoute { index, router } => {
                route(&mut message, 0, RT_SCOPE_UNIVERSE);
                attribute(&mut message, RTA_GATEWAY, &router.octets());
                attribute(&mut message, RTA_OIF, &index.to_ne_bytes());
            }
            Self::HostRoute { index, host } => {
                route(&mut message, 32, RT_SCOPE_LINK);
                attribute(&mut message, RTA_DST, &host.octets());
                attribute(&mut message, RTA_OIF, &index.to_ne_bytes());
            }
        }
        let length = (message.len() as u32).to_ne_bytes();
        message.splice(..4, length);
        message
    }
}

/// rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type, flags.
fn route(message: &mut Vec<u8>, prefix: u8, scope: u8) {
    message.extend_from_slice(&[
        AF_INET,
        prefix,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_DHCP,
        scope,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ]);
}

/// rtattr: length, type, value. All values here are four bytes long, so nothing needs padding.
fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8; 4]) {
    message.extend_from_slice(&8u16.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
}

/// Looks through a datagram of the kernel for the answer to request `seq`.
fn find_ack(mut bytes: &[u8], seq: u32) -> Option<Result<(), Errno>> {
    while let Some(header) = bytes.first_chunk::<HEADER_LEN>() {
        let u32_at = |at: usize| {
            header
                .get(at..)
                .and_then(<[u8]>::first_chunk)
                .map(|b| u32::from_ne_bytes(*b))
        };
        let length = u32_at(0)? as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if length < HEADER_LEN {
            return None;
        }
        if kind == NLMSG_ERROR && u32_at(8) == Some(seq) {
            let code = bytes.get(HEADER_LEN..).and_then(<[u8]>::first_chunk)?;
            let code = i32::from_ne_bytes(*code);
            return Some(match code.checked_neg() {
                Some(0) => Ok(()),
                Some(known @ 1..=4095) => Err(Errno::from_raw_os_error(known)),
                // No error of the kernel has such a number.
                _ => Err(Errno::PROTO),
            });
        }
        // Messages are aligned to four bytes.
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// Asks the kernel for a change, and waits for its answer.
///
/// # Errors
/// What the kernel answers.
pub(crate) fn apply(change: &Change) -> io::Result<()> {
    let socket = open(ROUTE, 0)?;
    send(&socket, &change.encode(1), SendFlags::empty())?;
    let end = Instant::now() + ACK_TIMEOUT;
    let mut buffer = vec![0; 8192];
    while wait_readable(&socket, end.saturating_duration_since(Instant::now()))? {
        let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if let Some(answer) = buffer.get(..len).and_then(|bytes| find_ack(bytes, 1)) {
            return Ok(answer?);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Tells when something about links changes: carriers, interfaces that come and go.
pub(crate) struct LinkWatch(OwnedFd);

impl LinkWatch {
    /// Begins to listen.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(open(ROUTE, LINK_GROUP)?))
    }

    /// Waits for a change, or until `time` is over; takes everything that has come.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(crate) fn wait(&self, time: Duration) -> io::Result<()> {
        if wait_readable(&self.0, time)? {
            drain(&self.0);
        }
        Ok(())
    }
}

/// The kernel's announcements of devices.
pub(crate) struct Uevents(OwnedFd);

impl Uevents {
    /// Begins to listen.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(open(Some(KOBJECT_UEVENT), UEVENT_GROUP)?))
    }

    /// The next announcement: text fields, each ended by a zero byte.
    ///
    /// # Errors
    /// What the kernel answers; `ENOBUFS` when announcements were lost.
    pub(crate) fn next(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 16 << 10];
        let (len, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
        buffer.truncate(len);
        Ok(buffer)
    }
}

fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

fn wait_readable(socket: &OwnedFd, time: Duration) -> io::Result<bool> {
    let time = Timespec::try_from(time).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&time)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn drain(socket: &OwnedFd) {
    let mut buffer = vec![0; 8192];
    // Until there is nothing left, or an overrun, which means the same: something has changed.
    while recv(socket, &mut buffer[..], RecvFlags::DONTWAIT).is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_laid_out_as_the_kernel_reads_them() {
        let address = Change::AddAddress {
            index: 2,
            address: Ipv4Addr::new(10, 20, 50, 100),
            prefix: 24,
        };
        let bytes = address.encode(7);
        assert_eq!(bytes.len(), 16 + 8 + 3 * 8);
        assert_eq!(bytes[..4], 48u32.to_ne_bytes());
        assert_eq!(bytes[4..6], 20u16.to_ne_bytes());
        assert_eq!(bytes[6..8], 0x505u16.to_ne_bytes());
        assert_eq!(bytes[8..12], 7u32.to_ne_bytes());
        assert_eq!(bytes[16..20], [2, 24, 0, 0]);
        assert_eq!(bytes[44..48], [10, 20, 50, 255]);

        let point_to_point = Change::AddAddress {
            index: 2,
            address: Ipv4Addr::new(10, 0, 0, 1),
            prefix: 32,
        };
        assert_eq!(
            point_to_point.encode(1).len(),
            40,
            "without a broadcast address"
        );
        assert_eq!(Change::Up { index: 3 }.encode(1).len(), 32);
        let router = Ipv4Addr::new(10, 20, 50, 1);
        let route = Change::DefaultRoute { index: 2, router }.encode(1);
        assert_eq!(route[16..24], [2, 0, 0, 0, 254, 16, 0, 1]);
        let host = Change::HostRoute {
            index: 2,
            host: router,
        }
        .encode(1);
        assert_eq!(host[16..24], [2, 32, 0, 0, 254, 16, 253, 1]);
    }

    fn ack(seq: u32, code: i32) -> Vec<u8> {
        let mut bytes = 36u32.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&NLMSG_ERROR.to_ne_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&seq.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.resize(36, 0);
        bytes
    }

    #[test]
    fn the_answer_is_found_among_others() {
        let bytes = [ack(6, -1), ack(7, 0)].concat();
        assert_eq!(find_ack(&bytes, 7), Some(Ok(())));
        assert_eq!(find_ack(&bytes, 6), Some(Err(Errno::PERM)));
        assert_eq!(find_ack(&bytes, 8), None);
        assert_eq!(find_ack(&bytes[..17], 6), None);
    }

    #[test]
    fn the_kernel_refuses_an_interface_that_is_not_there() {
        let error = apply(&Change::Up { index: 0x7fff_fff0 }).unwrap_err();
        // ENODEV with the right to change links, EPERM without.
        let expected = [Errno::NODEV, Errno::PERM].map(|e| Some(e.raw_os_error()));
        assert!(expected.contains(&error.raw_os_error()), "{error}");
    }

    proptest! {
        #[test]
        fn any_answer_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..200), seq: u32) {
            let _ = find_ack(&bytes, seq);
        }

        #[test]
        fn any_codes_are_errors(code in prop_oneof![any::<i32>(), -5000..5000, Just(i32::MIN)]) {
            prop_assert_eq!(find_ack(&ack(1, code), 1).unwrap().is_ok(), code == 0);
        }
    }
}
