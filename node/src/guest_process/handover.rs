//! Files over a Unix socket: how a guest process hands its guest's memory and taps to another process
//! of the same host.
//!
//! After [`Response::HandedOver`](godwit_proto::process::Response::HandedOver) the client sends one byte,
//! so that no descriptor arrives together with the answer, where a plain read would lose it. Then come
//! as many messages of one byte, each with one descriptor, as the answer told.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::connection::FRAME_TIME;

/// Sends `files` to a client that asks for them.
pub(super) fn send<'files>(
    mut stream: &UnixStream,
    files: impl Iterator<Item = &'files File>,
) -> io::Result<()> {
    with_limits(stream)?;
    stream.read_exact(&mut [0])?;
    for file in files {
        let descriptors = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            unreachable!("the space is for one descriptor");
        }
        sendmsg(
            stream,
            &[IoSlice::new(&[0])],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
    }
    Ok(())
}

/// Asks for the files, and receives `count` of them.
pub(super) fn receive(mut stream: &UnixStream, count: usize) -> io::Result<Vec<File>> {
    with_limits(stream)?;
    stream.write_all(&[0])?;
    (0..count).map(|_| receive_one(stream)).collect()
}

fn receive_one(stream: &UnixStream) -> io::Result<File> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let file = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match file {
        Some(file) if received.bytes == 1 => Ok(file.into()),
        _ => Err(io::Error::new(
            ErrorKind::UnexpectedEof,
            "the guest process did not send all of the guest's files",
        )),
    }
}

fn with_limits(stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(FRAME_TIME))?;
    stream.set_write_timeout(Some(FRAME_TIME))
}

#[cfg(test)]
mod tests {
    use std::io::Seek;
    use std::thread;

    use super::*;

    fn file_with(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn content(mut file: &File) -> String {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn files_arrive_in_the_order_in_which_they_were_sent() {
        let (here, there) = UnixStream::pair().unwrap();
        let sender = thread::spawn(move || {
            let files = ["memory", "tap 0", "tap 1"].map(file_with);
            send(&here, files.iter())
        });
        let received = receive(&there, 3).unwrap();
        sender.join().unwrap().unwrap();
        let texts: Vec<_> = received.iter().map(content).collect();
        assert_eq!(texts, ["memory", "tap 0", "tap 1"]);
    }

    #[test]
    fn a_process_that_sends_too_few_files_is_found_out() {
        let (here, there) = UnixStream::pair().unwrap();
        let sender = thread::spawn(move || send(&here, [file_with("memory")].iter()));
        let error = receive(&there, 2).unwrap_err();
        sender.join().unwrap().unwrap();
        assert!(error.to_string().contains("all of the guest's files"));
    }

    #[test]
    fn bytes_without_a_descriptor_are_no_file() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(&[0]).unwrap();
        assert!(receive(&there, 1).is_err());
    }
}
