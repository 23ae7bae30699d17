//! Cuts a stream of bytes into messages that are text wherever they can be, without ever cutting a character in two.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::exec::Encoding;

/// One output stream of a command.
///
/// The first bytes of a character whose rest has not come yet wait here: at most three.
#[derive(Debug, Default)]
pub(super) struct Utf8Stream {
    waiting: Vec<u8>,
}

/// One message's worth of output.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) data: String,
    pub(super) encoding: Encoding,
}

impl Utf8Stream {
    /// What can be sent now that `chunk` has come.
    pub(super) fn push(&mut self, chunk: &Bytes) -> Option<Piece> {
        let mut bytes = std::mem::take(&mut self.waiting);
        bytes.extend_from_slice(chunk);
        match String::from_utf8(bytes) {
            Ok(data) => Piece::text(data),
            Err(error) if error.utf8_error().error_len().is_none() => {
                // Only the end is missing.
                let valid = error.utf8_error().valid_up_to();
                let mut bytes = error.into_bytes();
                self.waiting = bytes.split_off(valid);
                String::from_utf8(bytes).ok().and_then(Piece::text)
            }
            Err(error) => Some(Piece::bytes(error.as_bytes())),
        }
    }

    /// How many bytes wait for the rest of their character.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What is left when the stream has ended: the character was never completed.
    pub(super) fn finish(&mut self) -> Option<Piece> {
        let rest = std::mem::take(&mut self.waiting);
        (!rest.is_empty()).then(|| Piece::bytes(&rest))
    }
}

impl Piece {
    fn text(data: String) -> Option<Self> {
        (!data.is_empty()).then_some(Self { data, encoding: Encoding::Utf8 })
    }

    fn bytes(data: &[u8]) -> Self {
        Self { data: STANDARD.encode(data), encoding: Encoding::Base64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn send(whole: &[u8], cuts: &[usize]) -> Vec<Piece> {
        let mut stream = Utf8Stream::default();
        let mut pieces = Vec::new();
        let mut rest = Bytes::copy_from_slice(whole);
        for cut in cuts {
            pieces.extend(stream.push(&rest.split_to(*cut % (rest.len() + 1))));
        }
        pieces.extend(stream.push(&rest));
        pieces.extend(stream.finish());
        pieces
    }

    fn received(pieces: &[Piece]) -> Vec<u8> {
        let bytes = |piece: &Piece| match piece.encoding {
            Encoding::Utf8 => piece.data.clone().into_bytes(),
            Encoding::Base64 => STANDARD.decode(&piece.data).unwrap(),
        };
        pieces.iter().flat_map(bytes).collect()
    }

    proptest! {
        #[test]
        fn text_arrives_as_text_wherever_it_is_cut(
            text in "\\PC{0,40}", cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let pieces = send(text.as_bytes(), &cuts);
            prop_assert!(pieces.iter().all(|piece| piece.encoding == Encoding::Utf8 && !piece.data.is_empty()));
            prop_assert_eq!(received(&pieces), text.into_bytes());
        }

        #[test]
        fn nothing_is_lost_or_changed_whatever_the_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            prop_assert_eq!(received(&send(&bytes, &cuts)), bytes);
        }
    }
}
