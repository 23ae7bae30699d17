//! As much of DNS messages (RFC 1035) as a forwarder has to understand: the question, and the addresses of an answer.

use std::net::Ipv4Addr;

/// Types of records.
pub(super) const A: u16 = 1;
pub(super) const AAAA: u16 = 28;

/// Response codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// There are no such records.
    Empty = 0,
    Malformed = 1,
    Failed = 2,
    NoSuchName = 3,
    NotSupported = 4,
}

const HEADER: usize = 12;
/// Bits of the header's flags.
const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const INTERNET: u16 = 1;

/// What a query asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// In lower case, without a dot at its end. Bytes that are in no host's name are written as `\DDD`, so that a dot is always the
    /// border of two labels.
    pub(super) name: String,
    /// The type of record.
    pub(super) kind: u16,
    /// Where the question ends.
    end: usize,
}

/// The question of a query, or why it is answered without one. None for what is no query at all.
pub(super) fn question(query: &[u8]) -> Option<Result<Question, Code>> {
    let flags = *query.get(2)?;
    if query.len() < HEADER || flags & RESPONSE != 0 {
        return None;
    }
    if flags & OPCODE != 0 {
        return Some(Err(Code::NotSupported));
    }
    let one = read(query, 4) == Some(1);
    Some(read_question(query).filter(|_| one).ok_or(Code::Malformed))
}

/// An answer without records.
pub(super) fn bare_answer(query: &[u8], question: Option<&Question>, code: Code) -> Vec<u8> {
    let end = question.map_or(HEADER, |question| question.end);
    let mut answer = query.get(..end).unwrap_or(query).to_vec();
    answer.resize(answer.len().max(HEADER), 0);
    answer[2] = RESPONSE | (answer[2] & (OPCODE | RECURSION_DESIRED));
    answer[3] = RECURSION_AVAILABLE | code as u8;
    answer[4..HEADER].fill(0);
    answer[5] = u8::from(question.is_some());
    answer
}

/// Whether `reply` is a reply to this very question.
pub(super) fn is_reply(reply: &[u8], id: [u8; 2], question: &Question) -> bool {
    let response = reply.get(2).is_some_and(|flags| flags & RESPONSE != 0);
    let same = read_question(reply).is_some_and(|asked| asked == *question);
    response && reply.get(..2) == Some(&id[..]) && same
}

/// The IPv4 addresses that a reply gives, and for how many seconds each. None where it cannot be understood.
pub(super) fn addresses(reply: &[u8], question: &Question) -> Option<Vec<(Ipv4Addr, u32)>> {
    let mut at = question.end;
    let mut found = Vec::new();
    for _ in 0..read(reply, 6)? {
        at = skip_name(reply, at)?;
        let (kind, class, length) = (read(reply, at)?, read(reply, at + 2)?, read(reply, at + 8)?);
        let seconds = (u32::from(read(reply, at + 4)?) << 16) | u32::from(read(reply, at + 6)?);
        at += 10;
        let data = reply.get(at..at + usize::from(length))?;
        at += data.len();
        if (kind, class) == (A, INTERNET) {
            found.push((Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?), seconds));
        }
    }
    Some(found)
}

fn read(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

fn read_question(message: &[u8]) -> Option<Question> {
    let (mut name, mut at) = (String::new(), HEADER);
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // Longer ones are pointers, which a first name has nothing to point to.
        if length > 63 || at + length > HEADER + 255 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        for byte in message.get(at..at + length)? {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(*byte)),
                b'A'..=b'Z' => name.push(char::from(byte.to_ascii_lowercase())),
                other => name.push_str(&format!("\\{other:03}")),
            }
        }
        at += length;
    }
    let (kind, class) = (read(message, at)?, read(message, at + 2)?);
    (class == INTERNET).then_some(Question { name, kind, end: at + 4 })
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            // A pointer ends a name.
            192.. => return Some(at + 2),
            64..=191 => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut query = vec![7, 9, RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.push(0);
        query.extend([kind.to_be_bytes(), [0, 1]].concat());
        query
    }

    fn asked(query: &[u8]) -> Question {
        question(query).unwrap().unwrap()
    }

    #[test]
    fn questions_are_read_and_what_is_none_is_told_apart() {
        let read = asked(&query("WWW.Example.com", A));
        assert_eq!((read.name.as_str(), read.kind), ("www.example.com", A));
        assert_eq!(asked(&query("a b\u{1}.com", AAAA)).name, "a\\032b\\001.com");
        let mut dotted = query("a-b.com", A);
        dotted[HEADER + 2] = b'.';
        assert_eq!(asked(&dotted).name, "a\\046b.com", "a dot inside a label is none between two");

        assert_eq!(question(&[]), None);
        let mut reply = query("a.com", A);
        reply[2] |= RESPONSE;
        assert_eq!(question(&reply), None, "two forwarders must not answer each other for ever");
        let mut update = query("a.com", A);
        update[2] |= 5 << 3;
        assert_eq!(question(&update), Some(Err(Code::NotSupported)));
        let mut two = query("a.com", A);
        two[5] = 2;
        assert_eq!(question(&two), Some(Err(Code::Malformed)));
        let mut pointer = query("a.com", A);
        pointer[HEADER] = 0xc0;
        assert_eq!(question(&pointer), Some(Err(Code::Malformed)));
        let long = query(&vec!["x".repeat(63); 4].join("."), A);
        assert_eq!(question(&long), Some(Err(Code::Malformed)));
    }

    #[test]
    fn answers_without_records_repeat_the_question() {
        let mut asking = query("a.com", A);
        asking.extend([0; 11]); // Additional records are dropped.
        let question = asked(&asking);
        let answer = bare_answer(&asking, Some(&question), Code::NoSuchName);
        assert_eq!(answer[..HEADER], [7, 9, 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert!(is_reply(&answer, [7, 9], &question));
        assert!(!is_reply(&answer, [7, 8], &question));
        assert!(!is_reply(&asking, [7, 9], &question));
        assert!(!is_reply(&answer, [7, 9], &asked(&query("b.com", A))));
        assert_eq!(bare_answer(&asking[..4], None, Code::Malformed).len(), HEADER);
    }

    #[test]
    fn addresses_are_found_behind_aliases() {
        let mut reply = query("a.com", A);
        let question = asked(&reply);
        reply[2] |= RESPONSE;
        reply[7] = 3;
        let record = |kind: u16, seconds: u32, data: &[u8]| {
            let length = u16::try_from(data.len()).unwrap();
            [
                &[0xc0, 12][..],
                &kind.to_be_bytes(),
                &[0, 1],
                &seconds.to_be_bytes(),
                &length.to_be_bytes(),
                data,
            ]
            .concat()
        };
        reply.extend(record(5, 300, b"\x01b\xc0\x0e"));
        reply.extend(record(A, 60, &[93, 184, 0, 9]));
        reply.extend(record(AAAA, 60, &[1; 16]));
        assert_eq!(addresses(&reply, &question), Some(vec![(Ipv4Addr::new(93, 184, 0, 9), 60)]));
        reply.pop();
        assert_eq!(addresses(&reply, &question), None, "cut short");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_no_panic(message in proptest::collection::vec(any::<u8>(), 0..600), with_header: bool) {
            let mut message = message;
            if with_header {
                message.splice(..0, [0, 0, 0, 0, 0, 1, 0, 9, 0, 0, 0, 0]);
            }
            if let Some(read) = question(&message) {
                let read = read.ok();
                let answer = bare_answer(&message, read.as_ref(), Code::Failed);
                prop_assert!(answer.len() >= HEADER);
                if let Some(read) = read {
                    prop_assert!(read.name.len() <= 4 * 255);
                    let _ = addresses(&message, &read);
                    let _ = is_reply(&message, [0, 0], &read);
                }
            }
        }
    }
}
