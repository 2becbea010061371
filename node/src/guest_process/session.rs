//! One client of a guest process: hello, then requests, until it leaves or the guest ends.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::process::{
    ConsoleKind, ExitReason, HandedTap, REQUEST_LIMITS, Request, Response, VERSIONS,
};
use godwit_vmm::guest::Heirloom;

use super::connection::{Connection, ConnectionError, Received};
use super::handover;
use super::machine::Machine;

/// Serves a client to its end.
///
/// # Errors
/// Why the client was let go.
pub(super) fn serve(stream: UnixStream, machine: &Arc<Machine>) -> Result<(), ConnectionError> {
    let mut connection = Connection::new(stream, REQUEST_LIMITS)?;
    let settled = connection.receive_hello(VERSIONS);
    // Also to who speaks no common version: that is how it learns of ours.
    if !matches!(settled, Err(ConnectionError::Closed)) {
        connection.send_hello(VERSIONS)?;
    }
    let version = *settled.as_ref().unwrap_or(&VERSIONS.newest());
    match settled.and_then(|version| requests(&mut connection, version, machine)) {
        Ok(End::Left) => Ok(()),
        Ok(End::Guest(reason)) => respond(&mut connection, version, &Response::Exited(reason)),
        Ok(End::Console(which)) => attach(connection, version, machine, which),
        Ok(End::HandOver(heirloom)) => hand_over(connection, version, &heirloom),
        Err(error) => {
            if error.code() == ErrorCode::PeerProtocol {
                // It may not even read this; what counts is the error that is there already.
                let _ = respond(&mut connection, version, &Response::Error(error.coded()));
            }
            Err(error)
        }
    }
}

/// Tells a client that there is no place for it. Never waits for it.
pub(super) fn turn_away(stream: UnixStream, places: usize) {
    let error = CodedError::new(
        ErrorCode::Other,
        format!("the guest process serves {places} clients already"),
    )
    .with_fix("close one of them");
    let told = Connection::new(stream, REQUEST_LIMITS).map_err(ConnectionError::from);
    // An empty socket takes two small frames at once.
    let told = told.and_then(|mut connection| {
        connection.send_hello(VERSIONS)?;
        respond(&mut connection, VERSIONS.newest(), &Response::Error(error))
    });
    tracing::warn!(places, told = told.is_ok(), "a client was turned away");
}

/// How the requests of a client ended.
enum End {
    /// It left.
    Left,
    /// The guest ended.
    Guest(ExitReason),
    /// The stream becomes a console's.
    Console(ConsoleKind),
    /// The stream carries the guest's files.
    HandOver(Heirloom),
}

fn requests(
    connection: &mut Connection,
    version: u16,
    machine: &Arc<Machine>,
) -> Result<End, ConnectionError> {
    loop {
        let frame = match connection.receive(Some(machine.ended()), None)? {
            Received::Frame(frame) => frame,
            Received::Closed => return Ok(End::Left),
            Received::Woken => {
                let reason = machine.exit_reason();
                return Ok(End::Guest(reason.unwrap_or(ExitReason::Stopped)));
            }
        };
        let response = match Request::from_frame(&frame)? {
            Request::AttachConsole { which } => match machine.can_attach(which) {
                Ok(()) => return Ok(End::Console(which)),
                Err(error) => Response::Error(error),
            },
            Request::HandOver => match machine.heirloom() {
                Ok(heirloom) => return Ok(End::HandOver(heirloom)),
                Err(error) => Response::Error(error),
            },
            request => machine.serve(request),
        };
        if let Response::Exited(reason) = response {
            return Ok(End::Guest(reason));
        }
        respond(connection, version, &response)?;
    }
}

fn attach(
    mut connection: Connection,
    version: u16,
    machine: &Machine,
    which: ConsoleKind,
) -> Result<(), ConnectionError> {
    respond(&mut connection, version, &Response::Ok)?;
    let (stream, rest) = connection.into_stream();
    if !rest.is_empty() {
        tracing::info!(
            bytes = rest.len(),
            "a console client sent before it was attached"
        );
        return Ok(());
    }
    if let Err(error) = machine.attach(which, stream) {
        // The guest ended just now; the closed stream says so.
        tracing::info!(%error, "a console could not be attached");
    }
    Ok(())
}

fn hand_over(
    mut connection: Connection,
    version: u16,
    heirloom: &Heirloom,
) -> Result<(), ConnectionError> {
    let taps = heirloom.taps.as_deref().unwrap_or_default();
    let response = Response::HandedOver {
        taps: taps
            .iter()
            .map(|(id, queues)| HandedTap {
                id: id.clone(),
                queues: queues.len() as u16,
            })
            .collect(),
        left_by: None,
    };
    respond(&mut connection, version, &response)?;
    let queues = taps.iter().flat_map(|(_, queues)| queues);
    let files = std::iter::once(&heirloom.memory).chain(queues);
    let (stream, _) = connection.into_stream();
    Ok(handover::send(&stream, files)?)
}

fn respond(
    connection: &mut Connection,
    version: u16,
    response: &Response,
) -> Result<(), ConnectionError> {
    connection.send(&response.to_frame(version)?)
}
