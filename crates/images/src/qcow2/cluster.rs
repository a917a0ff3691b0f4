//! Unpacking one compressed cluster.

use super::header::Packing;
use flate2::{Decompress, FlushDecompress};
use std::io::Read;

/// Unpacks a cluster of `size` bytes from the beginning of `packed`, behind which there may be
/// something else. Says what is wrong.
pub(super) fn unpack(
    packing: Packing,
    packed: &[u8],
    size: usize,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    out.clear();
    out.resize(size, 0);
    match packing {
        Packing::Deflate => {
            let mut decoder = Decompress::new(false);
            loop {
                let (read, written) = (decoder.total_in(), decoder.total_out());
                let from = packed.get(read as usize..).unwrap_or_default();
                let to = out.get_mut(written as usize..).unwrap_or_default();
                if to.is_empty() {
                    return Ok(());
                }
                decoder
                    .decompress(from, to, FlushDecompress::None)
                    .map_err(|_| "a compressed cluster cannot be unpacked")?;
                if (decoder.total_in(), decoder.total_out()) == (read, written) {
                    return Err("a compressed cluster is too short");
                }
            }
        }
        Packing::Zstd => zstd::Decoder::with_buffer(packed)
            .and_then(|mut decoder| decoder.read_exact(out))
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => "a compressed cluster is too short",
                _ => "a compressed cluster cannot be unpacked",
            }),
    }
}
