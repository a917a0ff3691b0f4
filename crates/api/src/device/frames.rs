//! Takes a body of framed chunks apart as it comes: see
//! [`CHUNK_STREAM`](bugler_protocol::agent::CHUNK_STREAM).

use bugler_protocol::manifest::MAX_FRAME_LEN;
use bytes::{Buf, Bytes, BytesMut};

/// What came is no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length that no chunk's frame has.
    #[error("a frame of {0} bytes was announced: a chunk's has 1 to {MAX_FRAME_LEN}")]
    Length(u32),
    /// The body ended in the middle of a frame.
    #[error("the body was cut off after {came} bytes of a frame of {length}")]
    Cut {
        /// Bytes of the frame that came, its length included.
        came: usize,
        /// Its length, where that came whole.
        length: u32,
    },
}

/// Frames out of the parts of a body. Holds a frame and one part at most.
#[derive(Debug, Default)]
pub struct Frames {
    held: BytesMut,
}

impl Frames {
    /// Adds a part. Ask for frames until there is none before adding the next.
    pub fn push(&mut self, part: &[u8]) {
        self.held.extend_from_slice(part);
    }

    fn length(&self) -> Result<Option<u32>, FrameError> {
        let Some(length) = self.held.first_chunk::<4>() else {
            return Ok(None);
        };
        match u32::from_le_bytes(*length) {
            length @ 1..=MAX_FRAME_LEN => Ok(Some(length)),
            length => Err(FrameError::Length(length)),
        }
    }

    /// The next frame, if it is there whole: the bytes behind its length.
    ///
    /// # Errors
    /// [`FrameError::Length`].
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.length()? else {
            return Ok(None);
        };
        let length = length as usize;
        if self.held.len() - 4 < length {
            return Ok(None);
        }
        self.held.advance(4);
        Ok(Some(self.held.split_to(length).freeze()))
    }

    /// The body has ended.
    ///
    /// # Errors
    /// [`FrameError::Cut`] where that was within a frame.
    pub fn end(&self) -> Result<(), FrameError> {
        if self.held.is_empty() {
            return Ok(());
        }
        Err(FrameError::Cut {
            came: self.held.len(),
            length: self.length()?.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(frames: &[Vec<u8>]) -> Vec<u8> {
        let framed = frames.iter().flat_map(|frame| {
            let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
            length.into_iter().chain(frame.iter().copied())
        });
        framed.collect()
    }

    fn all(frames: &mut Frames) -> Result<Vec<Vec<u8>>, FrameError> {
        std::iter::from_fn(|| frames.next_frame().transpose())
            .map(|frame| frame.map(|frame| frame.to_vec()))
            .collect()
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_before_anything_is_held() {
        for length in [0, MAX_FRAME_LEN + 1, u32::MAX] {
            let mut frames = Frames::default();
            frames.push(&length.to_le_bytes());
            assert_eq!(frames.next_frame(), Err(FrameError::Length(length)));
            assert_eq!(frames.end(), Err(FrameError::Length(length)));
        }
    }

    #[test]
    fn a_body_that_is_cut_off_says_where() {
        let mut frames = Frames::default();
        frames.push(&framed(&[vec![1, 2, 3]])[..6]);
        assert_eq!(frames.next_frame(), Ok(None));
        let cut = FrameError::Cut { came: 6, length: 3 };
        assert_eq!(frames.end(), Err(cut));
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_wherever_the_body_is_cut(
            content in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..10),
            part in 1_usize..40,
        ) {
            let body = framed(&content);
            let (mut frames, mut out) = (Frames::default(), Vec::new());
            for part in body.chunks(part) {
                frames.push(part);
                out.extend(all(&mut frames)?);
            }
            prop_assert_eq!(frames.end(), Ok(()));
            prop_assert_eq!(out, content);
        }

        #[test]
        fn any_bytes_end(body in prop::collection::vec(any::<u8>(), 0..300), part in 1_usize..40) {
            let mut frames = Frames::default();
            for part in body.chunks(part) {
                frames.push(part);
                if all(&mut frames).is_err() {
                    break;
                }
            }
            let _ = frames.end();
        }
    }
}
