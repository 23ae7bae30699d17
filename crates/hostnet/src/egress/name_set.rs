//! Putting addresses into a slot's set of names by netlink: a sandbox waits for it each time that it resolves a name, so no program is
//! started for it.

use std::{io, net::Ipv4Addr, os::fd::OwnedFd, sync::Mutex, sync::PoisonError, time::Duration};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use super::rules::{NAMES, TABLE};

/// Of the kernel's `nfnetlink.h` and `nf_tables.h`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEW_ELEMENT: u16 = (SUBSYSTEM << 8) | 12;
const DELETE_ELEMENT: u16 = (SUBSYSTEM << 8) | 14;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const CREATE: u16 = 0x400;
const ERROR: u16 = 0x2;
const FAMILY_INET: u8 = 1;
const NESTED: u16 = 0x8000;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_USER_DATA: u16 = 6;
const DATA_VALUE: u16 = 1;
/// Of the user data that `nft` reads and writes: a comment, at most this long with the zero at its end.
const COMMENT: u8 = 0;
const COMMENT_LENGTH: usize = 128;

/// A way to the set of one slot. Its socket is of the namespace that it was opened in.
#[derive(Debug)]
pub(super) struct NameSet(Mutex<OwnedFd>);

impl NameSet {
    /// In the namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        Ok(Self(Mutex::new(socket)))
    }

    /// Lets addresses be reached from now on, for the time that comes with each, under the name that they were resolved from. Those that
    /// are there already get the new time. In force when this returns; all of them or none.
    pub(super) fn admit(&self, name: &str, addresses: &[(Ipv4Addr, Duration)]) -> io::Result<()> {
        let batch = batch(name, addresses);
        let last = batch.acknowledged;
        // One at a time: each reads the answers to what it wrote.
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(&*socket, &batch.bytes, SendFlags::empty())?;
        loop {
            // All answers are there when the kernel has taken the request.
            let mut answers = [0; 8_192];
            let (length, _) = recv(&*socket, &mut answers, RecvFlags::DONTWAIT)?;
            if let Some(outcome) = outcome(&answers[..length], last) {
                return outcome;
            }
        }
    }
}

/// The outcome that a datagram of answers tells: of the last message, or of the first that failed.
fn outcome(mut answers: &[u8], last: u32) -> Option<io::Result<()>> {
    while let Some(header) = answers.get(..20) {
        let word = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&header[at..at + 4]);
            u32::from_ne_bytes(bytes)
        };
        let (length, kind, sequence) = (word(0), word(4) & 0xffff, word(8));
        let code = i32::from_ne_bytes(word(16).to_ne_bytes());
        if kind == u32::from(ERROR) {
            if code != 0 {
                return Some(Err(io::Error::from_raw_os_error(-code)));
            }
            if sequence == last {
                return Some(Ok(()));
            }
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX).max(20).next_multiple_of(4);
        answers = answers.get(length..).unwrap_or_default();
    }
    None
}

/// Messages that the kernel takes as one transaction.
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    /// The last message that the kernel answers.
    acknowledged: u32,
}

fn batch(name: &str, addresses: &[(Ipv4Addr, Duration)]) -> Batch {
    let comment = if name.len() < COMMENT_LENGTH { Some(name) } else { None };
    let keys: Vec<_> = addresses.iter().map(|(address, _)| element(*address, None, None)).collect();
    let timed: Vec<_> =
        addresses.iter().map(|(address, left)| element(*address, Some(*left), comment)).collect();
    let mut batch = Batch { bytes: Vec::new(), sequence: 0, acknowledged: 0 };
    batch.message(BATCH_BEGIN, REQUEST, (0, SUBSYSTEM), &[]);
    // An element's time cannot be changed. Added first, so that there is one to be removed; nobody sees what is in between.
    batch.message(NEW_ELEMENT, REQUEST | CREATE, (FAMILY_INET, 0), &elements(&keys));
    batch.message(DELETE_ELEMENT, REQUEST, (FAMILY_INET, 0), &elements(&keys));
    batch.message(NEW_ELEMENT, REQUEST | CREATE | ACKNOWLEDGE, (FAMILY_INET, 0), &elements(&timed));
    batch.acknowledged = batch.sequence;
    batch.message(BATCH_END, REQUEST, (0, SUBSYSTEM), &[]);
    batch
}

impl Batch {
    fn message(&mut self, kind: u16, flags: u16, (family, resource): (u8, u16), payload: &[u8]) {
        self.sequence += 1;
        let length = u32::try_from(20 + payload.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(payload);
    }
}

fn elements(elements: &[Vec<u8>]) -> Vec<u8> {
    let text = |text: &str| [text.as_bytes(), &[0]].concat();
    [
        attribute(LIST_TABLE, &text(TABLE)),
        attribute(LIST_SET, &text(NAMES)),
        attribute(LIST_ELEMENTS | NESTED, &elements.concat()),
    ]
    .concat()
}

fn element(address: Ipv4Addr, left: Option<Duration>, comment: Option<&str>) -> Vec<u8> {
    let key = attribute(DATA_VALUE, &address.octets());
    let mut content = attribute(ELEMENT_KEY | NESTED, &key);
    if let Some(left) = left {
        let milliseconds = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        content.extend(attribute(ELEMENT_TIMEOUT, &milliseconds.to_be_bytes()));
    }
    if let Some(comment) = comment {
        let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
        content
            .extend(attribute(ELEMENT_USER_DATA, &[&[COMMENT, length], comment.as_bytes(), &[0]].concat()));
    }
    attribute(ELEMENT | NESTED, &content)
}

fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + content.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
