use proptest::prelude::*;

use super::*;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 0, 1][..], &size, payload, &[0xce]].concat()
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()][..], text].concat()
}

fn block(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// A content header with the given flags and properties.
fn content(flags: u16, properties: &[u8]) -> Vec<u8> {
    frame(
        FRAME_CONTENT_HEADER,
        &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &flags.to_be_bytes(), properties].concat(),
    )
}

const MESSAGE_ID: u16 = 1 << 7;
const HEADERS: u16 = 1 << 13;

fn filtered(bytes: &[u8]) -> Vec<u8> {
    let mut filter = FrameFilter::default();
    filter.push(bytes).unwrap();
    let mut out = vec![0; bytes.len() + 1];
    let count = filter.take(&mut out);
    out.truncate(count);
    out
}

/// `depth` lists inside each other in one header.
fn nested(depth: usize) -> Vec<u8> {
    let mut value = vec![b'V'];
    for _ in 0..depth {
        value = [&b"A"[..], &block(&value)].concat();
    }
    content(HEADERS, &block(&[short(b"x"), value].concat()))
}

#[test]
fn a_message_id_that_is_not_utf8_is_repaired_without_changing_its_length() {
    let hostile = content(MESSAGE_ID, &short(b"a\xff\xfeb"));
    assert_eq!(filtered(&hostile), content(MESSAGE_ID, &short(b"a??b")));
    let cut_in_the_middle = content(MESSAGE_ID, &short(b"ok\xe2\x82"));
    assert_eq!(filtered(&cut_in_the_middle), content(MESSAGE_ID, &short(b"ok??")));
    let fine = content(MESSAGE_ID, &short("grüße".as_bytes()));
    assert_eq!(filtered(&fine), fine);
}

#[test]
fn routing_keys_and_header_names_are_repaired_and_long_texts_are_left_alone() {
    let deliver = |key: &[u8]| {
        frame(
            FRAME_METHOD,
            &[&[0, 60, 0, 60][..], &short(b"tag"), &[0; 9], &short(b"exchange"), &short(key)].concat(),
        )
    };
    assert_eq!(filtered(&deliver(b"k\xff")), deliver(b"k?"));
    let header = |name: &[u8]| {
        let entry = [short(name), b"S".to_vec(), block(b"\xff is fine in a long text")].concat();
        content(HEADERS, &block(&entry))
    };
    assert_eq!(filtered(&header(b"n\x80")), header(b"n?"));
}

#[test]
fn lists_below_the_depth_limit_become_byte_arrays_of_the_same_length() {
    let fine = nested(HEADERS_WIRE_MAX_DEPTH);
    assert_eq!(filtered(&fine), fine);
    let deep = nested(HEADERS_WIRE_MAX_DEPTH + 1);
    let repaired = filtered(&deep);
    assert_eq!(repaired.len(), deep.len());
    assert_eq!(repaired.iter().filter(|byte| **byte == b'A').count(), HEADERS_WIRE_MAX_DEPTH);
    // The deepest that fits into a frame: 5 bytes a level.
    let deepest = nested(26_000);
    assert_eq!(filtered(&deepest).len(), deepest.len());
}

#[test]
fn frames_are_held_until_they_are_whole() {
    let whole = [content(MESSAGE_ID, &short(b"\xff")), frame(3, b"body"), frame(8, b"")].concat();
    let mut filter = FrameFilter::default();
    let mut out = Vec::new();
    for byte in &whole {
        filter.push(&[*byte]).unwrap();
        let mut one = [0; 3];
        while !filter.is_drained() {
            let count = filter.take(&mut one);
            out.extend_from_slice(&one[..count]);
        }
    }
    assert_eq!(out, [content(MESSAGE_ID, &short(b"?")), frame(3, b"body"), frame(8, b"")].concat());
}

#[test]
fn the_answer_of_another_protocol_version_passes() {
    assert_eq!(filtered(b"AMQP\x01\x01\x00\x0a"), b"AMQP\x01\x01\x00\x0a");
}

#[test]
fn a_frame_over_the_limit_is_an_error_and_not_waited_for() {
    let head = |size: usize| [&[3, 0, 1][..], &u32::try_from(size).unwrap().to_be_bytes()].concat();
    assert_eq!(FrameFilter::default().push(&head(FRAME_MAX_BYTES)), Ok(()));
    let over = FrameFilter::default().push(&head(FRAME_MAX_BYTES + 1));
    assert_eq!(over, Err(FrameTooLarge(FRAME_MAX_BYTES + 1)));
}

proptest! {
    /// Whatever the bytes, and however they are cut: no panic, no length changes, and bodies pass untouched.
    #[test]
    fn any_payload_passes_with_its_length(
        kind in 0_u8..10,
        payload in prop::collection::vec(any::<u8>(), 0..300),
        cut in 1_usize..50,
    ) {
        let bytes = frame(kind, &payload);
        let mut filter = FrameFilter::default();
        for piece in bytes.chunks(cut) {
            filter.push(piece).unwrap();
        }
        let mut out = vec![0; bytes.len()];
        prop_assert_eq!(filter.take(&mut out), bytes.len());
        if kind != FRAME_METHOD && kind != FRAME_CONTENT_HEADER {
            prop_assert_eq!(out, bytes);
        }
    }

    /// A repaired text is UTF-8 of the same length, and valid text is untouched.
    #[test]
    fn repaired_text_is_utf8(bytes in prop::collection::vec(any::<u8>(), 0..255)) {
        let mut text = bytes.clone();
        repair_text(&mut text);
        prop_assert_eq!(text.len(), bytes.len());
        prop_assert!(std::str::from_utf8(&text).is_ok());
        if std::str::from_utf8(&bytes).is_ok() {
            prop_assert_eq!(text, bytes);
        }
    }
}
