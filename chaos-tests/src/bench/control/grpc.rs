//! As much of gRPC over HTTP/2 (RFC 9113) as putting a key into etcd takes.
//!
//! It keeps few requests under way on a connection, so that no flow-control window of the server
//! is ever used up, and takes an answer with a message for success: a failure has none.

use std::io;

use super::load::Protocol;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection's window, as large as can be; and how much of it we give back at a time.
const WINDOW: u32 = 0x7fff_0000;

/// Puts one key again and again.
pub(super) struct Put {
    next: u32,
    headers: Vec<u8>,
    message: Vec<u8>,
    /// Streams whose answer has a message already.
    answered: Vec<u32>,
}

impl Put {
    pub(super) fn new(key: &str, value: &[u8]) -> Self {
        // etcdserverpb.PutRequest: key = 1, value = 2.
        let mut request = Vec::new();
        for (field, bytes) in [(0x0a, key.as_bytes()), (0x12, value)] {
            request.push(field);
            put_varint(bytes.len(), &mut request);
            request.extend_from_slice(bytes);
        }
        // Not compressed, and its length.
        let mut message = vec![0];
        let length = u32::try_from(request.len()).expect("a short message");
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&request);
        Self {
            next: 1,
            headers: headers("/etcdserverpb.KV/Put"),
            message,
            answered: Vec::new(),
        }
    }
}

/// RFC 7541: fields of the static table, or literals without indexing and without Huffman's code.
fn headers(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).expect("a short header"));
        block.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], path);
    literal(&[0x01], "localhost");
    literal(&[0x0f, 0x10], "application/grpc");
    literal(&[0x00, 2, b't', b'e'], "trailers");
    block
}

fn put_varint(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("a short frame");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

impl Protocol for Put {
    fn begin(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        put_frame(SETTINGS, 0, 0, &[], out);
        put_frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes(), out);
    }

    fn request(&mut self, out: &mut Vec<u8>) -> u64 {
        let stream = self.next;
        self.next += 2;
        put_frame(HEADERS, END_HEADERS, stream, &self.headers, out);
        put_frame(DATA, END_STREAM, stream, &self.message, out);
        stream.into()
    }

    fn answers(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>) -> io::Result<Vec<(u64, bool)>> {
        let mut answers = Vec::new();
        let mut taken = 0;
        while let Some(([l0, l1, l2, kind, flags, s0, s1, s2, s3], rest)) =
            input[taken..].split_first_chunk::<9>()
        {
            let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
            let Some(payload) = rest.get(..length) else {
                break;
            };
            let stream = u32::from_be_bytes([*s0 & 0x7f, *s1, *s2, *s3]);
            match *kind {
                SETTINGS if flags & ACK == 0 => put_frame(SETTINGS, ACK, 0, &[], out),
                PING if flags & ACK == 0 => put_frame(PING, ACK, 0, payload, out),
                DATA if !payload.is_empty() => self.answered.push(stream),
                GOAWAY => return Err(io::ErrorKind::ConnectionAborted.into()),
                _ => {}
            }
            if matches!(*kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                let at = self.answered.iter().position(|found| *found == stream);
                let is_done = at.map(|at| self.answered.swap_remove(at)).is_some();
                answers.push((stream.into(), is_done));
            }
            taken += 9 + length;
        }
        input.drain(..taken);
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_a_message_is_success_and_one_without_is_not() {
        let mut put = Put::new("key", &[7; 200]);
        let mut out = Vec::new();
        put.begin(&mut out);
        assert_eq!((put.request(&mut out), put.request(&mut out)), (1, 3));
        let mut input = Vec::new();
        put_frame(SETTINGS, 0, 0, &[0; 6], &mut input);
        put_frame(HEADERS, END_HEADERS, 1, &[0x88], &mut input);
        put_frame(DATA, 0, 1, &[0, 0, 0, 0, 2, 8, 1], &mut input);
        put_frame(HEADERS, END_HEADERS | END_STREAM, 3, &[0x88], &mut input);
        put_frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88], &mut input);
        let rest = input.split_off(input.len() - 3);
        out.clear();
        assert_eq!(put.answers(&mut input, &mut out).unwrap(), [(3, false)]);
        assert_eq!(out[3..5], [SETTINGS, ACK]);
        input.extend(rest);
        assert_eq!(put.answers(&mut input, &mut out).unwrap(), [(1, true)]);
        assert!(input.is_empty());
    }
}
