//! Serves one layer on one tree to whoever asks, for trying things out:
//!
//! ```text
//! serve TREE LAYER ADDRESS:PORT [QUOTA IN BYTES]
//! mount -t nfs -o vers=3,nolock,proto=tcp,port=PORT,mountport=PORT ADDRESS:/ /mnt
//! ```
//!
//! TREE is a folder, or a file with an ext filesystem.

use bugler_nfs::{
    Export, ExportId, Exports, FolderTree, ImageTree, Layer, LayerOptions, MountStatus,
    ServeOptions, Status, Tree, serve,
};
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

struct One(Arc<Export>);

impl Exports for One {
    fn open(&self, _: SocketAddr, _: &[u8]) -> Result<Arc<Export>, MountStatus> {
        Ok(self.0.clone())
    }

    fn find(&self, _: SocketAddr, export: ExportId) -> Result<Arc<Export>, Status> {
        match export == self.0.id() {
            true => Ok(self.0.clone()),
            false => Err(Status::Stale),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (tree, layer, address, quota) = match &arguments[..] {
        [tree, layer, address] => (tree, layer, address, None),
        [tree, layer, address, quota] => (tree, layer, address, Some(quota.parse()?)),
        _ => return Err("usage: serve TREE LAYER ADDRESS:PORT [QUOTA IN BYTES]".into()),
    };
    let base = tree.clone();
    let tree: Arc<dyn Tree> = match Path::new(tree).is_dir() {
        true => Arc::new(FolderTree::open(tree)?),
        false => Arc::new(ImageTree::open(std::fs::File::open(tree)?)?),
    };
    let options = LayerOptions {
        export: ExportId(*b"the only one yet"),
        base,
        quota,
        durable: true,
    };
    let layer = Layer::open(Path::new(layer), tree, &options)?;
    let export = Arc::new(Export::start(layer)?);
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("serving on {}", listener.local_addr()?);
    let options = ServeOptions {
        low_ports_only: false,
        ..ServeOptions::default()
    };
    serve(listener, Arc::new(One(export)), options).await?;
    Ok(())
}
