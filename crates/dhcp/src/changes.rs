//! Tells when links or addresses of this host change (rtnetlink(7)).

use crate::error::Error;
use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::SocketAddr;
use tokio::task::JoinHandle;

/// A subscription to the kernel's news of links and IPv4 addresses. What has changed is not told:
/// [`Interface::find`](crate::Interface::find) tells what is, and cannot be outrun.
pub struct Changes {
    connection: JoinHandle<()>,
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
}

impl Changes {
    /// Subscribes, on the runtime of the caller.
    ///
    /// # Errors
    /// Where the kernel gives no netlink socket.
    pub fn watch() -> Result<Self, Error> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(|error| Error::Netlink {
                interface: "any".into(),
                source: error.into(),
            })?;
        Ok(Self {
            connection: tokio::spawn(connection),
            messages,
        })
    }

    /// Waits for the next change. `false`: the subscription has ended; make another.
    pub async fn next(&mut self) -> bool {
        if self.messages.next().await.is_none() {
            return false;
        }
        // Those that came with it.
        while self.messages.try_recv().is_ok() {}
        true
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
