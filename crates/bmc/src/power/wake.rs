//! Wake-on-LAN: six bytes of 0xff and the MAC address sixteen times (AMD, Magic Packet Technology).

use super::{Action, Outcome, PowerDriver};
use crate::error::Error;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use tokio::net::UdpSocket;

/// How often the packet is sent: nothing acknowledges it.
const COPIES: usize = 3;

/// Wakes a machine. It cannot switch one off, nor know whether it woke up.
#[derive(Debug, Clone)]
pub struct Wake {
    mac: [u8; 6],
    to: SocketAddr,
}

impl Wake {
    /// Wakes the network card with this address, by a packet to this broadcast address; port 9 by
    /// custom.
    pub fn new(mac: [u8; 6], to: SocketAddr) -> Self {
        Self { mac, to }
    }

    /// The same, on the network that the kernel takes for 255.255.255.255.
    pub fn everywhere(mac: [u8; 6]) -> Self {
        Self::new(mac, SocketAddrV4::new(Ipv4Addr::BROADCAST, 9).into())
    }

    /// What is sent: 102 bytes.
    pub fn packet(&self) -> Vec<u8> {
        let mut packet = vec![0xff; 6];
        packet.extend_from_slice(&self.mac.repeat(16));
        packet
    }

    async fn send(&self) -> std::io::Result<()> {
        let any: SocketAddr = match self.to {
            SocketAddr::V4(_) => "0.0.0.0:0".parse(),
            SocketAddr::V6(_) => "[::]:0".parse(),
        }
        .map_err(std::io::Error::other)?;
        let socket = UdpSocket::bind(any).await?;
        socket.set_broadcast(true)?;
        let packet = self.packet();
        for _ in 0..COPIES {
            socket.send_to(&packet, self.to).await?;
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl PowerDriver for Wake {
    fn name(&self) -> &'static str {
        "Wake-on-LAN"
    }

    async fn power(&self, action: Action) -> Result<Outcome, Error> {
        if action != Action::On {
            return Err(Error::Unsupported {
                driver: self.name(),
                what: action.to_string(),
            });
        }
        match self.send().await {
            Ok(()) => Ok(Outcome::Unconfirmed(
                "the packet that wakes it was sent; nothing answers such a packet".to_owned(),
            )),
            Err(source) => Err(Error::Wake {
                mac: self.mac.map(|byte| format!("{byte:02x}")).join(":"),
                to: self.to,
                source,
            }),
        }
    }
}
