//! An HTTP/2 server of plain frames, which refuses streams and closes connections by a script.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use buttress::http::wire::GrpcCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The action of the server for one stream, in the order of the streams.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    /// Responds with trailers only.
    Answer(GrpcCode),
    /// Resets the stream with this code, when the request is complete.
    Reset(Reason),
    /// Resets the stream as `REFUSED_STREAM`, when the first bytes of the body have arrived.
    RefuseMidway,
    /// Sends a GOAWAY that excludes this stream, and then closes the connection.
    LeaveBefore,
    /// Sends a GOAWAY that includes this stream as the last one, and then closes the connection.
    LeaveAfter,
    /// Closes the connection.
    Break,
}

/// The error code of a reset.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reason {
    Internal = 2,
    Refused = 7,
    Cancel = 8,
    Calm = 11,
}

type Script = Arc<Mutex<VecDeque<Deed>>>;
/// The sizes of the request bodies that were received completely.
type Bodies = Arc<Mutex<Vec<usize>>>;

/// Serves every connection on its own port until the test ends.
pub(crate) async fn serve(script: &[Deed]) -> (SocketAddr, Bodies) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let script: Script = Arc::new(Mutex::new(script.iter().copied().collect()));
    let bodies = Bodies::default();
    let seen = Arc::clone(&bodies);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, Arc::clone(&script), Arc::clone(&seen)));
        }
    });
    (address, bodies)
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

async fn connection(mut stream: TcpStream, script: Script, bodies: Bodies) -> io::Result<()> {
    // Without this, each small write waits until the previous one is acknowledged.
    stream.set_nodelay(true)?;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    write(&mut stream, SETTINGS, 0, 0, &[]).await?;
    // This window has room for the body of a refused stream, and for the next body.
    write(&mut stream, WINDOW_UPDATE, 0, 0, &(1_u32 << 20).to_be_bytes()).await?;
    let mut received: HashMap<u32, usize> = HashMap::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        let id = u32::from_be_bytes(id);
        if kind == SETTINGS && flags & ACK == 0 {
            write(&mut stream, SETTINGS, ACK, 0, &[]).await?;
        }
        if kind == DATA {
            *received.entry(id).or_default() += payload.len();
        }
        let whole = matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0;
        if whole {
            bodies.lock().unwrap().push(received.remove(&id).unwrap_or_default());
        }
        let Some(deed) = next(&script, whole, kind == DATA) else { continue };
        match deed {
            Deed::Answer(code) => {
                write(&mut stream, HEADERS, END_STREAM | END_HEADERS, id, &head_of(code)).await?;
            }
            Deed::Reset(reason) => {
                write(&mut stream, RST_STREAM, 0, id, &(reason as u32).to_be_bytes()).await?;
            }
            Deed::RefuseMidway => {
                let refused = Reason::Refused as u32;
                write(&mut stream, RST_STREAM, 0, id, &refused.to_be_bytes()).await?;
            }
            Deed::LeaveBefore | Deed::LeaveAfter => {
                let last = if let Deed::LeaveAfter = deed { id } else { id.saturating_sub(2) };
                let payload = [last.to_be_bytes(), [0; 4]].concat();
                write(&mut stream, GOAWAY, 0, 0, &payload).await?;
                return Ok(());
            }
            Deed::Break => return Ok(()),
        }
    }
}

/// Returns the next action, or `None` while the request has not got far enough.
fn next(script: &Script, whole: bool, data: bool) -> Option<Deed> {
    let mut script = script.lock().unwrap();
    match script.front() {
        Some(Deed::RefuseMidway) if data => script.pop_front(),
        Some(Deed::RefuseMidway) => None,
        _ if !whole => None,
        Some(_) => script.pop_front(),
        None => Some(Deed::Answer(GrpcCode::Ok)),
    }
}

async fn write(
    stream: &mut TcpStream,
    kind: u8,
    flags: u8,
    id: u32,
    payload: &[u8],
) -> io::Result<()> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = Vec::from(length);
    frame.extend([kind, flags]);
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    stream.write_all(&frame).await
}

/// Returns the headers of a response, without compression.
fn head_of(code: GrpcCode) -> Vec<u8> {
    const STATUS_200: u8 = 0x88;
    let code = code.number().to_string();
    let mut block = vec![STATUS_200];
    for (name, value) in [("content-type", "application/grpc"), ("grpc-status", &code)] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}
