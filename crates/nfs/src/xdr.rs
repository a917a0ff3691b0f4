//! Bytes of the External Data Representation (RFC 4506): numbers of 32 and 64 bits, the highest byte
//! first; everything is filled up to a multiple of 4 bytes.

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XdrError {
    /// They end too early.
    #[error("the message ends in the middle of {0}")]
    Short(&'static str),
    /// Something is longer than it may be.
    #[error("{what} has {length} bytes or entries, and may have {limit}")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// What it has.
        length: u32,
        /// What it may have.
        limit: u32,
    },
    /// A number stands for nothing.
    #[error("{value} is no {what}")]
    Value {
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: u32,
    },
}

/// Reads what stands in a message, from its first byte on.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// A number of 32 bits; `what` is for the error.
    ///
    /// # Errors
    /// Where the bytes end.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, XdrError> {
        self.fixed(what).map(u32::from_be_bytes)
    }

    /// A number of 64 bits.
    ///
    /// # Errors
    /// Where the bytes end.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, XdrError> {
        self.fixed(what).map(u64::from_be_bytes)
    }

    /// True or false.
    ///
    /// # Errors
    /// Where the bytes end, or it is neither 0 nor 1.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, XdrError> {
        match self.u32(what)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(XdrError::Value { what, value }),
        }
    }

    /// As many bytes, where that is a multiple of 4.
    ///
    /// # Errors
    /// Where the bytes end.
    pub fn fixed<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], XdrError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(XdrError::Short(what))?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// Bytes with their length in front, at most `limit`.
    ///
    /// # Errors
    /// Where the bytes end, or there are more.
    pub fn opaque(&mut self, what: &'static str, limit: u32) -> Result<&'a [u8], XdrError> {
        let length = self.u32(what)?;
        if length > limit {
            return Err(XdrError::TooLong {
                what,
                length,
                limit,
            });
        }
        let length = length as usize;
        let bytes = self.rest.get(..length).ok_or(XdrError::Short(what))?;
        let filled = self.rest.get(length.next_multiple_of(4)..);
        self.rest = filled.ok_or(XdrError::Short(what))?;
        Ok(bytes)
    }
}

/// Writes a message.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Nothing is written yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes back what was written behind `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    /// A number of 32 bits.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// A number of 64 bits.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// True or false.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u32(value.into())
    }

    /// Bytes with their length in front.
    pub fn opaque(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.raw(bytes);
        let filled = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(filled, 0);
        self
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
}

/// The bytes that `length` bytes take with their length in front.
#[must_use]
pub fn opaque_length(length: usize) -> usize {
    4 + length.next_multiple_of(4)
}
