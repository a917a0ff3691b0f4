//! What the kernel knows of a network interface.

use crate::config::Network;
use crate::error::Error;
use bugler_model::MacAddr;
use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType};
use std::net::{IpAddr, Ipv4Addr};

/// An Ethernet interface that can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, for example `eth1`.
    pub name: String,
    /// The kernel's number of it.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: usize,
    /// Its first address, and the network that this is in.
    pub network: Network,
}

impl Interface {
    /// Its IPv4 address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.network.address
    }

    /// Looks an interface up.
    ///
    /// # Errors
    /// Where there is none of this name, or it is down, or not Ethernet, or has no IPv4 address.
    pub async fn find(name: &str) -> Result<Self, Error> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Netlink {
            interface: name.into(),
            source,
        };
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| failed(error.into()))?;
        let connection = tokio::spawn(connection);
        let found = Self::ask(&handle, name, failed).await;
        connection.abort();
        found
    }

    async fn ask(
        handle: &rtnetlink::Handle,
        name: &str,
        failed: impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error,
    ) -> Result<Self, Error> {
        let mut links = handle.link().get().match_name(name).execute();
        let link = match links.try_next().await {
            Ok(Some(link)) => link,
            Ok(None) => return Err(Error::NoInterface(name.into())),
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::ENODEV => {
                return Err(Error::NoInterface(name.into()));
            }
            Err(error) => return Err(failed(error.into())),
        };
        let (mut mac, mut mtu) = (None, 1500);
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => {
                    mac = bytes.as_slice().try_into().ok().map(MacAddr)
                }
                LinkAttribute::Mtu(bytes) => mtu = *bytes as usize,
                _ => {}
            }
        }
        let mac = mac
            .filter(|_| link.header.link_layer_type == LinkLayerType::Ether)
            .ok_or_else(|| Error::NotEthernet(name.into()))?;
        if !link.header.flags.contains(LinkFlags::Up) {
            return Err(Error::Down(name.into()));
        }
        let index = link.header.index;
        let mut addresses = handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute();
        while let Some(message) = addresses
            .try_next()
            .await
            .map_err(|error| failed(error.into()))?
        {
            let local = message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                    _ => None,
                });
            let is_first = !message.header.flags.contains(AddressHeaderFlags::Secondary);
            if let Some(address) = local.filter(|_| is_first) {
                let network = Network {
                    address,
                    prefix: message.header.prefix_len,
                };
                return Ok(Self {
                    name: name.into(),
                    index,
                    mac,
                    mtu,
                    network,
                });
            }
        }
        Err(Error::NoAddress(name.into()))
    }
}
