//! Bytes of the broker, read as a session reads them but without a connection: through the frame filter, the client library's parsers
//! and our own reading of properties. For the fuzz targets, which have nothing but bytes.

use lapin::protocol::basic::parse_properties;
use lapin::protocol::parse_class;
use lapin::types::parsing::ParserError;

use super::wire::FrameFilter;
use crate::broker::message::{Properties, from_library, to_library};

/// Type, channel and size in front of a frame's payload.
const FRAME_HEAD_BYTES: usize = 7;
/// The mark behind it.
const FRAME_END: u8 = 0xce;
/// Class, weight and body size in front of a message's properties.
const CONTENT_HEAD_BYTES: usize = 12;

/// The two kinds of frames that carry what a stranger has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Names: of an exchange, a routing key, a consumer.
    Method,
    /// The properties of a message.
    ContentHeader,
}

/// What became of one frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Read {
    /// A method that the library understands.
    Method,
    /// The properties of a message. The flag is true when headers were left out because of the limits.
    Properties(Box<Properties>, bool),
    /// The library does not understand it, and says why.
    Refused(String),
}

/// Reads one frame with this payload, which the broker may send in pieces of `piece_bytes`. None when the filter holds it back or
/// changes its length, which it must not.
#[must_use]
pub fn read_frame(kind: FrameKind, payload: &[u8], piece_bytes: usize) -> Option<Read> {
    let number = match kind {
        FrameKind::Method => 1,
        FrameKind::ContentHeader => 2,
    };
    let size = u32::try_from(payload.len()).ok()?;
    let frame = [&[number, 0, 1][..], &size.to_be_bytes(), payload, &[FRAME_END]].concat();
    let mut filter = FrameFilter::default();
    for piece in frame.chunks(piece_bytes.max(1)) {
        filter.push(piece).ok()?;
    }
    let mut passed = vec![0; frame.len() + 1];
    let count = filter.take(&mut passed);
    if count != frame.len() || !filter.is_drained() {
        return None;
    }
    let payload = &passed[FRAME_HEAD_BYTES..count - 1];
    Some(match kind {
        FrameKind::Method => parse_class(payload).map_or_else(refused, |(_, _)| Read::Method),
        FrameKind::ContentHeader => match payload.get(CONTENT_HEAD_BYTES..) {
            Some(properties) => parse_properties(properties).map_or_else(refused, |(_, properties)| {
                let (properties, truncated) = from_library(&properties);
                Read::Properties(Box::new(properties), truncated)
            }),
            None => Read::Refused("it breaks off".to_owned()),
        },
    })
}

/// The same properties on the way to the library and back, as a letter or a notification that repeats them would send them.
#[must_use]
pub fn there_and_back(properties: &Properties) -> Properties {
    from_library(&to_library(properties)).0
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_or_else")]
fn refused(error: ParserError) -> Read {
    Read::Refused(error.to_string())
}
