//! The cases of RFC 6455, section 5, with exact bytes; round trips; and malformed input.

use proptest::prelude::*;

use super::{
    fuzzed::{MASK, Owned, decode_all, frame},
    *,
};

fn decode(bytes: &[u8]) -> Result<Vec<Owned>, Violation> {
    let whole = decode_all(1024, bytes, usize::MAX);
    assert_eq!(decode_all(1024, bytes, 1), whole, "byte by byte");
    whole
}

fn text(text: &str) -> Owned {
    Owned::Text(text.to_owned())
}

#[test]
fn the_masked_hello_of_the_rfc_decodes() {
    let bytes = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(decode(&bytes), Ok(vec![text("Hello")]));
}

#[test]
fn a_text_is_given_as_the_bytes_that_were_read() {
    let mut bytes = frame(0x81, b"in place");
    let place = bytes.as_ptr_range();
    let mut decoder = Decoder::new(1024);
    let Ok(Some(Incoming::Text(text))) = decoder.decode(&mut bytes, &mut 0) else { panic!("a text") };
    assert!(text == "in place" && place.contains(&text.as_ptr()));
}

#[test]
fn lengths_have_one_form_each_and_the_bound_is_the_message() {
    for len in [0, 1, 125, 126, 1023, 1024] {
        let text = "x".repeat(len);
        assert_eq!(decode(&frame(0x81, text.as_bytes())), Ok(vec![Owned::Text(text)]));
    }
    let large = "x".repeat(70_000);
    assert_eq!(decode_all(70_000, &frame(0x81, large.as_bytes()), 4096), Ok(vec![Owned::Text(large)]));
    let longer_than_needed: [&[u8]; 2] = [&[0x81, 0xFE, 0, 125], &[0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]];
    for bytes in longer_than_needed {
        assert_eq!(decode(&[bytes, &MASK].concat()), Err(Violation::Protocol));
    }
    let negative = [0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(decode(&[&negative[..], &MASK].concat()), Err(Violation::Protocol));
}

#[test]
fn oversized_frames_are_refused_by_their_header_alone() {
    let too_large: [&[u8]; 3] = [
        &[0x81, 0xFE, 4, 1],
        &[0x82, 0xFF, 0, 0, 0, 1, 0, 0, 0, 0],
        &[0x81, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
    ];
    for head in too_large {
        assert_eq!(decode(&[head, &MASK].concat()), Err(Violation::TooLarge));
    }
    let parts = [frame(0x01, &[b'x'; 1000]), frame(0x80, &[b'x'; 25])].concat();
    assert_eq!(decode(&parts), Err(Violation::TooLarge));
}

#[test]
fn frames_without_a_mask_reserved_bits_and_unknown_opcodes_are_refused() {
    assert_eq!(decode(&[0x81, 0x05, b'H', b'e', b'l', b'l', b'o']), Err(Violation::Protocol));
    for first in [0xC1, 0xA1, 0x91, 0x83, 0x87, 0x8B, 0x8F] {
        assert_eq!(decode(&frame(first, b"")), Err(Violation::Protocol), "{first:x}");
    }
}

#[test]
fn control_frames_are_short_and_whole_and_may_stand_between_parts() {
    assert_eq!(decode(&frame(0x89, b"ping")), Ok(vec![Owned::Ping(b"ping".to_vec())]));
    assert_eq!(decode(&frame(0x8A, b"")), Ok(vec![Owned::Pong]));
    assert_eq!(decode(&frame(0x89, &[0; 125])).map(|decoded| decoded.len()), Ok(1));
    assert_eq!(decode(&frame(0x89, &[0; 126])), Err(Violation::Protocol));
    assert_eq!(decode(&frame(0x09, b"")), Err(Violation::Protocol));
    let between = [frame(0x01, b"Hel"), frame(0x89, b"?"), frame(0x80, b"lo")].concat();
    assert_eq!(decode(&between), Ok(vec![Owned::Ping(b"?".to_vec()), text("Hello")]));
}

#[test]
fn parts_belong_to_one_message() {
    let three = [frame(0x01, b"a"), frame(0x00, b""), frame(0x00, b"b"), frame(0x80, b"c")].concat();
    assert_eq!(decode(&three), Ok(vec![text("abc")]));
    assert_eq!(decode(&[frame(0x02, b"a"), frame(0x80, &[0xFF])].concat()), Ok(vec![Owned::Binary]));
    assert_eq!(decode(&frame(0x80, b"x")), Err(Violation::Protocol), "goes on with nothing");
    assert_eq!(decode(&frame(0x00, b"x")), Err(Violation::Protocol), "goes on with nothing");
    let second = [frame(0x01, b"a"), frame(0x81, b"b")].concat();
    assert_eq!(decode(&second), Err(Violation::Protocol), "begins anew within a message");
}

#[test]
fn parts_that_carry_nothing_come_to_an_end() {
    let empty = [frame(0x01, b""), frame(0x00, b"").repeat(100)].concat();
    assert_eq!(decode(&empty), Err(Violation::Parts));
    let spoken = [frame(0x01, b""), frame(0x00, b"x").repeat(1000), frame(0x80, b"")].concat();
    assert_eq!(decode(&spoken), Ok(vec![Owned::Text("x".repeat(1000))]));
}

#[test]
fn a_text_is_utf_8_also_where_a_character_spans_parts() {
    assert_eq!(decode(&frame(0x81, &[0xC3, 0x28])), Err(Violation::Utf8));
    assert_eq!(decode(&frame(0x81, &[0xC3])), Err(Violation::Utf8));
    let split = [frame(0x01, &[0xE2, 0x82]), frame(0x80, &[0xAC])].concat();
    assert_eq!(decode(&split), Ok(vec![text("€")]));
    let unfinished = [frame(0x01, b"x"), frame(0x80, &[0xE2, 0x82])].concat();
    assert_eq!(decode(&unfinished), Err(Violation::Utf8));
    // The error is found in the first part, not only at the end of the message.
    let early = [frame(0x01, &[0xFF]), frame(0x00, b"x")].concat();
    assert_eq!(decode(&early), Err(Violation::Utf8));
}

#[test]
fn a_close_frame_names_an_allowed_code_or_none() {
    assert_eq!(decode(&frame(0x88, b"")), Ok(vec![Owned::Close(None)]));
    assert_eq!(decode(&frame(0x88, &[0x03, 0xE8, b'o', b'k'])), Ok(vec![Owned::Close(Some(1000))]));
    for code in [1001_u16, 1003, 1007, 1011, 1013, 3000, 4999] {
        assert_eq!(decode(&frame(0x88, &code.to_be_bytes())), Ok(vec![Owned::Close(Some(code))]));
    }
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, u16::MAX] {
        assert_eq!(decode(&frame(0x88, &code.to_be_bytes())), Err(Violation::Protocol), "{code}");
    }
    assert_eq!(decode(&frame(0x88, &[3])), Err(Violation::Protocol));
    assert_eq!(decode(&frame(0x88, &[0x03, 0xE8, 0xFF])), Err(Violation::Utf8));
}

#[test]
fn own_heads_are_the_shortest() {
    assert_eq!(FrameHead::new(Opcode::Text, 125).as_bytes(), [0x81, 125]);
    assert_eq!(FrameHead::new(Opcode::Ping, 0).as_bytes(), [0x89, 0]);
    assert_eq!(FrameHead::new(Opcode::Text, 126).as_bytes(), [0x81, 126, 0, 126]);
    assert_eq!(FrameHead::new(Opcode::Text, 0xFFFF).as_bytes(), [0x81, 126, 0xFF, 0xFF]);
    assert_eq!(FrameHead::new(Opcode::Text, 0x1_0000).as_bytes(), [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
}

/// Messages of a client with their bytes, each in one or more parts.
fn messages() -> impl Strategy<Value = Vec<(Owned, Vec<u8>)>> {
    let parts = |first: u8, content: Vec<u8>, cuts: Vec<usize>| {
        let mut bytes = Vec::new();
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % (content.len() + 1)).collect();
        cuts.sort_unstable();
        let mut from = 0;
        for (index, cut) in cuts.iter().enumerate() {
            bytes.extend(frame(if index == 0 { first } else { 0 }, &content[from..*cut]));
            from = *cut;
        }
        bytes.extend(frame(if cuts.is_empty() { 0x80 | first } else { 0x80 }, &content[from..]));
        bytes
    };
    let cuts = prop::collection::vec(any::<usize>(), 0..4);
    let one = prop_oneof![
        (".{0,200}", cuts.clone()).prop_map(move |(content, cuts)| {
            let bytes = parts(1, content.clone().into_bytes(), cuts);
            (Owned::Text(content), bytes)
        }),
        (prop::collection::vec(any::<u8>(), 0..200), cuts)
            .prop_map(move |(content, cuts)| (Owned::Binary, parts(2, content, cuts))),
        prop::collection::vec(any::<u8>(), 0..=125).prop_map(|content| {
            let bytes = frame(0x89, &content);
            (Owned::Ping(content), bytes)
        }),
        Just((Owned::Pong, frame(0x8A, b"?"))),
    ];
    prop::collection::vec(one, 0..6)
}

proptest! {
    #[test]
    fn encoded_frames_decode_however_the_bytes_are_split(messages in messages(), step in 1..400_usize) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let expected = messages.into_iter().map(|(content, _)| content).collect();
        prop_assert_eq!(decode_all(4096, &bytes, step), Ok(expected));
    }

    #[test]
    fn random_input_never_panics_and_is_bounded(
        messages in messages(), at in any::<usize>(), byte in any::<u8>(), step in 1..400_usize,
    ) {
        let mut bytes: Vec<u8> = messages.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        if !bytes.is_empty() {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = decode_all(300, &bytes, step);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), step in 1..300_usize) {
        let _ = decode_all(300, &bytes, step);
    }

    #[test]
    fn unmasking_restores_the_content(content in prop::collection::vec(any::<u8>(), 0..100), mask in any::<[u8; 4]>()) {
        let mut masked = content.clone();
        for (index, byte) in masked.iter_mut().enumerate() {
            *byte ^= mask[index % 4];
        }
        unmask(&mut masked, mask);
        prop_assert_eq!(masked, content);
    }
}

#[test]
fn mutated_frames_decode_the_same_however_they_are_split() {
    let corpus = [
        [frame(0x81, b"{\"type\":\"ping\"}"), frame(0x89, b"?")].concat(),
        [frame(0x01, "«H".as_bytes()), frame(0x89, b"between"), frame(0x00, b""), frame(0x80, "é»".as_bytes())]
            .concat(),
        [frame(0x02, &[0xFF; 130]), frame(0x80, &[1]), frame(0x8A, b"")].concat(),
        [frame(0x81, &[b'x'; 299]), frame(0x88, &[0x03, 0xE8, b'o', b'k'])].concat(),
        frame(0x88, b""),
    ];
    // The first byte is the length of the reads.
    let corpus: Vec<_> = corpus.iter().map(|bytes| [&[7], &bytes[..]].concat()).collect();
    chappe_mutations::run(fuzzed::FRAMES, &corpus);
}
