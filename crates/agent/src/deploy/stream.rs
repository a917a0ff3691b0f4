//! The answer to a request for chunks: frames, read one after the other.
//!
//! See [`bugler_protocol::agent::CHUNK_STREAM`] for the bytes.

use bugler_protocol::manifest::{ChunkHash, MAX_FRAME_LEN};
use std::io::{self, Read};

/// One frame of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A zstd frame, now in the buffer that was given.
    Chunk,
    /// The server cannot give this chunk.
    Absent,
    /// The body ends here, between two frames.
    End,
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection ended inside of a frame, or failed.
    #[error("the connection broke off inside of a chunk")]
    Cut(#[source] io::Error),
    /// A length that no chunk has. What follows cannot be read.
    #[error("the server announced a chunk of {0} bytes; {MAX_FRAME_LEN} are the most")]
    TooLong(u32),
}

/// Reads one frame. A chunk is put into `frame`, which never grows beyond [`MAX_FRAME_LEN`].
///
/// # Errors
/// [`FrameError`]; the stream is of no use afterwards.
pub fn read_frame(stream: &mut impl Read, frame: &mut Vec<u8>) -> Result<Frame, FrameError> {
    frame.clear();
    let mut length = [0; 4];
    let mut have = 0;
    while let Some(rest) = length.get_mut(have..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) if have == 0 => return Ok(Frame::End),
            Ok(0) => return Err(FrameError::Cut(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FrameError::Cut(error)),
        }
    }
    match u32::from_le_bytes(length) {
        0 => Ok(Frame::Absent),
        length if length > MAX_FRAME_LEN => Err(FrameError::TooLong(length)),
        length => {
            let expected = u64::from(length);
            let read = stream.take(expected).read_to_end(frame);
            let got = read.map_err(FrameError::Cut)?;
            if got as u64 == expected {
                Ok(Frame::Chunk)
            } else {
                Err(FrameError::Cut(io::ErrorKind::UnexpectedEof.into()))
            }
        }
    }
}

/// Unpacks chunks, with memory of its own that is used again for each.
#[derive(Default)]
pub struct Unpacker(zstd::bulk::Decompressor<'static>);

impl Unpacker {
    /// Unpacks the zstd frame `frame` into `content`, which it must fill exactly, and checks that
    /// this is what `hash` names. Nothing is ever written outside of `content`, whatever length
    /// the frame claims.
    ///
    /// # Errors
    /// What is there instead, in words.
    pub fn unpack(
        &mut self,
        frame: &[u8],
        content: &mut [u8],
        hash: &ChunkHash,
    ) -> Result<(), String> {
        let wanted = content.len();
        let length = self
            .0
            .decompress_to_buffer(frame, content)
            .map_err(|e| format!("its zstd frame of {} bytes is broken: {e}", frame.len()))?;
        if length != wanted {
            return Err(format!("it has {length} bytes instead of {wanted}"));
        }
        let found = ChunkHash(*blake3::hash(content).as_bytes());
        if found != *hash {
            return Err(format!("its BLAKE3 is {found}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame_of(content: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(content, 1).unwrap()
    }

    fn put(stream: &mut Vec<u8>, frame: &[u8]) {
        stream.extend_from_slice(&u32::try_from(frame.len()).unwrap().to_le_bytes());
        stream.extend_from_slice(frame);
    }

    fn name(content: &[u8]) -> ChunkHash {
        ChunkHash(*blake3::hash(content).as_bytes())
    }

    #[test]
    fn frames_come_in_order_and_the_end_is_seen() {
        let mut stream = Vec::new();
        put(&mut stream, &frame_of(b"one"));
        put(&mut stream, &[]);
        put(&mut stream, &frame_of(b"three"));
        let (mut stream, mut frame) = (&stream[..], Vec::new());
        let mut unpacker = Unpacker::default();
        assert_eq!(read_frame(&mut stream, &mut frame).unwrap(), Frame::Chunk);
        let mut content = [0; 3];
        unpacker
            .unpack(&frame, &mut content, &name(b"one"))
            .unwrap();
        assert_eq!(&content, b"one");
        assert_eq!(read_frame(&mut stream, &mut frame).unwrap(), Frame::Absent);
        assert_eq!(read_frame(&mut stream, &mut frame).unwrap(), Frame::Chunk);
        assert_eq!(read_frame(&mut stream, &mut frame).unwrap(), Frame::End);
    }

    #[test]
    fn a_frame_that_is_not_its_name_is_refused() {
        let mut unpacker = Unpacker::default();
        let mut content = [0; 5];
        let mut unpack = |frame: &[u8], hash: &[u8]| {
            unpacker
                .unpack(frame, &mut content, &name(hash))
                .unwrap_err()
        };
        assert!(unpack(&frame_of(b"abcde"), b"abcdX").starts_with("its BLAKE3 is "));
        assert_eq!(
            unpack(&frame_of(b"abcd"), b"abcd"),
            "it has 4 bytes instead of 5"
        );
        assert!(unpack(&frame_of(b"abcdef"), b"abcdef").contains("is broken"));
        assert!(unpack(b"not zstd at all", b"abcde").contains("is broken"));
        // A bomb: 64 MiB in a few kilobytes.
        assert!(unpack(&frame_of(&vec![0; 64 << 20]), b"abcde").contains("is broken"));
    }

    #[test]
    fn a_lying_length_is_refused_before_memory_is_taken() {
        let mut stream = (MAX_FRAME_LEN + 1).to_le_bytes().to_vec();
        stream.extend_from_slice(&[0; 100]);
        let mut frame = Vec::new();
        let error = read_frame(&mut &stream[..], &mut frame).unwrap_err();
        assert!(matches!(error, FrameError::TooLong(n) if n == MAX_FRAME_LEN + 1));
        assert!(frame.capacity() <= MAX_FRAME_LEN as usize);
    }

    proptest! {
        /// Any bytes, cut anywhere: frames, or an error, never more than what was there.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (mut stream, mut frame) = (&bytes[..], Vec::new());
            let mut unpacker = Unpacker::default();
            let mut content = vec![0; 64];
            while let Ok(Frame::Chunk | Frame::Absent) = read_frame(&mut stream, &mut frame) {
                prop_assert!(frame.len() <= bytes.len());
                let refused = unpacker.unpack(&frame, &mut content, &ChunkHash([0; 32]));
                prop_assert!(refused.is_err());
            }
        }

        /// A good stream that breaks off: the chunks before the break are good, and a break
        /// inside of a frame is seen.
        #[test]
        fn a_cut_stream_gives_what_came_whole(cut in 0usize..60) {
            let frame = frame_of(b"twelve bytes");
            let mut whole = Vec::new();
            put(&mut whole, &frame);
            put(&mut whole, &frame);
            let cut = cut.min(whole.len());
            let (mut stream, mut got, mut count) = (&whole[..cut], Vec::new(), 0);
            let end = loop {
                match read_frame(&mut stream, &mut got) {
                    Ok(Frame::Chunk) => { prop_assert_eq!(&got, &frame); count += 1; }
                    other => break other,
                }
            };
            let one = whole.len() / 2;
            prop_assert_eq!(count, cut / one);
            prop_assert_eq!(matches!(end, Ok(Frame::End)), cut % one == 0);
        }
    }
}
