//! The test vectors of RFC 5769. As in the server, messages are truncated after their integrity.

use chappe_turn::attributes::truncate_after_integrity;
use stun_types::{
    attribute::{Username, XorMappedAddress},
    message::{LongTermKeyCredentials, Message, MessageIntegrityCredentials, ShortTermCredentials},
};

/// 2.1, Sample Request.
const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b1 \
     51263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
/// 2.2, Sample IPv4 Response.
const IPV4_RESPONSE: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643000800142b91f599 \
     fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
/// 2.3, Sample IPv6 Response.
const IPV6_RESPONSE: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5 \
     bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c";
/// 2.4, Sample Request with Long-Term Authentication.
const LONG_TERM_REQUEST: &str = "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b900000015001c662f2f3439396b39 \
     353464364f4c33346f4c394653547679363473410014000b6578616d706c652e6f72670000080014f67024656dd64a3e02b8e0712e85c9a2 \
     8ca89666";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(&two.iter().collect::<String>(), 16).expect("hexadecimal")).collect()
}

fn short_term() -> MessageIntegrityCredentials {
    ShortTermCredentials::new("VOkJxbRl1RmTxUk/WvJxBt".to_owned()).into()
}

/// Parses a vector. Checks that its integrity is valid, and that it is invalid if any byte before it is changed.
fn check(hex: &str, credentials: &MessageIntegrityCredentials, look: impl Fn(&Message<'_>)) {
    let mut packet = bytes(hex);
    let is_valid = |packet: &mut [u8]| {
        let message = truncate_after_integrity(packet).map(Message::from_bytes);
        matches!(message, Some(Ok(message)) if message.validate_integrity(credentials).is_ok())
    };
    assert!(is_valid(&mut packet.clone()));
    for index in 0..packet.len() - 24 - 8 {
        let mut changed = packet.clone();
        changed[index] ^= 1;
        assert!(!is_valid(&mut changed), "byte {index}");
    }
    look(&Message::from_bytes(truncate_after_integrity(&mut packet).expect("a message")).expect("a message"));
}

#[test]
fn the_sample_request_is_valid() {
    check(REQUEST, &short_term(), |message| {
        assert_eq!(message.attribute::<Username>().expect("a name").username(), "evtj:h6vY");
    });
}

#[test]
fn the_sample_responses_are_valid_and_have_the_addresses_of_the_rfc() {
    for (response, expected) in
        [(IPV4_RESPONSE, "192.0.2.1:32853"), (IPV6_RESPONSE, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        check(response, &short_term(), |message| {
            let mapped = message.attribute::<XorMappedAddress>().expect("an address");
            assert_eq!(mapped.addr(message.transaction_id()).to_string(), expected);
        });
    }
}

#[test]
fn the_sample_request_with_long_term_authentication_is_valid() {
    // U+30DE U+30C8 U+30EA U+30C3 U+30AF U+30B9; the password is «TheMatrIX» after SASLprep.
    let name = "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}";
    let credentials = LongTermKeyCredentials::new(name.to_owned(), "TheMatrIX".to_owned(), "example.org".to_owned());
    let mut packet = bytes(LONG_TERM_REQUEST);
    let message = Message::from_bytes(truncate_after_integrity(&mut packet).expect("a message")).expect("a message");
    assert_eq!(message.attribute::<Username>().expect("a name").username(), name);
    assert!(message.validate_integrity(&credentials.into()).is_ok());
}
