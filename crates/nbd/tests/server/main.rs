//! A server on loopback: real clients that this project did not write, and one of bytes by hand for what
//! they would never send.

mod by_hand;
mod clients;
mod encrypted;

use bugler_disk::{BlockDevice, EmptyBase, Overlay, OverlayOptions};
use bugler_nbd::{Export, Exports, NbdError, Options, Peer, Refusal, Server};
use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    sync::{Arc, Mutex, mpsc},
};

/// Exports by name, and what happened.
struct Few {
    exports: HashMap<String, Arc<Export>>,
    tls_only: bool,
    events: Mutex<mpsc::Sender<String>>,
}

impl Exports for Few {
    fn open(&self, name: &str, peer: &Peer) -> Result<Arc<Export>, Refusal> {
        if self.tls_only && !peer.encrypted {
            return Err(Refusal::NeedsTls);
        }
        if name == "busy" {
            return Err(Refusal::Denied("its overlay is being committed".to_owned()));
        }
        self.exports.get(name).cloned().ok_or(Refusal::Unknown)
    }

    fn attached(&self, name: &str, _peer: &Peer, _export: &Arc<Export>) {
        self.events
            .lock()
            .unwrap()
            .send(format!("{name} attached"))
            .unwrap();
    }

    fn detached(&self, name: &str, _peer: &Peer, _export: &Arc<Export>, why: Option<&str>) {
        let event = format!("{name} detached: {}", why.unwrap_or("goodbye"));
        // The test may be over.
        let _ = self.events.lock().unwrap().send(event);
    }
}

struct Running {
    server: Server,
    address: SocketAddr,
    events: mpsc::Receiver<String>,
}

fn serve_with(
    exports: &[(&str, Arc<Export>)],
    options: Options,
    tls_only: bool,
) -> Result<Running, NbdError> {
    let (events, receiver) = mpsc::channel();
    let few = Few {
        exports: exports
            .iter()
            .map(|(name, e)| ((*name).to_owned(), Arc::clone(e)))
            .collect(),
        tls_only,
        events: Mutex::new(events),
    };
    let server = Server::new(Arc::new(few), options)?;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    server.listen(listener)?;
    Ok(Running {
        server,
        address,
        events: receiver,
    })
}

fn serve(exports: &[(&str, Arc<Export>)]) -> Running {
    serve_with(exports, Options::default(), false).unwrap()
}

impl Running {
    fn url(&self, name: &str) -> String {
        format!("nbd://{}/{name}", self.address)
    }
}

/// A disk of layers over a base of zeros.
fn overlay(dir: &Path, size: u64, quota: Option<u64>) -> Arc<Export> {
    let options = OverlayOptions {
        quota,
        ..OverlayOptions::default()
    };
    let base = Arc::new(EmptyBase { size });
    let overlay = Overlay::open_or_create(dir.join("overlay"), base, &options).unwrap();
    let device: Arc<dyn BlockDevice> = Arc::new(overlay);
    Export::new(device, "lab-7's disk")
}

/// Runs a program of Debian's, which must be there, and gives what it said.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}, which scripts/setup installs: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok(text + &said)
    } else {
        Err(format!(
            "{program} {arguments:?}: {}\n{text}{said}",
            output.status
        ))
    }
}
