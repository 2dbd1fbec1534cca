//! The byte form of small things in every format: little-endian integers, LEB128 varints, counted bytes.
//!
//! Decoding never panics and never reserves memory on the word of the input.

use bytes::Bytes;

/// Bytes that no encoder writes; says what was expected and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what} at byte {offset_bytes}")]
pub struct DecodeError {
    pub what: &'static str,
    pub offset_bytes: usize,
}

/// Appends encoded values to a buffer.
#[derive(Debug, Default)]
pub struct Encoder {
    out: Vec<u8>,
}

impl Encoder {
    #[must_use]
    pub fn new() -> Encoder {
        Encoder::default()
    }

    /// Continues after what `out` already holds.
    #[must_use]
    pub fn after(out: Vec<u8>) -> Encoder {
        Encoder { out }
    }

    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    /// What was appended so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.out
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub fn bool(&mut self, value: bool) {
        self.out.push(u8::from(value));
    }

    pub fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// LEB128: seven bits a byte, lowest first.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// A varint of the zigzag form, short for small magnitudes of either sign.
    pub fn signed_varint(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)) as u64);
    }

    /// The length as a varint, then the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    /// The bytes alone; the reader must know how many.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
}

/// Takes encoded values off the front of a slice.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    #[must_use]
    pub fn new(input: &'a [u8]) -> Decoder<'a> {
        Decoder { input, at: 0 }
    }

    /// An error at the present place.
    #[must_use]
    pub fn error(&self, what: &'static str) -> DecodeError {
        DecodeError { what, offset_bytes: self.at }
    }

    #[must_use]
    pub fn remaining(&self) -> usize {
        self.input.len() - self.at
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// # Errors
    /// `DecodeError` if anything is left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.is_empty() { Ok(()) } else { Err(self.error("end")) }
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// `DecodeError` if fewer are left.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        if len > self.remaining() {
            return Err(self.error("length"));
        }
        let bytes = &self.input[self.at..self.at + len];
        self.at += len;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    /// # Errors
    /// `DecodeError` at the end of the input; so do all readers of integers.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// # Errors
    /// `DecodeError` for anything but 0 and 1.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.error("truth value")),
        }
    }

    /// # Errors
    /// See [`Decoder::u8`].
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// # Errors
    /// See [`Decoder::u8`].
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// # Errors
    /// See [`Decoder::u8`].
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// # Errors
    /// See [`Decoder::u8`].
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// # Errors
    /// `DecodeError` if the number does not end within ten bytes or exceeds 64 bits.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(self.error("varint"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.error("varint"))
    }

    /// # Errors
    /// `DecodeError` if the number exceeds 32 bits.
    pub fn varint_u32(&mut self) -> Result<u32, DecodeError> {
        let value = self.varint()?;
        u32::try_from(value).map_err(|_| self.error("32-bit number"))
    }

    /// # Errors
    /// See [`Decoder::varint`].
    pub fn signed_varint(&mut self) -> Result<i64, DecodeError> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Counted bytes, copied.
    ///
    /// # Errors
    /// `DecodeError` if the count exceeds what is left.
    pub fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        Ok(Bytes::copy_from_slice(self.slice()?))
    }

    /// Counted bytes, borrowed.
    ///
    /// # Errors
    /// `DecodeError` if the count exceeds what is left.
    pub fn slice(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.varint()?;
        let len = usize::try_from(len).map_err(|_| self.error("length"))?;
        self.raw(len)
    }

    /// Counted bytes that can be a name in a directory, copied.
    ///
    /// # Errors
    /// `DecodeError` for a name no directory can hold.
    pub fn name(&mut self) -> Result<Bytes, DecodeError> {
        Ok(Bytes::copy_from_slice(self.name_slice()?))
    }

    /// Counted bytes that can be a name in a directory, borrowed.
    ///
    /// # Errors
    /// `DecodeError` for a name no directory can hold.
    pub fn name_slice(&mut self) -> Result<&'a [u8], DecodeError> {
        let name = self.slice()?;
        let impossible =
            matches!(name, b"" | b"." | b"..") || name.iter().any(|&byte| byte == b'/' || byte == 0);
        if impossible { Err(self.error("name")) } else { Ok(name) }
    }

    /// Counted UTF-8.
    ///
    /// # Errors
    /// `DecodeError` for other bytes.
    pub fn text(&mut self) -> Result<String, DecodeError> {
        let slice = self.slice()?;
        String::from_utf8(slice.to_vec()).map_err(|_| self.error("text"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_and_bytes_come_back(value: u64, signed: i64, bytes: Vec<u8>, flag: bool) {
            let mut out = Encoder::new();
            out.varint(value);
            out.signed_varint(signed);
            out.bytes(&bytes);
            out.bool(flag);
            let out = out.finish();
            let mut input = Decoder::new(&out);
            prop_assert_eq!(input.varint().unwrap(), value);
            prop_assert_eq!(input.signed_varint().unwrap(), signed);
            prop_assert_eq!(input.bytes().unwrap(), bytes);
            prop_assert_eq!(input.bool().unwrap(), flag);
            prop_assert!(input.finish().is_ok());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let mut input = Decoder::new(&bytes);
            let _ = super::super::NamespaceChange::decode(&mut input);
            let mut input = Decoder::new(&bytes);
            let _ = super::super::Mark::decode(&mut input);
        }
    }

    #[test]
    fn a_varint_beyond_64_bits_is_refused() {
        assert!(Decoder::new(&[0xff; 10]).varint().is_err());
        let mut largest = [0xff; 10];
        largest[9] = 1;
        assert_eq!(Decoder::new(&largest).varint(), Ok(u64::MAX));
    }
}
