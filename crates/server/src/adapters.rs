//! Plugs: how DHCP, TFTP and HTTP ask the [`BootService`], and where they leave what they know.

use crate::boot::{BootService, Content, TreeError};
use crate::clock;
use crate::network::{self, Services};
use bugler_api::{BootContent, BootTree, BootTreeError};
use bugler_boot::pi::eeprom::Image;
use bugler_boot::{BootPlan, ClientFacts};
use bugler_dhcp::{Advisor, Ask, MessageType, Notice, NoticeKind, PXE_PORT};
use bugler_model::{Device, DeviceId, EventKind, Lease, MacAddr, Timestamp};
use bugler_protocol::operator::PlanView;
use bugler_store::Store;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// DHCP asks what to give, and tells what a person should know.
pub(crate) struct DhcpPlug {
    pub(crate) boot: Arc<BootService>,
    pub(crate) services: Services,
}

impl Advisor for DhcpPlug {
    fn advise(&self, facts: &ClientFacts, ask: Ask<'_>) -> BootPlan {
        let message = match (ask.message, ask.port) {
            (_, PXE_PORT) => "boot server request",
            (MessageType::Discover, _) => "DISCOVER",
            (MessageType::Inform, _) => "INFORM",
            _ => "REQUEST",
        };
        self.boot.advise(facts, message, ask.from)
    }

    fn tags(&self, facts: &ClientFacts) -> Vec<String> {
        self.boot.tags(facts)
    }
}

impl bugler_dhcp::Notify for DhcpPlug {
    fn notify(&self, notice: Notice) {
        let kind = match notice.kind {
            NoticeKind::PoolExhausted
            | NoticeKind::AddressInUse
            | NoticeKind::DuplicateAddress
            | NoticeKind::Refused
            | NoticeKind::CommitFailed => EventKind::Lease,
            _ => EventKind::Server,
        };
        tracing::info!("{}", notice.text);
        if notice.kind == NoticeKind::Mode {
            network::tell(&self.services, notice.text.clone());
        }
        self.boot.note(kind, notice.mac, notice.text);
    }
}

/// Leases go into the registry, and are acknowledged once they are there.
pub(crate) struct LeasePlug {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) boot: Arc<BootService>,
}

#[async_trait::async_trait]
impl bugler_dhcp::LeaseLog for LeasePlug {
    async fn commit(&self, leases: Vec<Lease>) -> Result<(), String> {
        for lease in &leases {
            self.boot.learn_address(lease.address, lease.mac);
        }
        self.store
            .commit_leases(leases)
            .await
            .map_err(|error| clock::chain(&error))
    }
}

/// TFTP serves the boot tree, and puts transfers on the timeline.
pub(crate) struct TftpPlug {
    pub(crate) boot: Arc<BootService>,
    /// Where the registry's operations run: TFTP asks from threads of its own.
    pub(crate) runtime: tokio::runtime::Handle,
    /// The port of the device plane, which scripts name.
    pub(crate) http_port: u16,
}

impl bugler_tftp::Source for TftpPlug {
    fn open(
        &self,
        request: &bugler_tftp::Request,
    ) -> Result<bugler_tftp::Content, bugler_tftp::OpenError> {
        let peer = IpAddr::V4(*request.peer.ip());
        let host = format!("{}:{}", request.local, self.http_port);
        match self
            .runtime
            .block_on(self.boot.open(peer, Some(&host), &request.path))
        {
            Ok(Content::Bytes(bytes)) => Ok(bugler_tftp::Content::Bytes(bytes)),
            Ok(Content::File(path)) => {
                let open = || -> std::io::Result<bugler_tftp::Content> {
                    let file = File::open(&path)?;
                    let len = file.metadata()?.len();
                    Ok(bugler_tftp::Content::File { file, len })
                };
                open().map_err(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => bugler_tftp::OpenError::NotFound,
                    _ => bugler_tftp::OpenError::Failed(format!(
                        "could not open {}: {error}",
                        path.display()
                    )),
                })
            }
            Err(TreeError::NotFound(_)) => Err(bugler_tftp::OpenError::NotFound),
            Err(TreeError::Broken(text)) => Err(bugler_tftp::OpenError::Failed(text)),
            Err(TreeError::Later(_)) => Err(bugler_tftp::OpenError::Later),
        }
    }
}

impl bugler_tftp::Observer for TftpPlug {
    fn event(&self, transfer: &bugler_tftp::Transfer, event: &bugler_tftp::Event) {
        use bugler_tftp::Event;
        let path = printable(&transfer.path);
        let (text, complete) = match event {
            // The start is noted when the file is opened; a refused path is only worth a debug line.
            Event::Started { .. } => return,
            Event::Finished {
                bytes,
                duration,
                retransmitted,
                ..
            } => {
                let seconds = duration.as_secs_f64();
                let again = match retransmitted {
                    0 => String::new(),
                    n => format!(", {n} blocks sent again"),
                };
                (
                    format!("TFTP sent {path}: {bytes} bytes in {seconds:.2} s{again}"),
                    true,
                )
            }
            Event::Postponed => return,
            // Boot ROMs ask for the size, abort, and ask again: nothing went wrong.
            Event::Aborted { bytes: 0, .. } => return,
            Event::Aborted { bytes, message, .. } => {
                let message = printable(message);
                (
                    format!("TFTP: the client ended {path} after {bytes} bytes: {message}"),
                    false,
                )
            }
            // A Raspberry Pi looks for many files by habit.
            Event::NotFound
                if self
                    .boot
                    .pi_misses(IpAddr::V4(*transfer.peer.ip()), &transfer.path) =>
            {
                return;
            }
            Event::NotFound => (format!("TFTP: there is no {path}"), false),
            Event::Refused { reason } => (format!("TFTP: refused {path}: {reason}"), false),
            Event::Failed { reason, bytes } => (
                format!("TFTP: {path} failed after {bytes} bytes: {reason}"),
                false,
            ),
        };
        self.boot.delivered(
            IpAddr::V4(*transfer.peer.ip()),
            &transfer.path,
            text,
            complete,
        );
    }
}

/// What a machine wrote, for one line of text.
fn printable(text: &str) -> String {
    text.chars()
        .take(200)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Tells which clients wait for an IPv6 router that is not there.
pub(crate) struct NdpPlug(pub(crate) Arc<BootService>);

impl bugler_ndp::Clients for NdpPlug {
    fn waits_for_ipv6(&self, mac: MacAddr) -> bool {
        self.0.is_ipxe_now(mac)
    }
}

fn no_update(device: DeviceId) -> BootTreeError {
    BootTreeError::NotFound(format!("no boot loader update waits for {device}"))
}

/// HTTP serves the boot tree.
pub(crate) struct HttpPlug(pub(crate) Arc<BootService>);

#[async_trait::async_trait]
impl BootTree for HttpPlug {
    async fn open(
        &self,
        client: SocketAddr,
        host: Option<&str>,
        path: &str,
    ) -> Result<BootContent, BootTreeError> {
        match self.0.open(client.ip(), host, path).await {
            Ok(Content::Bytes(bytes)) => Ok(BootContent::Bytes(bytes)),
            Ok(Content::File(path)) => Ok(BootContent::File(path)),
            Err(TreeError::NotFound(text)) => {
                // A profile that names a file which is not there is seen here first, and by nobody else.
                let path = printable(path);
                let said = format!("HTTP: there is no {path}");
                self.0.delivered(client.ip(), &path, said, false);
                Err(BootTreeError::NotFound(text))
            }
            Err(TreeError::Broken(text) | TreeError::Later(text)) => {
                Err(BootTreeError::Broken(text))
            }
        }
    }

    fn delivered(&self, client: SocketAddr, path: &str, bytes: u64, complete: bool) {
        let path = printable(path);
        let text = if complete {
            format!("HTTP sent {path}: {bytes} bytes")
        } else {
            format!("HTTP: {path} was cut off after {bytes} bytes")
        };
        self.0.delivered(client.ip(), &path, text, complete);
    }

    fn may_act_for(&self, client: SocketAddr, mac: MacAddr) -> bool {
        self.0.may_act_for(client.ip(), mac)
    }

    fn bootenv(&self) -> Option<String> {
        self.0.bootenv(bugler_model::Arch::X86_64)
    }

    fn explain(&self, device: &Device) -> Option<PlanView> {
        Some(self.0.explain(device))
    }

    fn eeprom_update(&self, device: DeviceId) -> Result<(Vec<u8>, Timestamp), BootTreeError> {
        let update = self
            .0
            .offered_eeprom(device)
            .map_err(BootTreeError::Broken)?;
        update.ok_or_else(|| no_update(device))
    }

    fn offer_eeprom_update(&self, device: DeviceId, image: &Image) -> Result<(), BootTreeError> {
        self.0
            .offer_eeprom(device, image)
            .map_err(BootTreeError::Broken)
    }

    fn withdraw_eeprom_update(&self, device: DeviceId) -> Result<(), BootTreeError> {
        match self
            .0
            .withdraw_eeprom(device)
            .map_err(BootTreeError::Broken)?
        {
            true => Ok(()),
            false => Err(no_update(device)),
        }
    }
}
