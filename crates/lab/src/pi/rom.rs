//! A board on the bridge: its network card is the only interface of a host of the lab.
//!
//! DHCP goes over raw Ethernet frames, for the board has no address yet. With its address, TFTP goes
//! over ordinary sockets of that host.

use super::course::{self, Fetched, Files};
use super::dhcp::{self, Offers, Reply};
use super::tftp::Client;
use super::{Board, Pi};
use crate::net::{Host, INTERFACE, Net, PREFIX};
use crate::packet_address::everything_on;
use anyhow::{Context, Result, bail};
use rustix::net::netdevice::name_to_index;
use rustix::net::{RecvFlags, recv};
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

/// TFTP's port.
const TFTP_PORT: u16 = 69;

/// How a board asks: pause between messages, and when it gives up.
fn patience(board: Board) -> (Duration, Duration) {
    if board.has_rom() {
        // Five tries.
        (Duration::from_secs(5), Duration::from_secs(25))
    } else {
        // DHCP_REQ_TIMEOUT and DHCP_TIMEOUT.
        (Duration::from_secs(4), Duration::from_secs(45))
    }
}

/// A board, plugged in and without power. Dropping it unplugs it.
#[derive(Debug)]
pub struct Machine {
    pi: Pi,
    host: Host,
}

/// What a boot came to.
#[derive(Clone, Debug)]
pub struct Booted {
    /// Its address.
    pub address: Ipv4Addr,
    /// Where its files came from.
    pub server: Ipv4Addr,
    /// The files.
    pub fetched: Fetched,
}

impl Machine {
    /// Plugs a board into the bridge. `name` has at most 10 letters.
    ///
    /// # Errors
    /// When the kernel refuses, or the name is taken.
    pub fn new(net: &Net, name: &str, pi: Pi) -> Result<Self> {
        let host = net.add_card(name, pi.mac)?;
        Ok(Self { pi, host })
    }

    /// The board.
    #[must_use]
    pub fn pi(&self) -> &Pi {
        &self.pi
    }

    /// Switches it on: DHCP, then its files, until it would start the kernel or write an update.
    ///
    /// # Errors
    /// Where the board would stop, with the reason.
    pub fn boot(&mut self) -> Result<Booted> {
        let board = self.pi.board;
        let (address, server) = self
            .dhcp()
            .with_context(|| format!("the {board} gets nothing to boot by DHCP"))?;
        self.host.set_address(address, PREFIX)?;
        let (pi, host) = (self.pi, &self.host);
        let fetched = host.run(|| {
            let server = SocketAddrV4::new(server, TFTP_PORT);
            let mut files = Network {
                client: Client::new(board, address, server),
                pi,
            };
            course::boot(&pi, &mut files)
        })??;
        Ok(Booted {
            address,
            server,
            fetched,
        })
    }

    fn dhcp(&self) -> Result<(Ipv4Addr, Ipv4Addr)> {
        self.host.run(|| dhcp_on_card(&self.pi))?
    }
}

/// Gets an address and a server, on the host of this thread.
fn dhcp_on_card(pi: &Pi) -> Result<(Ipv4Addr, Ipv4Addr)> {
    let card = Card::open(pi)?;
    let (pause, patience) = patience(pi.board);
    let end = Instant::now() + patience;
    let random = u32::from_be_bytes([0x0a, 0x48, 0x58, pi.mac.0[5]]);
    let xid = dhcp::transaction(pi, random);
    let mut offers = Offers::default();
    let mut complete = false;
    while !complete {
        if Instant::now() >= end {
            bail!("{}", offers.lack());
        }
        card.send(&dhcp::discover(pi, xid))?;
        let again = (Instant::now() + pause).min(end);
        while !complete && let Some(message) = card.receive(again)? {
            if let Some(reply) = Reply::read(pi, xid, &message) {
                complete = offers.take(pi.board, reply);
            }
        }
    }
    let (Some(offer), Some(server)) = (offers.address, offers.tftp) else {
        bail!("the offers are complete and are not");
    };
    // The ROM of a 3B uses what it was offered; the documentation calls it a known problem.
    if pi.board == Board::Pi3B {
        return Ok((offer.yiaddr, server));
    }
    loop {
        if Instant::now() >= end {
            let asked = offer.server.unwrap_or(Ipv4Addr::UNSPECIFIED);
            bail!("{asked} does not acknowledge {}", offer.yiaddr);
        }
        card.send(&dhcp::request(pi, xid, &offer))?;
        let again = (Instant::now() + pause).min(end);
        while let Some(message) = card.receive(again)? {
            match Reply::read(pi, xid, &message) {
                Some(reply) if reply.kind == 5 => return Ok((reply.yiaddr, server)),
                Some(reply) if reply.kind == 6 => {
                    bail!("{:?} refuses {}", reply.server, offer.yiaddr)
                }
                _ => {}
            }
        }
    }
}

/// The network card, as raw frames.
struct Card {
    socket: Socket,
    mac: [u8; 6],
}

impl Card {
    fn open(pi: &Pi) -> Result<Self> {
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, None).context("cannot make a packet socket")?;
        let interface =
            name_to_index(&socket, INTERFACE).context("the board has no network card")?;
        let address = everything_on(interface);
        socket
            .bind(&address)
            .context("cannot use the board's network card")?;
        let mac = pi.mac.0;
        Ok(Self { socket, mac })
    }

    fn send(&self, message: &[u8]) -> Result<()> {
        let frame = frame(self.mac, message);
        self.socket.send(&frame).context("the board cannot send")?;
        Ok(())
    }

    /// The next DHCP message for this card, or `None` at `end`.
    fn receive(&self, end: Instant) -> Result<Option<Vec<u8>>> {
        let mut buffer = [0; 2048];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket
                .set_read_timeout(Some(left))
                .context("cannot set up the network card")?;
            let Ok((length, _)) = recv(&self.socket, &mut buffer[..], RecvFlags::empty()) else {
                continue;
            };
            if let Some(message) = message(self.mac, &buffer[..length]) {
                return Ok(Some(message.to_vec()));
            }
        }
    }
}

/// An Ethernet frame with a DHCP message of a client without an address. As in the recorded traces:
/// time to live 128, identification 0, no UDP checksum.
fn frame(mac: [u8; 6], message: &[u8]) -> Vec<u8> {
    let udp = 8 + message.len();
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x00]);
    let mut header = vec![0x45, 0];
    header.extend(((20 + udp) as u16).to_be_bytes());
    header.extend([0, 0, 0, 0, 128, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
    let words = header
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(header);
    frame.extend([0, 68, 0, 67]);
    frame.extend((udp as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend_from_slice(message);
    frame
}

/// The content of a frame that is a UDP datagram to port 68 of this card.
fn message(mac: [u8; 6], frame: &[u8]) -> Option<&[u8]> {
    let (to, rest) = frame.split_first_chunk::<6>()?;
    let for_us = *to == mac || *to == [0xff; 6];
    let packet = rest.get(6..)?.strip_prefix(&[0x08, 0x00])?;
    let header = usize::from(packet.first()? & 0xf) * 4;
    let udp = packet.get(header..)?;
    let of_dhcp = packet.get(9) == Some(&17) && udp.get(2..4) == Some(&[0, 68]);
    let length = usize::from(u16::from_be_bytes(*udp.get(4..)?.first_chunk()?));
    (for_us && of_dhcp).then(|| udp.get(8..length)).flatten()
}

/// Files over TFTP.
struct Network {
    client: Client,
    pi: Pi,
}

impl Files for Network {
    fn get_plain(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        self.client.get_plain(name)
    }

    fn probe(&mut self, name: &str) -> Result<Option<u64>> {
        self.client.probe(name)
    }

    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        self.client.get(name)
    }

    fn dhcp_again(&mut self) -> Result<()> {
        // It keeps its address: a server gives the same one again.
        dhcp_on_card(&self.pi).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_traces() {
        let pi = Pi::new(Board::Pi3B, 0x6d);
        let sent = frame(pi.mac.0, &dhcp::discover(&pi, dhcp::ROM_XID));
        assert_eq!(sent.len(), 362);
        // From the dump in raspberrypi/firmware issue 862, which has another MAC address.
        let head = [
            0x08, 0x00, 0x45, 0x00, 0x01, 0x5c, 0, 0, 0, 0, 0x80, 0x11, 0x39, 0x92, 0, 0, 0, 0,
            0xff, 0xff, 0xff, 0xff, 0, 0x44, 0, 0x43, 0x01, 0x48, 0, 0, 1, 1, 6, 0, 0x26, 0xf3,
            0x03, 0x39,
        ];
        assert_eq!(sent[12..50], head);
        // Its own message is not for port 68.
        assert_eq!(message(pi.mac.0, &sent), None);
        let mut reply = sent.clone();
        reply[..6].copy_from_slice(&pi.mac.0);
        reply[36] = 0;
        reply[37] = 68;
        assert_eq!(message(pi.mac.0, &reply), Some(&sent[42..]));
        for length in 0..60 {
            assert_eq!(message(pi.mac.0, &reply[..length]), None);
        }
    }
}
