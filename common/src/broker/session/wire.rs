//! Makes what comes from the broker harmless for the client library, in place, before the library parses it.
//!
//! AMQP lets a publisher put anything into names and headers, and RabbitMQ passes it on. Two things in there end the
//! library, and with it every consumer that is offered the message, again and again:
//!
//! - a name that is not UTF-8 (message id, routing key, header name ...) is a parse error: the connection ends;
//! - headers nested some 2,000 deep overflow the stack of the library's thread: the process ends.
//!
//! So every frame is looked at. Bytes that are not UTF-8 become `?`, and a list or table below the depth limit
//! becomes a byte array, which has the same layout: no length ever changes. The message then arrives like any other,
//! and the receiver decides what it is worth.

use crate::broker::limits::HEADERS_WIRE_MAX_DEPTH;

/// Type, channel and size in front of a frame's payload.
const FRAME_HEAD_BYTES: usize = 7;
/// The mark behind it.
const FRAME_END_BYTES: usize = 1;
/// Largest frame that is waited for; frames are negotiated to 128 KiB.
const FRAME_MAX_BYTES: usize = 1024 * 1024;
/// Consumed bytes are removed from the buffer when there are this many.
const COMPACT_AT_BYTES: usize = 256 * 1024;

const FRAME_METHOD: u8 = 1;
const FRAME_CONTENT_HEADER: u8 = 2;

/// What the broker sends instead of frames when it speaks another version of the protocol.
const PROTOCOL_HEADER: &[u8] = b"AMQP";

/// The frame is larger than any that was negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker announced a frame of {0} bytes; the limit is {FRAME_MAX_BYTES}")]
pub(super) struct FrameTooLarge(usize);

/// Collects bytes into frames and hands out whole ones, made harmless.
#[derive(Debug, Default)]
pub(super) struct FrameFilter {
    buffer: Vec<u8>,
    /// Everything before this has been handed out.
    taken: usize,
    /// Everything before this is ready to be handed out.
    ready: usize,
    /// Frames have been seen: the protocol header cannot come any more.
    framed: bool,
}

impl FrameFilter {
    /// Takes in what was read from the connection.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), FrameTooLarge> {
        if self.taken >= COMPACT_AT_BYTES || self.taken == self.buffer.len() {
            self.buffer.drain(..self.taken);
            self.ready -= self.taken;
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
        if !self.framed && self.buffer.starts_with(PROTOCOL_HEADER) {
            self.ready = self.buffer.len();
            return Ok(());
        }
        while let Some(frame_bytes) = frame_length(&self.buffer[self.ready..])? {
            let end = self.ready + frame_bytes;
            if self.buffer.len() < end {
                break;
            }
            self.framed = true;
            repair(&mut self.buffer[self.ready..end]);
            self.ready = end;
        }
        Ok(())
    }

    /// Moves what is ready into `to`, as much as fits; returns how much that was.
    pub(super) fn take(&mut self, to: &mut [u8]) -> usize {
        let count = to.len().min(self.ready - self.taken);
        to[..count].copy_from_slice(&self.buffer[self.taken..self.taken + count]);
        self.taken += count;
        count
    }

    /// True when nothing is ready.
    pub(super) fn is_drained(&self) -> bool {
        self.taken == self.ready
    }
}

/// The length of the frame that begins here, once its head is there.
fn frame_length(bytes: &[u8]) -> Result<Option<usize>, FrameTooLarge> {
    let Some([_, _, _, size @ ..]) = bytes.first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
    let payload = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
    if payload > FRAME_MAX_BYTES {
        return Err(FrameTooLarge(payload));
    }
    Ok(Some(FRAME_HEAD_BYTES + payload + FRAME_END_BYTES))
}

/// Makes one whole frame harmless. What is not understood is left as it is: the library will say so.
fn repair(frame: &mut [u8]) {
    let end = frame.len() - FRAME_END_BYTES;
    let kind = frame[0];
    let mut cursor = Cursor { bytes: &mut frame[FRAME_HEAD_BYTES..end], at: 0 };
    let _ = match kind {
        FRAME_METHOD => cursor.method(),
        FRAME_CONTENT_HEADER => cursor.content_header(),
        _ => Some(()),
    };
}

/// Walks over the payload of a frame; every step is `None` at its end.
struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    /// Methods that carry names which somebody else has chosen, or texts that the broker may have cut.
    fn method(&mut self) -> Option<()> {
        const CONNECTION_CLOSE: (u16, u16) = (10, 50);
        const CHANNEL_CLOSE: (u16, u16) = (20, 40);
        const RETURN: (u16, u16) = (60, 50);
        const DELIVER: (u16, u16) = (60, 60);
        const GET_OK: (u16, u16) = (60, 71);
        let id = (self.u16()?, self.u16()?);
        match id {
            CONNECTION_CLOSE | CHANNEL_CLOSE => {
                self.skip(2)?;
                self.short_text()
            }
            RETURN => {
                self.skip(2)?;
                self.short_text()?;
                self.short_text()?;
                self.short_text()
            }
            DELIVER => {
                self.short_text()?;
                self.skip(9)?;
                self.short_text()?;
                self.short_text()
            }
            GET_OK => {
                self.skip(9)?;
                self.short_text()?;
                self.short_text()
            }
            _ => Some(()),
        }
    }

    fn content_header(&mut self) -> Option<()> {
        const CLASS_WEIGHT_AND_SIZE_BYTES: usize = 12;
        /// The properties in the order of their flags, from the highest bit.
        const PROPERTIES: [Property; 14] = [
            Property::Text,
            Property::Text,
            Property::Table,
            Property::Fixed(1),
            Property::Fixed(1),
            Property::Text,
            Property::Text,
            Property::Text,
            Property::Text,
            Property::Fixed(8),
            Property::Text,
            Property::Text,
            Property::Text,
            Property::Text,
        ];
        self.skip(CLASS_WEIGHT_AND_SIZE_BYTES)?;
        let flags = self.u16()?;
        for (bit, property) in (0..16).rev().zip(PROPERTIES) {
            if flags & (1 << bit) == 0 {
                continue;
            }
            match property {
                Property::Text => self.short_text()?,
                Property::Fixed(bytes) => self.skip(bytes)?,
                Property::Table => self.table(HEADERS_WIRE_MAX_DEPTH)?,
            }
        }
        Some(())
    }

    fn table(&mut self, depth: usize) -> Option<()> {
        let end = self.block_end()?;
        while self.at < end {
            self.short_text()?;
            self.value(depth)?;
        }
        Some(())
    }

    fn list(&mut self, depth: usize) -> Option<()> {
        let end = self.block_end()?;
        while self.at < end {
            self.value(depth)?;
        }
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        const BYTE_ARRAY: u8 = b'x';
        let type_at = self.at;
        let kind = *self.bytes.get(type_at)?;
        self.skip(1)?;
        match kind {
            b'A' | b'F' if depth == 0 => {
                *self.bytes.get_mut(type_at)? = BYTE_ARRAY;
                self.skip_block()
            }
            b'A' => self.list(depth - 1),
            b'F' => self.table(depth - 1),
            b'S' | b'x' => self.skip_block(),
            b't' | b'b' | b'B' => self.skip(1),
            b's' | b'u' | b'U' => self.skip(2),
            b'i' | b'I' | b'f' => self.skip(4),
            b'D' => self.skip(5),
            b'l' | b'L' | b'd' | b'T' => self.skip(8),
            b'V' => Some(()),
            _ => None,
        }
    }

    /// Reads the length of a block and returns where it ends.
    fn block_end(&mut self) -> Option<usize> {
        let size = self.bytes.get(self.at..)?.first_chunk::<4>().copied()?;
        self.skip(4)?;
        let end = self.at.checked_add(usize::try_from(u32::from_be_bytes(size)).ok()?)?;
        (end <= self.bytes.len()).then_some(end)
    }

    fn skip_block(&mut self) -> Option<()> {
        self.at = self.block_end()?;
        Some(())
    }

    fn short_text(&mut self) -> Option<()> {
        let size = usize::from(*self.bytes.get(self.at)?);
        let text = self.bytes.get_mut(self.at + 1..self.at + 1 + size)?;
        repair_text(text);
        self.skip(1 + size)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.bytes.get(self.at..)?.first_chunk::<2>().copied()?;
        self.skip(2)?;
        Some(u16::from_be_bytes(bytes))
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count)?;
        (self.at <= self.bytes.len()).then_some(())
    }
}

#[derive(Clone, Copy)]
enum Property {
    Text,
    Table,
    Fixed(usize),
}

/// Replaces every byte that is not part of valid UTF-8.
fn repair_text(text: &mut [u8]) {
    let mut from = 0;
    while let Err(error) = std::str::from_utf8(&text[from..]) {
        let start = from + error.valid_up_to();
        let end = error.error_len().map_or(text.len(), |bad| start + bad);
        text[start..end].fill(b'?');
        from = end;
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
