//! The keys that are for Godwit and not for the guest: Ctrl-A and one more. Pure.

/// Ctrl-A, after which a key is for Godwit.
pub const ESCAPE: u8 = 0x01;

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Stop the guest and leave.
    Leave,
    /// Write a snapshot.
    Snapshot,
    /// Press the power button.
    PowerButton,
    /// Reset the guest.
    Reset,
    /// Say which keys there are.
    Help,
}

/// One thing that came out of the user's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes for the guest.
    Guest(Vec<u8>),
    /// Something for Godwit.
    Do(Action),
}

/// Takes the user's bytes apart. Remembers an escape key across reads.
#[derive(Debug, Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// What `bytes` ask for, in order.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<Input> {
        let mut inputs = Vec::new();
        for &byte in bytes {
            if std::mem::take(&mut self.escaped) {
                inputs.extend(escaped(byte));
            } else if byte == ESCAPE {
                self.escaped = true;
            } else if let Some(Input::Guest(run)) = inputs.last_mut() {
                run.push(byte);
            } else {
                inputs.push(Input::Guest(vec![byte]));
            }
        }
        inputs
    }
}

/// The key after Ctrl-A; what has no meaning is dropped.
fn escaped(byte: u8) -> Option<Input> {
    Some(match byte {
        ESCAPE => Input::Guest(vec![ESCAPE]),
        b'x' | b'X' => Input::Do(Action::Leave),
        b's' | b'S' => Input::Do(Action::Snapshot),
        b'p' | b'P' => Input::Do(Action::PowerButton),
        b'r' | b'R' => Input::Do(Action::Reset),
        b'h' | b'H' | b'?' => Input::Do(Action::Help),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(bytes: &[u8]) -> Input {
        Input::Guest(bytes.into())
    }

    #[test]
    fn what_is_not_escaped_is_the_guests_in_one_piece() {
        assert_eq!(
            Keys::default().read(b"ls -x\r\n\x03"),
            [guest(b"ls -x\r\n\x03")]
        );
        assert_eq!(Keys::default().read(b""), []);
    }

    #[test]
    fn an_escaped_key_is_an_action_in_its_place_among_the_bytes() {
        let inputs = Keys::default().read(b"a\x01sb\x01p\x01r\x01h\x01x");
        let wanted = [
            guest(b"a"),
            Input::Do(Action::Snapshot),
            guest(b"b"),
            Input::Do(Action::PowerButton),
            Input::Do(Action::Reset),
            Input::Do(Action::Help),
            Input::Do(Action::Leave),
        ];
        assert_eq!(inputs, wanted);
    }

    #[test]
    fn the_escape_key_twice_is_the_guests_once_also_across_reads() {
        let mut keys = Keys::default();
        assert_eq!(keys.read(b"a\x01"), [guest(b"a")]);
        assert_eq!(keys.read(b"\x01b"), [guest(b"\x01b")]);
    }

    #[test]
    fn an_escaped_key_without_meaning_is_dropped() {
        assert_eq!(Keys::default().read(b"\x01zok"), [guest(b"ok")]);
    }
}
