//! The socket and its thread. Solicitations are rare, so one thread that waits is enough.

use crate::error::Error;
use crate::packet::{NOT_A_ROUTER, Solicitation};
use bugler_model::MacAddr;
use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where solicitations go (RFC 4291 section 2.7.1).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Receivers discard an advertisement whose hop limit is any other (RFC 4861 section 6.1.2): only a
/// neighbour can have sent it.
const HOPS: u32 = 255;

/// How often the thread looks whether it should stop.
const LOOK: Duration = Duration::from_millis(200);

/// Knows which clients are boot loaders.
pub trait Clients: Send + Sync + 'static {
    /// Whether this client has just asked by DHCP, as a boot loader that waits for IPv6.
    fn waits_for_ipv6(&self, mac: MacAddr) -> bool;
}

/// The responder of one interface.
#[derive(Debug)]
pub struct Server;

/// A running responder. Dropping it stops it.
#[derive(Debug)]
pub struct Handle {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers on the interface with this name and kernel index.
    ///
    /// # Errors
    /// Where the socket cannot be had: without permission (CAP_NET_RAW), or without IPv6.
    pub fn start(interface: &str, index: u32, clients: Arc<dyn Clients>) -> Result<Handle, Error> {
        let failed = |operation| {
            move |source| Error::Socket {
                operation,
                interface: interface.to_owned(),
                source,
            }
        };
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))
            .map_err(failed("open an ICMPv6 socket"))?;
        socket
            .bind_device(Some(interface.as_bytes()))
            .map_err(failed("bind a socket"))?;
        socket
            .set_unicast_hops_v6(HOPS)
            .map_err(failed("set the hop limit"))?;
        socket
            .join_multicast_v6(&ALL_ROUTERS, index)
            .map_err(failed("join ff02::2"))?;
        socket
            .set_read_timeout(Some(LOOK))
            .map_err(failed("set a time limit"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("ndp".into())
            .spawn(move || {
                while !stopped.load(Ordering::Acquire) {
                    if let Err(error) = answer(&socket, &*clients) {
                        tracing::debug!("router solicitation: {error}");
                        // An interface that went away fails at once, each time.
                        std::thread::sleep(LOOK);
                    }
                }
            })
            .map_err(failed("start a thread"))?;
        Ok(Handle {
            stop,
            thread: Some(thread),
        })
    }
}

/// Waits for a message, and answers it if it is a boot loader's solicitation.
fn answer(socket: &Socket, clients: &dyn Clients) -> io::Result<()> {
    // A solicitation has 16 bytes; what is longer than this has options that nobody needs.
    let mut buffer = [0; 256];
    let (length, source) = match rustix::net::recvfrom(socket, &mut buffer, RecvFlags::empty()) {
        Ok((length, _, source)) => (length, source),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let Some(Ok(SocketAddr::V6(source))) = source.map(SocketAddr::try_from) else {
        return Ok(());
    };
    let message = buffer.get(..length).unwrap_or_default();
    if let Some(Solicitation { mac }) = Solicitation::decode(message, *source.ip())
        && clients.waits_for_ipv6(mac)
    {
        socket.send_to(&NOT_A_ROUTER, &SockAddr::from(source))?;
    }
    Ok(())
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the responder to router solicitations had panicked");
        }
    }
}
